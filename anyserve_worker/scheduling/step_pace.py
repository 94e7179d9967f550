"""Bounds the prompt tokens of a step so that it takes a bounded time. PURE: times are passed in."""

from dataclasses import dataclass

STEP_SECONDS = 0.3
"""Target for the longest step with prompts. A prompt that arrives meanwhile waits for its end."""
MIN_STEP_TOKENS = 64
"""Tokens that a step may always have. Fewer would cost throughput, since a step reads all weights once."""
DECAY = 0.7
"""Weight of all earlier steps relative to a new one."""


@dataclass(slots=True)
class StepPace:
    """Estimates the time per token from the last steps with prompts."""

    _tokens: float = 0
    _seconds: float = 0

    def record(self, n_tokens: int, seconds: float) -> None:
        """Records a step with prompts: all its tokens, and its duration."""
        self._tokens = DECAY * self._tokens + n_tokens
        self._seconds = DECAY * self._seconds + seconds

    def bound(self, n_tokens: int) -> int:
        """Returns `n_tokens`, or the maximum tokens of a step if that is less."""
        if self._seconds <= 0:
            return n_tokens
        return min(n_tokens, max(MIN_STEP_TOKENS, int(STEP_SECONDS * self._tokens / self._seconds)))

    def tokens_within(self, seconds: float) -> int:
        """Returns the tokens that a step of `seconds` computes: 0 if no step was measured."""
        return max(0, int(seconds * self._tokens / self._seconds)) if self._seconds > 0 else 0

    def seconds(self, n_tokens: int) -> float:
        """Returns the predicted time of a step: 0 if none was measured."""
        return n_tokens * self._seconds / self._tokens if self._tokens else 0.0
