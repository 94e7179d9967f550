"""Which sequences own which KV cells, and which prefixes can be used again. PURE.

The model has `n_cells` KV cells, one a token, in one pool, and `n_sequences` llama sequence ids that refer to them. A
sequence id belongs to a running sequence, or to a finished one whose cells are kept as a cached prefix, or is free.
Sequences that share a prefix share its cells: a cell is free when the last of them lets go. Cached prefixes are
evicted, the least recently used first, when cells or sequence ids run short.

They are evicted too when they have not been used for long enough: `IdleLimit`.

A prefix is known by what its cells depend on: its token ids, and its `PrefixKey`. Equal tokens under another adapter,
or behind another image, are another prefix.

What can be done with the cells depends on the model: `Memory`.
"""

from array import array
from dataclasses import dataclass, field
from typing import Protocol

from anyserve_worker.core.prefix_key import PrefixKey
from anyserve_worker.scheduling.idle_limit import IdleLimit
from anyserve_worker.scheduling.prefix import shared_prefix


class Memory(Protocol):
    """The model's KV memory. Positions are those of the tokens in their sequence."""

    def usable_prefix(self, seq_id: int, length: int, n: int) -> int:
        """How many of the first `n` tokens of a sequence of `length` can be used again: `n`, fewer, or 0.

        The sequence can then be cut back to so many, or copied. Memory that cannot be cut (recurrent) gives all or
        nothing; a sliding window, nothing once it has moved on. `length` may be more than is computed: then the
        question is what there is hope for.
        """

    def copy(self, source: int, target: int, n: int) -> None:
        """Makes the first `n` tokens of `source` the content of `target`, which is empty."""

    def truncate(self, seq_id: int, n: int) -> bool:
        """Forgets all but the first `n` tokens. False if this memory can only forget all of them, and did."""


@dataclass(slots=True)
class _Entry:
    tokens: "array[int]"
    """The sequence's own array while it runs, which grows."""
    key: PrefixKey
    cells: list[int]
    """Taken for `tokens[:len(cells)]`; reserved ahead of the computation."""
    n_computed: int
    running: bool
    last_used: int
    """Counts up with every release: the smallest is the least recently used."""
    used_at: int = 0
    """`KVCache._generated` at the last use."""


