"""How many prompt tokens a step may have, so that it takes a bounded time. PURE: times are passed in."""

from dataclasses import dataclass

STEP_SECONDS = 0.3
"""Seconds that a step with prompts should take at most: a prompt that arrives meanwhile waits for its end."""
MIN_STEP_TOKENS = 64
"""Tokens that a step may have, however long it takes. Fewer would cost throughput: a step reads all weights once."""
DECAY = 0.7
"""Weight of the steps before, at each new step."""


@dataclass(slots=True)
class StepPace:
    """Learns what a token costs from the last steps that had prompts."""

    _tokens: float = 0
    _seconds: float = 0

    def record(self, n_tokens: int, seconds: float) -> None:
        """A step with prompts, of so many tokens altogether, has taken so long."""
        self._tokens = DECAY * self._tokens + n_tokens
        self._seconds = DECAY * self._seconds + seconds

    def bound(self, n_tokens: int) -> int:
        """`n_tokens`, or as many as a step may have."""
        if self._seconds <= 0:
            return n_tokens
        return min(n_tokens, max(MIN_STEP_TOKENS, int(STEP_SECONDS * self._tokens / self._seconds)))
