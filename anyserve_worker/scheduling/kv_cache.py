"""Assigns KV cells to sequences, and finds prefixes to reuse. PURE.

The model has one pool of `n_cells` KV cells, one per token, and `n_sequences` llama.cpp sequence ids that refer to
them. A sequence id belongs to a running sequence, or to a finished one whose cells are kept as a cached prefix, or is
free. Sequences that share a prefix share its cells: a cell becomes free when the last of them releases it. Cached
prefixes are evicted, the least recently used first, when cells or sequence ids run short, and when they have been
unused for too long (`IdleLimit`).

Background sequences (those of a tier above 0, see `tiers.py`) spare the prefixes of tier 0. Prefixes of the highest
tier are evicted first. A background sequence evicts those of tier 0 only while all of its kind have less than half of
the cells and sequence ids, or if it is the only one that runs. Its tokens make them age BACKGROUND_AGE times slower,
and it forks them instead of taking them over.

A prefix is identified by everything that its cells depend on: its token ids and its `PrefixKey`. Equal tokens under
another adapter, or after another image, are another prefix.

`Memory` defines the operations on cells, which depend on the model.
"""

from array import array
from dataclasses import dataclass, field
from typing import Protocol

from anyserve_worker.core.prefix_key import PrefixKey
from anyserve_worker.scheduling.idle_limit import IdleLimit
from anyserve_worker.scheduling.prefix import shared_prefix

BACKGROUND_AGE = 32
"""Tokens of background sequences that make the prefixes of tier 0 age by one token."""


class Memory(Protocol):
    """The model's KV memory. Positions count the tokens of their sequence."""

    def usable_prefix(self, seq_id: int, length: int, n: int) -> int:
        """Returns how many of the first `n` tokens of a sequence of `length` tokens can be reused: `n`, fewer, or 0.

        The sequence can then be truncated to that many, or copied. Memory that can't be truncated (recurrent) allows
        all or nothing; a sliding window allows nothing once it has moved on. If `length` exceeds the computed tokens,
        the result is what will be possible when they are computed.
        """

    def copy(self, source: int, target: int, n: int) -> None:
        """Copies the first `n` tokens of `source` to `target`, which is empty."""

    def truncate(self, seq_id: int, n: int) -> bool:
        """Drops all but the first `n` tokens. Returns False if the memory had to drop all of them instead."""


@dataclass(slots=True)
class _Entry:
    tokens: "array[int]"
    """The sequence's own array while it runs. It grows."""
    key: PrefixKey
    cells: list[int]
    """Cells of `tokens[:len(cells)]`, reserved before they are computed."""
    n_computed: int
    running: bool
    last_used: int
    """`KVCache._uses` at the last use: the smallest is the least recently used."""
    used_at: float = 0
    """The entry's clock in `KVCache._clocks` at the last use."""
    tier: int = 0
    """0, or a greater number for background work."""


