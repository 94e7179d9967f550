"""What the engine counts, for Triton's ModelStatistics and for metrics. PURE.

A step adds to it a few times, which takes about a microsecond; readers take it as it is.
"""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Durations:
    """Triton's StatisticDuration."""

    count: int = 0
    ns: int = 0
    """Nanoseconds, all of them together."""

    def add(self, ns: int) -> None:
        self.count += 1
        self.ns += ns


class Histogram:
    """How many values were at most each of `bounds`, and more than the one before."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


def _powers(low: float, n: int) -> tuple[float, ...]:
    return tuple(low * 2**k for k in range(n))


@dataclass(slots=True)
class EngineStats:
    """Written by the engine's thread. Durations: `success`, `failure` whole requests, `queue` until first computed."""

    success: Durations = field(default_factory=Durations)
    failure: Durations = field(default_factory=Durations)
    queue: Durations = field(default_factory=Durations)
    steps: Durations = field(default_factory=Durations)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    """Drafted tokens that turned out right."""
    last_request_ms: int = 0
    """Unix time at which the last request came."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """How requests have ended: a finish_reason, `embedded`, `cancelled`, or the status of their error."""
    requests_refused: int = 0
    """Because the queue was full, or that of guides; counted on the event loop."""
    guide_trials: int = 0
    """Attempts to compile a guide; counted on the event loop."""

    # Of generation, in seconds.
    queue_seconds: Histogram = field(default_factory=lambda: Histogram(_powers(0.001, 16)))
    prefill_seconds: Histogram = field(default_factory=lambda: Histogram(_powers(0.001, 16)))
    """From the first step of a request to its first text."""
    request_seconds: Histogram = field(default_factory=lambda: Histogram(_powers(0.01, 15)))
    step_seconds: Histogram = field(default_factory=lambda: Histogram(_powers(0.001, 13)))
    step_tokens: Histogram = field(default_factory=lambda: Histogram(_powers(1, 14)))
    """Tokens of prompts, drafts and generation together."""
    step_sequences: Histogram = field(default_factory=lambda: Histogram(_powers(1, 9)))
