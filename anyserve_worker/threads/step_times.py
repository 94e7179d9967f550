"""The times of the last steps, and a test of whether two kinds of steps differ beyond chance. PURE."""

import math
from collections import deque
from dataclasses import dataclass, field

MIN_STEPS = 4
"""Minimum number of steps for an average."""
SURE_ERRORS = 2.0
"""A difference of more than this many standard errors is beyond chance."""


@dataclass(slots=True)
class StepTimes:
    """The last steps, of at least `span` seconds together if there have been enough."""

    span: float
    steps: deque[tuple[int, float, float]] = field(default_factory=deque)
    """(tokens, seconds, seconds of processor time of the engine's thread)."""
    tokens: int = 0
    seconds: float = 0
    cpu_seconds: float = 0
    squares: float = 0
    """Sum of the squares of each step's seconds per token."""

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
        """Returns the last `n` steps."""
        times = StepTimes(self.span)
        for step in list(self.steps)[-n:]:
            times.add(*step)
        return times

    @property
    def known(self) -> bool:
        return len(self.steps) >= MIN_STEPS

    @property
    def cost(self) -> float:
        """Seconds per token."""
        return self.seconds / self.tokens

    @property
    def share(self) -> float:
        """Share of the time in which the engine's thread had a processor."""
        return self.cpu_seconds / self.seconds

    @property
    def variance(self) -> float:
        """Variance of the steps' seconds per token."""
        return max(0.0, self.squares / len(self.steps) - self.cost**2)

    @property
    def error(self) -> float:
        """Standard error of `cost`."""
        return math.sqrt(self.variance / len(self.steps))

    def differs_from(self, usual: "StepTimes") -> bool:
        """Returns whether the costs differ beyond chance. With few steps, the variance is at least that of `usual`."""
        variance = self.variance if self.known else max(self.variance, usual.variance)
        error = math.sqrt(variance / len(self.steps) + usual.error**2)
        return abs(self.cost - usual.cost) > SURE_ERRORS * error

    def wasted(self, usual: "StepTimes") -> float:
        """Returns the seconds beyond those that the same tokens usually take."""
        return self.seconds - self.tokens * usual.cost
