"""How much one answer of the store has. PURE."""

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Sized(Protocol):
    @property
    def n_bytes(self) -> int: ...


S = TypeVar("S", bound=Sized)


def fitting(rows: Sequence[S], max_bytes: int) -> Sequence[S]:
    """The first rows that have at most `max_bytes` together, at least one if there is one."""
    n_bytes = 0
    for n, row in enumerate(rows):
        n_bytes += row.n_bytes
        if n and n_bytes > max_bytes:
            return rows[:n]
    return rows
