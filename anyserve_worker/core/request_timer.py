"""Measures the prompt and the generation of a request that wants their times or its progress. PURE.

Times are passed in, in nanoseconds of any clock.
"""

from typing import NamedTuple


class Times(NamedTuple):
    prompt_ms: float
    """From the start of the first step to the first token of the request."""
    completion_ms: float
    """From then to its last token so far."""


class Progress(NamedTuple):
    n_tokens: int
    """Tokens of the prompt that are computed or cached."""
    ms: float
    """Since the start of the first step."""


class RequestTimer:
    """Shared by the choices of a request. `times`, `progress`: what the request wants."""

    def __init__(self, *, times: bool, progress: bool) -> None:
        self._wants_times = times
        self._wants_progress = progress
        self._started_ns = 0
        self._first_ns = 0
        self._last_ns = 0
        self._n_reported = -1
        """Tokens in the last progress; -1 before the first."""

    def start(self, now: int) -> None:
        """Must be called with the start of the request's first step."""
        self._started_ns = now

    def end_step(self, now: int, *, samples: bool) -> None:
        """Must be called after each step with a choice of the request. `samples`: a token was sampled in it."""
        if samples:
            self._first_ns = self._first_ns or now
            self._last_ns = now

    @property
    def times(self) -> Times | None:
        """None if the request doesn't want them, or no token has been sampled."""
        if not self._wants_times or not self._first_ns:
            return None
        return Times(_ms(self._first_ns - self._started_ns), _ms(self._last_ns - self._first_ns))

    def progress(self, now: int, n_cached: int, n_computed: int) -> tuple[Progress, ...]:
        """Returns the progress since the last call, from `n_cached` at the start. Empty if the request doesn't want it,
        or if there is none: a prompt may be computed again for lack of KV cells."""
        if not self._wants_progress or n_computed <= self._n_reported:
            return ()
        first = () if self._n_reported >= 0 else (Progress(n_cached, 0.0),)
        self._n_reported = n_computed
        return (*first, Progress(n_computed, _ms(now - self._started_ns)))


def _ms(ns: int) -> float:
    return ns / 1e6
