"""Stand-ins for the native side. They keep books of their own and refuse what llama.cpp could not do."""

from array import array
from collections.abc import Sequence as Items
from dataclasses import dataclass, field

from anyserve_worker.errors import NoRoom


@dataclass
class FakeMemory:
    """KV memory that knows which token each cell holds, for each sequence in the order of positions.

    `window`: the next token sees only this many before it, and those further back are forgotten as it is computed.
    `recurrent`: a state, which can be kept or copied as a whole, not cut.
    """

    n_cells: int
    window: int | None = None
    recurrent: bool = False
    sequences: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """(cell, token). A copy has the same cells."""
    forgotten: dict[int, int] = field(default_factory=dict)
    """Positions below this are gone."""
    _next_cell: int = 0

    # ---- kv_cache.Memory

    def usable_prefix(self, seq_id: int, length: int, n: int) -> int:
        assert 0 < n <= length == len(self.sequences[seq_id])
        if self.recurrent:
            return n if n == length else 0
        return n if self._sees_enough(seq_id, n) else 0

    def copy(self, source: int, target: int, n: int) -> None:
        assert target not in self.sequences
        assert self.usable_prefix(source, len(self.sequences[source]), n) == n
        self.sequences[target] = self.sequences[source][:n]
        self.forgotten[target] = self.forgotten[source]

    def truncate(self, seq_id: int, n: int) -> bool:
        tokens = self.sequences.get(seq_id, [])
        assert 0 <= n <= len(tokens)
        if n == len(tokens):
            return True
        if n > 0 and not self.recurrent:
            del tokens[n:]
            return True
        del self.sequences[seq_id], self.forgotten[seq_id]
        return n == 0

    # ---- What the model does with it

    def compute(self, seq_id: int, start: int, tokens: Items[int]) -> None:
        """`tokens` are computed behind the `start` tokens that are there. Raises NoRoom, with nothing changed."""
        cells = self.sequences.get(seq_id, [])
        assert len(cells) == start, "positions are consecutive"
        assert seq_id not in self.sequences or self._sees_enough(seq_id, start), "what attention sees is there"
        if self.n_used + len(tokens) > self.n_cells:
            raise NoRoom
        for token in tokens:
            cells.append((self._next_cell, token))
            self._next_cell += 1
        self.sequences[seq_id] = cells
        self.forgotten.setdefault(seq_id, 0)
        if self.window is not None:
            self.forgotten[seq_id] = max(self.forgotten[seq_id], len(cells) - self.window)

    def tokens(self, seq_id: int) -> "array[int]":
        return array("i", (token for _, token in self.sequences.get(seq_id, [])))

    @property
    def n_used(self) -> int:
        return len({cell for seq_id, tokens in self.sequences.items() for cell, _ in tokens[self.forgotten[seq_id] :]})

    def _sees_enough(self, seq_id: int, n: int) -> bool:
        return self.window is None or self.forgotten[seq_id] <= max(0, n - self.window)