@dataclass(slots=True)
class KVCache:
    memory: Memory
    n_cells: int
    n_sequences: int
    reuse: bool = True
    """False: every sequence is computed from its start, and nothing is kept of it."""
    _free_cells: list[int] = field(init=False)
    _owners: list[int] = field(init=False)
    """How many entries share each cell."""
    _runners: list[int] = field(init=False)
    """How many running entries share each cell."""
    _n_held: int = field(init=False, default=0)
    """Cells of running entries: those that no eviction can free."""
    _free_ids: list[int] = field(init=False)
    _entries: dict[int, _Entry] = field(init=False, default_factory=dict)
    _uses: int = field(init=False, default=0)
    _generated: int = field(init=False, default=0)
    _idle_limit: IdleLimit = field(init=False, default_factory=IdleLimit)

    def __post_init__(self) -> None:
        self._free_cells = list(range(self.n_cells))
        self._owners = [0] * self.n_cells
        self._runners = [0] * self.n_cells
        self._free_ids = list(range(self.n_sequences))

    # ---- What there is

    @property
    def n_free_cells(self) -> int:
        return len(self._free_cells)

    @property
    def n_cached_sequences(self) -> int:
        return sum(not entry.running for entry in self._entries.values())

    def n_cells_of(self, seq_id: int) -> int:
        """Cells of a sequence, those that it shares included."""
        return len(self._entries[seq_id].cells)

    def promised_prefix(self, tokens: "array[int]", key: PrefixKey) -> tuple[int, int]:
        """(sequence id, length) of the longest prefix of `tokens` that a running sequence has yet to compute to its
        end; (-1, 0) if there is none.

        Only one that can be used again then: a state that cannot be cut will have moved on.
        """
        best = (-1, 0)
        for seq_id, entry in self._entries.items() if self.reuse else ():
            if entry.running:
                n = min(shared_prefix(entry.tokens, entry.key, tokens, key), len(tokens) - 1)
                if n > max(best[1], entry.n_computed):
                    n = self.memory.usable_prefix(seq_id, len(entry.tokens), n)
                    if n > best[1]:
                        best = (seq_id, n)
        return best

    def best_prefix(self, tokens: "array[int]", key: PrefixKey) -> tuple[int, int]:
        """(sequence id, length) of the longest prefix that can be used again; (-1, 0) if there is none.

        The last token is never part of it: it has to be computed for its logits.
        """
        best = (-1, 0)
        for seq_id, entry in self._entries.items() if self.reuse else ():
            n = min(shared_prefix(entry.tokens, entry.key, tokens, key), entry.n_computed, len(tokens) - 1)
            if n > best[1]:
                n = self.memory.usable_prefix(seq_id, entry.n_computed, n)
                if n > best[1]:
                    best = (seq_id, n)
        return best

    # ---- Taking and giving back

    def acquire(
        self, tokens: "array[int]", key: PrefixKey, *, reuse: bool = True, reserve: int = 0
    ) -> tuple[int, int] | None:
        """Gives a new running sequence an id and cells for all of `tokens`, using again what it can, unless not to.

        Returns (sequence id, tokens that are already computed), or None if the running sequences leave no room, or
        fewer than `reserve` cells would be left for others. The array is kept: it may grow, but its prefix must not
        change while the sequence has the id.
        """
        source, n = self.best_prefix(tokens, key) if reuse else (-1, 0)
        if reuse:
            self._idle_limit.record_use(tokens, key, n)
        if not self._make_room(len(tokens) - n, spare=source, keep=n, reserve=reserve):
            return None
        taken = self._take_over(source, n) if self._may_take_over(source, n) else self._fork(source, n)
        if taken is None:
            return None
        seq_id, cells = taken
        self._entries[seq_id] = _Entry(tokens, key, cells, n, running=True, last_used=self._uses)
        self._hold(cells)
        self._take_cells(cells, len(tokens) - n)
        return seq_id, n

    def grow(self, seq_id: int, n: int, reserve: int = 0) -> bool:
        """Sees to it that a running sequence has cells for `n` tokens. False if there is no room, or fewer than
        `reserve` cells would be left for others."""
        cells = self._entries[seq_id].cells
        missing = n - len(cells)
        if missing > 0:
            if not self._make_room(missing, reserve=reserve):
                return False
            self._take_cells(cells, missing)
        return True

    def accept(self, seq_id: int, n: int) -> None:
        """A draft was computed in free cells, which nothing has taken since: now the cells of `n` tokens are taken, and
        what the memory has beyond them is forgotten."""
        self.grow(seq_id, n)
        self.memory.truncate(seq_id, n)

    def commit(self, seq_id: int, n_computed: int) -> None:
        """The cells of the first `n_computed` tokens are now filled, and others may use them."""
        self._entries[seq_id].n_computed = n_computed

    def pass_time(self, n_generated: int) -> None:
        """A step has generated so many tokens, at the cost of passing over all cells. Evicts what is of no use."""
        self._generated += n_generated
        oldest = self._generated - self._idle_limit.tokens
        for seq_id in [k for k, entry in self._entries.items() if not entry.running and entry.used_at < oldest]:
            idle = self._entries[seq_id]
            self._idle_limit.record_eviction(idle.tokens, idle.key)
            self._drop(seq_id)

    def release(self, seq_id: int) -> None:
        """The sequence is no longer running; what it computed becomes a cached prefix."""
        entry = self._entries[seq_id]
        # Of an accepted draft more may be computed than the sequence has: it may have ended inside.
        entry.n_computed = min(entry.n_computed, len(entry.tokens))
        if not self.reuse or entry.n_computed == 0 or not self.memory.truncate(seq_id, entry.n_computed):
            self._drop(seq_id)
            return
        self._let_go(entry)
        self._free(entry.cells[entry.n_computed :])
        del entry.cells[entry.n_computed :]
        entry.tokens = entry.tokens[: entry.n_computed]
        self._touch(entry)

    def evict_all(self) -> int:
        """Drops every cached prefix; returns how many there were."""
        cached = [seq_id for seq_id, entry in self._entries.items() if not entry.running]
        for seq_id in cached:
            self._drop(seq_id)
        return len(cached)

    def clear(self) -> None:
        """Drops everything, running sequences included."""
        for seq_id in list(self._entries):
            self._drop(seq_id)

    # ---- Inside

    def _touch(self, entry: _Entry) -> None:
        self._uses += 1
        entry.last_used, entry.used_at = self._uses, self._generated

    def _may_take_over(self, source: int, n: int) -> bool:
        """A cached prefix that is used whole goes over to its user; one that is needed again stays."""
        if source < 0 or self._entries[source].running:
            return False
        return n == self._entries[source].n_computed or not (self._free_ids or self._lru(spare=source) is not None)

    def _take_over(self, source: int, n: int) -> tuple[int, list[int]]:
        self._cut(source, n)
        return source, self._entries.pop(source).cells

    def _fork(self, source: int, n: int) -> tuple[int, list[int]] | None:
        if not self._free_ids:
            victim = self._lru(spare=source)
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

    def _lru(self, spare: int = -1) -> int | None:
        cached = [
            (entry.last_used, seq_id)
            for seq_id, entry in self._entries.items()
            if not entry.running and seq_id != spare
        ]
        return min(cached)[1] if cached else None

    def _make_room(self, n: int, spare: int = -1, keep: int = 0, reserve: int = 0) -> bool:
        """Evicts cached prefixes until `n` cells are free; none if fewer than `reserve` could be freed after that.

        Of `spare` the first `keep` tokens stay; it is cut back to them when everything else is gone.
        """
        if len(self._free_cells) < n + reserve and self._n_available(spare, keep) < n + reserve:
            return False
        while len(self._free_cells) < n:
            victim = self._lru(spare)
            if victim is None:
                self._cut(spare, keep)
                break
            self._drop(victim)
        return True

    def _n_available(self, spare: int, keep: int) -> int:
        """Cells that are free, or that only cached prefixes hold, but for the first `keep` of `spare`."""
        kept = self._entries[spare].cells[:keep] if spare >= 0 else ()
        return self.n_cells - self._n_held - sum(self._runners[cell] == 0 for cell in kept)

    def _cut(self, seq_id: int, n: int) -> None:
        """Cuts a cached prefix back to its first `n` tokens, which the memory can use."""
        entry = self._entries[seq_id]
        if n < entry.n_computed:
            self.memory.truncate(seq_id, n)
            self._free(entry.cells[n:])
            del entry.cells[n:], entry.tokens[n:]
            entry.n_computed = n

    def _take_cells(self, cells: list[int], n: int) -> None:
        """For a running entry."""
        self._n_held += n
        for _ in range(n):
            cell = self._free_cells.pop()
            self._owners[cell] = self._runners[cell] = 1
            cells.append(cell)

    def _hold(self, cells: list[int]) -> None:
        """A running entry uses these cells, which others may hold or have cached."""
        for cell in cells:
            self._n_held += self._runners[cell] == 0
            self._runners[cell] += 1

    def _let_go(self, entry: _Entry) -> None:
        """The entry runs no more."""
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
