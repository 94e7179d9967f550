"""A queue of guides to compile that is fair between callers. PURE.

The caller served least recently is next. A caller that starts to wait goes before the caller served last, but behind
all others, so that no caller starves others by returning again and again.
"""

from collections import deque
from typing import Generic, TypeVar

J = TypeVar("J")


class GuideQueue(Generic[J]):
    """Waiting jobs. A job may wait for several callers; the first of them to have its turn takes it for all."""

    def __init__(self, n_levels: int, max_jobs: int, max_jobs_per_caller: int) -> None:
        """A caller's jobs on lower levels go first. `max_jobs` and `max_jobs_per_caller` limit the highest level,
        where a job counts once per waiting caller."""
        self._n_levels = n_levels
        self._max_jobs = max_jobs
        self._max_jobs_per_caller = max_jobs_per_caller
        self._levels: dict[str, tuple[deque[J], ...]] = {}
        """Jobs by caller and level. A caller without jobs is absent."""
        self._turns: dict[str, int] = {}
        self._last_turn = 0
        self._n_waiting = 0

    def __len__(self) -> int:
        return self._n_waiting

    def add(self, job: J, caller: str, level: int = 0) -> bool:
        """Returns False if the highest level, or the caller's share of it, is full."""
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
        """Removes and returns the next job; None if the queue is empty."""
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
        """Removes the job for this caller, if it waits."""
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
