"""Counters of the engine, for Triton's ModelStatistics and for metrics. PURE.

A step updates a few of them, which takes about a microsecond. Readers use no lock.
"""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Durations:
    """Triton's StatisticDuration."""

    count: int = 0
    ns: int = 0
    """Sum of the durations, in nanoseconds."""

    def add(self, ns: int) -> None:
        self.count += 1
        self.ns += ns


class Histogram:
    """`counts[i]`: number of values up to `bounds[i]` and above the bound before it. The last has no upper bound."""

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


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """The load of an engine at one moment."""

    n_waiting: int
    """Sequences that wait: for a slot in the batch, for their guide, or to be embedded."""
    n_running: int
    """Sequences in the batch, and prompts that are being embedded."""
    n_cells: int
    """KV cells in total."""
    n_running_cells: int
    """KV cells of running sequences."""


@dataclass(slots=True)
class RequestStats:
    """Counters of requests. `success` and `failure`: whole requests; `queue`: time before the first step."""

    success: Durations = field(default_factory=Durations)
    failure: Durations = field(default_factory=Durations)
    queue: Durations = field(default_factory=Durations)
    last_request_ms: int = 0
    """Unix time in milliseconds at which the last request arrived."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Number of requests by outcome: a finish reason, `embedded`, `cancelled`, or the status of their error."""
    requests_refused: int = 0
    """Requests refused because a queue was full; counted on the event loop."""

    # For generation only.
    queue_seconds: Histogram = field(default_factory=lambda: Histogram(_powers(0.001, 16)))
    prefill_seconds: Histogram = field(default_factory=lambda: Histogram(_powers(0.001, 16)))
    """Time from the first step of a request to its first text."""
    request_seconds: Histogram = field(default_factory=lambda: Histogram(_powers(0.01, 15)))

    @property
    def executions(self) -> Durations:
        """Runs of the model: without steps, one for each request."""
        return self.success


@dataclass(slots=True)
class EngineStats(RequestStats):
    """Written by the engine's thread."""

    steps: Durations = field(default_factory=Durations)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    """Drafted tokens that the model confirmed."""
    guide_trials: int = 0
    """Attempts to compile a guide; counted on the event loop."""
    background_tokens: int = 0
    """Prompt and generated tokens that were computed for background work; counted again if computed again."""
    background_steps: int = 0
    """Steps of background work alone."""
    interrupted_steps: int = 0
    """Steps of background work that were ended early."""
    step_seconds: Histogram = field(default_factory=lambda: Histogram(_powers(0.001, 13)))
    step_tokens: Histogram = field(default_factory=lambda: Histogram(_powers(1, 14)))
    """Prompt, drafted and generated tokens together."""
    step_sequences: Histogram = field(default_factory=lambda: Histogram(_powers(1, 9)))

    @property
    def executions(self) -> Durations:
        return self.steps
