"""Guides that wait to be compiled, fair between callers. PURE.

The caller that was served least recently is next. A caller that begins to wait goes before the one served last alone,
so that none can starve the others by coming back again and again.
"""

from collections import deque
from typing import Generic, TypeVar

J = TypeVar("J")


class GuideQueue(Generic[J]):
    """Jobs that wait. One job may wait for several callers; the first whose turn it is takes it for all of them."""

    def __init__(self, n_levels: int, max_jobs: int, max_jobs_per_caller: int) -> None:
        """A caller's jobs on a lower level go first. `max_jobs` and `max_jobs_per_caller` limit the highest level,
        where a job counts once for each caller that waits for it."""
        self._n_levels = n_levels
        self._max_jobs = max_jobs
        self._max_jobs_per_caller = max_jobs_per_caller
        self._levels: dict[str, tuple[deque[J], ...]] = {}
        """Jobs by caller and level. A caller for which nothing waits is absent."""
        self._turns: dict[str, int] = {}
        self._last_turn = 0
        self._n_waiting = 0

    def __len__(self) -> int:
        return self._n_waiting

    def add(self, job: J, caller: str, level: int = 0) -> bool:
        """False if the highest level or the caller's part of it is full."""
        levels = self._levels.get(caller)
        if level == self._n_levels - 1:
            n_of_caller = len(levels[-1]) if levels else 0
            n_of_all = sum(len(levels[-1]) for levels in self._levels.values())
            if n_of_all >= self._max_jobs or n_of_caller >= self._max_jobs_per_caller:
                return False
        if levels is None:
            levels = self._levels[caller] = tuple(deque() for _ in range(self._n_levels))
            self._turns[caller] = self._last_turn - 1
        levels[level].append(job)
        self._n_waiting += 1
        return True

    def take(self) -> J | None:
        """The next job, None if there is none."""
        if not self._levels:
            return None
        caller = min(self._levels, key=self._turns.__getitem__)
        self._last_turn += 2
        self._turns[caller] = self._last_turn
        job = next(jobs[0] for jobs in self._levels[caller] if jobs)
        for waiting in list(self._levels):
            self.discard(job, waiting)
        return job

    def discard(self, job: J, caller: str) -> None:
        """The caller no longer waits for the job, if it did."""
        levels = self._levels.get(caller, ())
        for jobs in levels:
            if job in jobs:
                jobs.remove(job)
                self._n_waiting -= 1
        if levels and not any(levels):
            del self._levels[caller], self._turns[caller]

    def clear(self) -> None:
        self._levels.clear()
        self._turns.clear()
        self._n_waiting = 0
