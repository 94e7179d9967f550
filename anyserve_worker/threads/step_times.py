"""What the last steps took, and whether two kinds of them differ by more than chance. PURE."""

import math
from collections import deque
from dataclasses import dataclass, field

MIN_STEPS = 4
"""Steps before an average counts."""
SURE_ERRORS = 2.0
"""Standard errors of a difference that is beyond chance."""


@dataclass(slots=True)
class StepTimes:
    """The last steps: at least `span` seconds of them, if there were as many."""

    span: float
    steps: deque[tuple[int, float, float]] = field(default_factory=deque)
    """(tokens, seconds, seconds of processor time of the engine's thread)."""
    tokens: int = 0
    seconds: float = 0
    cpu_seconds: float = 0
    squares: float = 0
    """Sum of the squares of each step's seconds a token."""

    def add(self, tokens: int, seconds: float, cpu_seconds: float) -> None:
        self.steps.append((tokens, seconds, cpu_seconds))
        self._count(tokens, seconds, cpu_seconds, 1)
        while len(self.steps) > MIN_STEPS and self.seconds - self.steps[0][1] > self.span:
            self._count(*self.steps.popleft(), -1)

    def _count(self, tokens: int, seconds: float, cpu_seconds: float, sign: int) -> None:
        self.tokens += sign * tokens
        self.seconds += sign * seconds
        self.cpu_seconds += sign * cpu_seconds
        self.squares += sign * (seconds / tokens) ** 2

    def last(self, n: int) -> "StepTimes":
        """The last `n` steps alone."""
        times = StepTimes(self.span)
        for step in list(self.steps)[-n:]:
            times.add(*step)
        return times

    @property
    def known(self) -> bool:
        return len(self.steps) >= MIN_STEPS

    @property
    def cost(self) -> float:
        """Seconds a token."""
        return self.seconds / self.tokens

    @property
    def share(self) -> float:
        """Part of the time in which the engine's thread had a processor."""
        return self.cpu_seconds / self.seconds

    @property
    def variance(self) -> float:
        """Variance of the steps' seconds a token."""
        return max(0.0, self.squares / len(self.steps) - self.cost**2)

    @property
    def error(self) -> float:
        """Standard error of `cost`."""
        return math.sqrt(self.variance / len(self.steps))

    def differs_from(self, usual: "StepTimes") -> bool:
        """Whether it is beyond chance that the cost does. Few steps do not know yet how much they vary."""
        variance = self.variance if self.known else max(self.variance, usual.variance)
        error = math.sqrt(variance / len(self.steps) + usual.error**2)
        return abs(self.cost - usual.cost) > SURE_ERRORS * error

    def wasted(self, usual: "StepTimes") -> float:
        """Seconds more than the same tokens usually take."""
        return self.seconds - self.tokens * usual.cost
