"""The load that backends report. PURE."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BackendLoad:
    """The load of one backend, or of several together."""

    waiting: int = 0
    """Sequences that wait for a slot in the batch."""
    running: int = 0
    """Sequences in the batch."""
    kv_cells: int = 0
    """KV cells in total; each holds one token."""
    kv_cells_running: int = 0
    """KV cells of running sequences. Cells that only cached prefixes use are free to be taken, and don't count."""

    @property
    def kv_usage(self) -> float | None:
        """Fraction of the KV cells that running sequences use, 0…1; None without cells."""
        return self.kv_cells_running / self.kv_cells if self.kv_cells else None


def total(loads: Iterable[BackendLoad]) -> BackendLoad:
    """The load of several backends together."""
    loads = list(loads)
    return BackendLoad(
        sum(load.waiting for load in loads),
        sum(load.running for load in loads),
        sum(load.kv_cells for load in loads),
        sum(load.kv_cells_running for load in loads),
    )
