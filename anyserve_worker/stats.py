"""What the engine counts, for Triton's ModelStatistics. PURE."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Counter:
    """Triton's StatisticDuration."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        self.count += 1
        self.ns += ns


@dataclass(slots=True)
class EngineStats:
    """Written by the engine's thread. Durations: `success`, `failure` whole requests, `queue` until first computed."""

    success: Counter = field(default_factory=Counter)
    failure: Counter = field(default_factory=Counter)
    queue: Counter = field(default_factory=Counter)
    steps: Counter = field(default_factory=Counter)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    """Of those that were drafted."""
    last_request_ms: int = 0
    """Unix time at which the last request came."""