@dataclass(slots=True)
class KVCache:
    memory: Memory
    n_cells: int
    n_sequences: int
    reuse: bool = True
    """False: every sequence is computed from its start, and its cells are dropped at its end."""
    _free_cells: list[int] = field(init=False)
    _owners: list[int] = field(init=False)
    """Number of entries that share each cell."""
    _runners: list[int] = field(init=False)
    """Number of running entries that share each cell."""
    _n_held: int = field(init=False, default=0)
    """Cells of running entries, which eviction can't free."""
    _free_ids: list[int] = field(init=False)
    _entries: dict[int, _Entry] = field(init=False, default_factory=dict)
    _uses: int = field(init=False, default=0)
    _clocks: list[float] = field(init=False, default_factory=lambda: [0.0, 0.0])
    """Generated tokens that make prefixes age: those of tier 0, and those of the tiers above."""
    _idle_limits: tuple[IdleLimit, IdleLimit] = field(init=False, default_factory=lambda: (IdleLimit(), IdleLimit()))

    def __post_init__(self) -> None:
        self._free_cells = list(range(self.n_cells))
        self._owners = [0] * self.n_cells
        self._runners = [0] * self.n_cells
        self._free_ids = list(range(self.n_sequences))

    # ---- State

    @property
    def n_free_cells(self) -> int:
        return len(self._free_cells)

    @property
    def n_running_cells(self) -> int:
        """Cells of running sequences, each counted once."""
        return self._n_held

    @property
    def n_cached_sequences(self) -> int:
        return sum(not entry.running for entry in self._entries.values())

    def n_cells_of(self, seq_id: int) -> int:
        """Returns the number of cells of a sequence, including shared ones."""
        return len(self._entries[seq_id].cells)

    def promised_prefix(self, tokens: "array[int]", key: PrefixKey, *, tier: int = 0) -> tuple[int, int]:
        """Returns (sequence id, length) of the longest prefix of `tokens` that a running sequence is still computing.

        Returns (-1, 0) if there is none. The prefix must be reusable when it is computed: a memory that can't be
        truncated will have moved on by then. Only sequences of the same tier count.
        """
        best = (-1, 0)
        for seq_id, entry in self._entries.items() if self.reuse else ():
            if entry.running and entry.tier == tier:
                n = min(shared_prefix(entry.tokens, entry.key, tokens, key), len(tokens) - 1)
                if n > max(best[1], entry.n_computed):
                    n = self.memory.usable_prefix(seq_id, len(entry.tokens), n)
                    if n > best[1]:
                        best = (seq_id, n)
        return best

    def best_prefix(self, tokens: "array[int]", key: PrefixKey) -> tuple[int, int]:
        """Returns (sequence id, length) of the longest reusable prefix; (-1, 0) if there is none.

        The last token is never part of it, since its logits have to be computed.
        """
        best = (-1, 0)
        for seq_id, entry in self._entries.items() if self.reuse else ():
            n = min(shared_prefix(entry.tokens, entry.key, tokens, key), entry.n_computed, len(tokens) - 1)
            if n > best[1]:
                n = self.memory.usable_prefix(seq_id, entry.n_computed, n)
                if n > best[1]:
                    best = (seq_id, n)
        return best

    # ---- Acquiring and releasing cells

    def acquire(
        self,
        tokens: "array[int]",
        key: PrefixKey,
        *,
        reuse: bool = True,
        reserve: int = 0,
        tier: int = 0,
    ) -> tuple[int, int] | None:
        """Assigns a sequence id and cells for `tokens` to a new running sequence. `reuse`: with a cached prefix.

        Returns (sequence id, computed tokens), or None if the running sequences leave no room, or fewer than `reserve`
        cells would be left for others. The cache keeps the array: it may grow, but its prefix must not change while the
        sequence has the id.
        """
        source, n = self.best_prefix(tokens, key) if reuse else (-1, 0)
        if reuse:
            self._idle_limits[tier > 0].record_use(tokens, key, n)
        if not self._make_room(len(tokens) - n, spare=source, keep=n, reserve=reserve, tier=tier):
            return None
        takes_over = self._may_take_over(source, n, tier)
        assigned = self._take_over(source, n) if takes_over else self._fork(source, n, tier)
        if assigned is None:
            return None
        seq_id, cells = assigned
        self._entries[seq_id] = _Entry(tokens, key, cells, n, running=True, last_used=self._uses, tier=tier)
        self._hold(cells)
        self._take_cells(cells, len(tokens) - n)
        return seq_id, n

    def grow(self, seq_id: int, n: int, reserve: int = 0) -> bool:
        """Ensures that a running sequence has cells for `n` tokens.

        Returns False if there is no room, or fewer than `reserve` cells would be left for others.
        """
        entry = self._entries[seq_id]
        cells = entry.cells
        missing = n - len(cells)
        if missing > 0:
            if not self._make_room(missing, reserve=reserve, tier=entry.tier):
                return False
            self._take_cells(cells, missing)
        return True

    def accept(self, seq_id: int, n: int) -> None:
        """Keeps the first `n` tokens after a draft, and drops the rest.

        The draft was computed in free cells, which are still free: now those of accepted tokens are taken.
        """
        self.grow(seq_id, n)
        self.memory.truncate(seq_id, n)

    def commit(self, seq_id: int, n_computed: int) -> None:
        """Records that the cells of the first `n_computed` tokens are filled. Other sequences may reuse them."""
        self._entries[seq_id].n_computed = n_computed

    def pass_time(self, n_generated: int, *, tier: int = 0) -> None:
        """Records the tokens that a step has generated, and evicts prefixes that have been idle for too long."""
        clocks, limits = self._clocks, self._idle_limits
        clocks[False] += n_generated / BACKGROUND_AGE if tier else n_generated
        clocks[True] += n_generated
        oldest = clocks[False] - limits[False].tokens, clocks[True] - limits[True].tokens
        entries = self._entries.items()
        for seq_id in [k for k, entry in entries if not entry.running and entry.used_at < oldest[entry.tier > 0]]:
            idle = self._entries[seq_id]
            limits[idle.tier > 0].record_eviction(idle.tokens, idle.key)
            self._drop(seq_id)

    def release(self, seq_id: int) -> None:
        """Ends a running sequence. Its computed tokens become a cached prefix."""
        entry = self._entries[seq_id]
        # More tokens than the sequence has may be computed, if it ended inside an accepted draft.
        entry.n_computed = min(entry.n_computed, len(entry.tokens))
        if not self.reuse or entry.n_computed == 0 or not self.memory.truncate(seq_id, entry.n_computed):
            self._drop(seq_id)
            return
        self._let_go(entry)
        self._free(entry.cells[entry.n_computed :])
        del entry.cells[entry.n_computed :]
        entry.tokens = entry.tokens[: entry.n_computed]
        self._touch(entry)

    def evict_all(self, *, tier: int = 0) -> int:
        """Drops all cached prefixes of `tier` and above, and returns their number."""
        cached = [seq_id for seq_id, entry in self._entries.items() if not entry.running and entry.tier >= tier]
        for seq_id in cached:
            self._drop(seq_id)
        return len(cached)

    def clear(self) -> None:
        """Drops all entries, including those of running sequences."""
        for seq_id in list(self._entries):
            self._drop(seq_id)

    # ---- Inside

    def _touch(self, entry: _Entry) -> None:
        self._uses += 1
        entry.last_used, entry.used_at = self._uses, self._clocks[entry.tier > 0]

    def _may_take_over(self, source: int, n: int, tier: int) -> bool:
        """Returns whether a new sequence takes over the cached prefix instead of forking it.

        It does if it uses the whole prefix, or if no other sequence id is free or can be freed.
        """
        if source < 0 or self._entries[source].running:
            return False
        spares = tier > 0 and self._entries[source].tier == 0
        if spares and not self._may_evict_tier_0():
            return False
        if n == self._entries[source].n_computed and not spares:
            return True
        return not self._free_ids and self._lru(source, tier) is None

    def _take_over(self, source: int, n: int) -> tuple[int, list[int]]:
        self._cut(source, n)
        return source, self._entries.pop(source).cells

    def _fork(self, source: int, n: int, tier: int) -> tuple[int, list[int]] | None:
        if not self._free_ids:
            victim = self._lru(source, tier)
            if victim is None:
                return None
            self._drop(victim)
        seq_id = self._free_ids.pop()
        if source < 0:
            return seq_id, []
        self.memory.copy(source, seq_id, n)
        self._touch(self._entries[source])
        cells = self._entries[source].cells[:n]
        for cell in cells:
            self._owners[cell] += 1
        return seq_id, cells

    def _lru(self, spare: int, tier: int) -> int | None:
        """Returns the prefix that a sequence of `tier` evicts, of the highest tier first. None: there is none."""
        cached = [
            (-entry.tier, entry.last_used, seq_id)
            for seq_id, entry in self._entries.items()
            if not entry.running and seq_id != spare
        ]
        if not cached:
            return None
        negative_tier, _, victim = min(cached)
        return None if tier and not negative_tier and not self._may_evict_tier_0() else victim

    def _may_evict_tier_0(self) -> bool:
        """Returns whether a background sequence may evict prefixes of tier 0."""
        entries = [entry for entry in self._entries.values() if entry.tier]
        n_cells = sum(len(entry.cells) for entry in entries)
        few = 2 * n_cells < self.n_cells and 2 * len(entries) < self.n_sequences
        return few or sum(entry.running for entry in entries) <= 1

    def _make_room(self, n: int, spare: int = -1, keep: int = 0, reserve: int = 0, *, tier: int = 0) -> bool:
        """Evicts cached prefixes until `n` cells are free. Returns False if that isn't possible, or if `reserve` more
        can't be; the latter evicts none.

        The first `keep` tokens of `spare` stay; its others are dropped after everything else.
        """
        if len(self._free_cells) < n + reserve and self._n_available(spare, keep) < n + reserve:
            return False
        while len(self._free_cells) < n:
            victim = self._lru(spare, tier)
            if victim is None:
                if spare < 0:
                    return False
                if tier and not self._entries[spare].tier and not self._may_evict_tier_0():
                    return False
                self._cut(spare, keep)
                break
            self._drop(victim)
        return len(self._free_cells) >= n

    def _n_available(self, spare: int, keep: int) -> int:
        """Returns the cells that are free or held by cached prefixes only, without the first `keep` of `spare`."""
        kept = self._entries[spare].cells[:keep] if spare >= 0 else ()
        return self.n_cells - self._n_held - sum(self._runners[cell] == 0 for cell in kept)

    def _cut(self, seq_id: int, n: int) -> None:
        """Truncates a cached prefix to its first `n` tokens, which the memory can reuse."""
        entry = self._entries[seq_id]
        if n < entry.n_computed:
            self.memory.truncate(seq_id, n)
            self._free(entry.cells[n:])
            del entry.cells[n:], entry.tokens[n:]
            entry.n_computed = n

    def _take_cells(self, cells: list[int], n: int) -> None:
        """Takes `n` free cells for a running entry."""
        self._n_held += n
        for _ in range(n):
            cell = self._free_cells.pop()
            self._owners[cell] = self._runners[cell] = 1
            cells.append(cell)

    def _hold(self, cells: list[int]) -> None:
        """Adds a running entry to these cells, which others may hold or have cached."""
        for cell in cells:
            self._n_held += self._runners[cell] == 0
            self._runners[cell] += 1

    def _let_go(self, entry: _Entry) -> None:
        """Marks an entry as no longer running."""
        entry.running = False
        for cell in entry.cells:
            self._runners[cell] -= 1
            self._n_held -= self._runners[cell] == 0

    def _free(self, cells: list[int]) -> None:
        for cell in cells:
            self._owners[cell] -= 1
            if self._owners[cell] == 0:
                self._free_cells.append(cell)

    def _drop(self, seq_id: int) -> None:
        entry = self._entries.pop(seq_id)
        if entry.running:
            self._let_go(entry)
        self.memory.truncate(seq_id, 0)
        self._free(entry.cells)
        self._free_ids.append(seq_id)
