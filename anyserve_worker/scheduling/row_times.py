"""Predicts the duration of a decode step from its rows. PURE: times are passed in.

The time of a row depends on the device: nearly nothing on a GPU with free multiprocessors, nearly as much as the first
row on a CPU. So it is measured: the mean of the last steps, by number of rows. Between two numbers that were measured,
the time is interpolated. It never shrinks as rows are added.
"""

from bisect import insort
from dataclasses import dataclass, field

EXACT_ROWS = 32
"""Numbers of rows up to this one are measured separately, larger ones in groups that are 1/8 apart."""
DECAY = 0.8
"""Weight of the mean of all earlier steps relative to a new one."""
MAX_OUTLIER = 2.0
"""A step counts for at most this many times the mean, since a neighbour may have taken the processor."""


@dataclass(slots=True)
class RowTimes:
    _means: dict[int, tuple[float, float]] = field(default_factory=dict)
    """(rows, seconds): means by group of numbers of rows."""
    _groups: list[int] = field(default_factory=list)
    """The keys of `_means`, in order."""

    def record(self, n_rows: int, seconds: float) -> None:
        group = n_rows if n_rows <= EXACT_ROWS else _group(n_rows)
        if mean := self._means.get(group):
            seconds = min(seconds, MAX_OUTLIER * mean[1])
            self._means[group] = (
                DECAY * mean[0] + (1 - DECAY) * n_rows,
                DECAY * mean[1] + (1 - DECAY) * seconds,
            )
        else:
            self._means[group] = n_rows, seconds
            insort(self._groups, group)

    def knows(self, n_rows: int) -> bool:
        """Returns whether steps with this many rows or more have been measured."""
        return bool(self._groups) and n_rows <= self._groups[-1]

    def seconds(self, n_rows: int) -> float:
        """Returns the predicted duration: 0 if no step was measured. Beyond the largest step, each row costs the mean
        of its rows."""
        before_n, before = 0.0, 0.0
        for n, seconds in self._curve():
            if n >= n_rows:
                if not before_n:
                    return seconds
                return before + (seconds - before) * (n_rows - before_n) / (n - before_n)
            before_n, before = n, seconds
        return before * n_rows / before_n if before_n else 0.0

    def max_rows(self, seconds: float) -> int:
        """Returns the largest number of rows whose predicted duration is at most `seconds`: one more than measured if
        every measured step was shorter, 0 if none was."""
        before_n, before = 0.0, 0.0
        for n, value in self._curve():
            if value > seconds:
                if not before_n:
                    return 0
                return int(before_n + (n - before_n) * (seconds - before) / (value - before))
            before_n, before = n, value
        return int(before_n) + 1

    def _curve(self) -> list[tuple[float, float]]:
        longest, curve = 0.0, []
        for group in self._groups:
            n, seconds = self._means[group]
            longest = max(longest, seconds)
            curve.append((n, longest))
        return curve


def _group(n_rows: int) -> int:
    """Returns the largest number with three significant bits up to `n_rows`."""
    shift = n_rows.bit_length() - 4
    return n_rows >> shift << shift
