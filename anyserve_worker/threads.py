"""How many threads a step gets, learned from how long the steps took. PURE: times are passed in.

llama.cpp's threads wait for each other after every operation, so a thread that loses its processor to a neighbour
holds up all others. Which count is best depends on the number of tokens in the step and on the neighbours, and both
change. So each batch shape (the tokens of a step, in powers of two) has a count in use, and now and then another one
is tried for a few steps:

- a lower one as soon as steps take longer than they used to, otherwise rarely;
- a higher one several times a second, if there are idle processors for it, since nothing else tells that a neighbour
  has left; and, where no processor is idle, as soon as the engine's own thread is kept waiting, and from time to time
  after that, since there more threads get more of the processors;
- a trial ends at its first step if that is hopeless, and lasts longer than a period of the cgroup's quota if it is
  not, since a quota that is overdrawn is felt only at the period's end;
- where processors are shared, the time of a step is a matter of luck: what differs by less than chance would have it
  is no sign, and a trial goes on for longer.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

RECENT = 0.15
"""Seconds of steps over which the time of a token is averaged: more than one period of a CPU quota (0.1 s)."""
MIN_STEPS = 4
"""Steps before an average counts."""
TRIAL, LONG_TRIAL = 0.12, 0.6
"""Seconds of steps that a trial lasts: if its result is beyond chance, and if it stays in doubt or the engine's thread
is kept waiting."""
SURE = 2.0
"""Standard errors of a difference that is beyond chance."""
HOPELESS = 1.3
"""A trial whose tokens take this many times as long as before ends at once."""
CLEAR = 0.7
"""A trial whose tokens take this part of the time, or less, has won after CLEAR_STEPS."""
CLEAR_STEPS = 3
COLLAPSE = 0.5
"""A trial of fewer threads whose tokens take this part of the time, or less, tells of a processor that was taken away,
and counts for all shapes."""
BETTER = 0.95
"""A trial wins in the end if its tokens take this part of the time, or less."""
SLOWER = 1.2
"""Tokens that take this many times as long as they used to are a sign that something has changed."""
UP_COST, UP_PAUSE = 0.03, (0.4, 0.9)
"""Part of the time that trials of more threads may waste; bounds of the pause between them in seconds."""
BLIND_COST, BLIND_PAUSE = 0.01, (2.0, 8.0)
"""The same where the engine's thread is kept waiting, for all shapes together."""
BLIND_WASTE = 0.05
"""Seconds that such a trial may waste before it has MIN_STEPS: a single slow step tells nothing there."""
LASTING = 0.3
"""Seconds after which an engine's thread that is kept waiting has a neighbour: a shorter while is a client's doing."""
SECOND_LOOK = 0.5
"""Seconds until a change to fewer threads is looked at again there: it may have begun in a bad moment."""
DOWN_COST, DOWN_PAUSE = 0.01, (2.0, 10.0)
"""The same for fewer threads."""
MAX_COST = 0.08
"""Where single steps are so slow that the longest pause would waste more than this part, pauses are longer."""
CROWDED = 0.8
"""Part of the time of a step in which a thread that is alone on its processor computes, at least."""
IDLE = 0.3
"""Idle processors that make a trial of more threads worth while."""


def ladder(most: int) -> tuple[int, ...]:
    """The counts that are tried, from 1 to `most`: halves, one less than all (room for a neighbour), all."""
    counts = {most, max(1, most - 1)}
    while most > 1:
        most = (most + 1) // 2
        counts.add(most)
    return tuple(sorted(counts))


@dataclass(slots=True)
class _Window:
    """The last steps: at least `span` seconds of them, if there were as many."""

    span: float
    steps: deque[tuple[int, float, float]] = field(default_factory=deque)
    """(tokens, seconds, seconds of processor time of the engine's thread)."""
    tokens: int = 0
    seconds: float = 0
    cpu_seconds: float = 0
    squares: float = 0
    """Of the seconds a token of each step."""

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

    @property
    def known(self) -> bool:
        return len(self.steps) >= MIN_STEPS

    @property
    def cost(self) -> float:
        """Seconds a token."""
        return self.seconds / self.tokens

    @property
    def crowded(self) -> bool:
        """Whether the engine's thread had to wait for a processor."""
        return self.cpu_seconds < CROWDED * self.seconds

    @property
    def variance(self) -> float:
        """Of the steps' seconds a token."""
        return max(0.0, self.squares / len(self.steps) - self.cost**2)

    @property
    def error(self) -> float:
        """Standard error of `cost`."""
        return math.sqrt(self.variance / len(self.steps))


@dataclass(slots=True)
class _Shape:
    """Steps of about as many tokens. `rung` is the index of the count in use."""

    counts: tuple[int, ...]
    rung: int
    recent: _Window = field(default_factory=lambda: _Window(RECENT))
    usual: float = 0
    """Cost when the count in use was last compared, or the least since."""
    suspect: bool = False
    """Another shape has changed its count: so should this one, maybe."""
    trial: _Window | None = None
    trial_rung: int = 0
    crowded: bool = False
    """The engine's thread is kept waiting."""
    blind: bool = False
    """So it was when the trial began, and it is of more threads: these first have to get their turn."""
    begins_blind: bool = False
    """The next step is the first of such a trial, which tells nothing."""
    next_up: float = 0
    next_blind_up: float = 0
    """Whether processors are idle or not."""
    next_down: float = 0
    failed_down: int = 0
    """Trials of fewer threads since the last change: each goes further down, then it begins anew."""


class ThreadChooser:
    """The counts that a step may get: `counts` if it generates only, `prompt_counts` if there are prompts in it.

    A single count is fixed. `idle` tells how many processors were idle since it was last asked; None is unknown.
    """

    def __init__(
        self,
        counts: tuple[int, ...],
        prompt_counts: tuple[int, ...],
        idle: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._counts = {False: counts, True: prompt_counts}
        self._idle = idle
        self._shapes: dict[tuple[bool, int], _Shape] = {}
        self._running: tuple[_Shape, int] | None = None

    @classmethod
    def of(cls, threads: int, threads_batch: int, usable: int, idle: Callable[[], float | None]) -> "ThreadChooser":
        """From the options of these names; 0 is to be learned, with at most `usable` threads."""
        counts = (threads,) if threads else ladder(usable)
        return cls(counts, (threads_batch,) if threads_batch else counts, idle)

    @property
    def chosen(self) -> list[tuple[bool, int, int]]:
        """(with prompts, least number of tokens, threads) of each shape that there was."""
        shapes = sorted(self._shapes.copy().items(), key=lambda item: item[0])  # The engine may add one
        return [(prompts, 1 << bits - 1, shape.counts[shape.rung]) for (prompts, bits), shape in shapes]

    def choose(self, n_tokens: int, *, prompts: bool, now: float) -> int:
        """Threads for a step of `n_tokens`; `now` in seconds. To be followed by `record`, if the step was computed."""
        key = prompts, n_tokens.bit_length()
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shapes[key] = self._new_shape(key, now)
        self._running = shape, n_tokens
        if shape.trial is None and (rung := self._due(shape, now)) is not None:
            shape.trial, shape.trial_rung = _Window(LONG_TRIAL), rung
            shape.blind = shape.begins_blind = shape.crowded and rung > shape.rung
        return shape.counts[shape.rung if shape.trial is None else shape.trial_rung]

    def record(self, seconds: float, now: float, cpu_seconds: float) -> None:
        """What the step of the last `choose` took; `cpu_seconds` is the processor time of the calling thread in it."""
        if self._running is None:
            return
        shape, n_tokens = self._running
        if shape.trial is None:
            shape.recent.add(n_tokens, seconds, cpu_seconds)
            if shape.recent.known:
                shape.usual = min(shape.usual or math.inf, shape.recent.cost + SURE * shape.recent.error)
                if shape.recent.crowded and not shape.crowded:
                    shape.next_blind_up = now + LASTING
                shape.crowded = shape.recent.crowded
            return
        if shape.begins_blind:
            shape.begins_blind = False
            return
        trial = shape.trial
        trial.add(n_tokens, seconds, cpu_seconds)
        ratio = trial.cost / shape.recent.cost
        sure = _differ(trial, shape.recent)
        too_dear = trial.known or not shape.blind or _wasted(trial, shape.recent) > BLIND_WASTE
        if ratio > HOPELESS and sure and too_dear:
            self._fail(shape, trial, now)
        elif ratio < CLEAR and len(trial.steps) >= CLEAR_STEPS and sure:
            self._win(shape, trial, now)
        elif trial.known and trial.seconds >= (TRIAL if sure and not shape.crowded else LONG_TRIAL):
            (self._win if ratio < BETTER else self._fail)(shape, trial, now)

    def _new_shape(self, key: tuple[bool, int], now: float) -> _Shape:
        """Begins like the shape that is next to it."""
        counts = self._counts[key[0]]
        alike = [other for other in self._shapes if other[0] == key[0]]
        nearest = min(alike, key=lambda other: abs(other[1] - key[1]), default=None)
        rung = len(counts) - 1 if nearest is None else self._shapes[nearest].rung
        blind, down = now + BLIND_PAUSE[0], now + DOWN_PAUSE[0]
        return _Shape(counts, rung, next_up=now, next_blind_up=blind, next_down=down)

    def _due(self, shape: _Shape, now: float) -> int | None:
        """The rung to try now, if any."""
        if len(shape.counts) == 1 or not shape.recent.known:
            return None
        up = shape.rung + 1 if shape.rung + 1 < len(shape.counts) else None
        down = shape.rung - 1 - shape.failed_down % shape.rung if shape.rung else None
        if shape.suspect or shape.recent.cost - SURE * shape.recent.error > SLOWER * shape.usual:
            shape.suspect = False
            return down if down is not None else up
        if up is not None and now >= shape.next_up:
            shape.next_up = now + UP_PAUSE[0]
            idle = self._idle()
            if idle is None or idle >= IDLE or (shape.crowded and now >= shape.next_blind_up):
                return up
        if down is not None and now >= shape.next_down:
            return down
        return None

    def _win(self, shape: _Shape, trial: _Window, now: float) -> None:
        again = SECOND_LOOK if shape.trial_rung < shape.rung else BLIND_PAUSE[0]
        collapsed = shape.trial_rung < shape.rung and trial.cost < COLLAPSE * shape.recent.cost
        shape.rung, shape.recent, shape.failed_down = shape.trial_rung, trial, 0
        trial.span = RECENT
        shape.next_up = now + UP_PAUSE[0]
        shape.next_blind_up, shape.next_down = now + again, now + DOWN_PAUSE[0]
        for other in self._shapes.values():
            other.suspect = other is not shape
            if other is shape or len(other.counts) != len(shape.counts):
                continue
            if not other.recent.known:
                other.rung = shape.rung
            elif collapsed and other.rung > shape.rung:
                other.rung, other.recent, other.usual, other.trial = shape.rung, _Window(RECENT), 0, None
                other.suspect = False
        self._end(shape)

    def _fail(self, shape: _Shape, trial: _Window, now: float) -> None:
        wasted = _wasted(trial, shape.recent)
        if shape.trial_rung > shape.rung:
            shape.next_up = now + max(_pause(wasted / UP_COST, UP_PAUSE), wasted / MAX_COST)
            if shape.blind:
                blind_pause = max(_pause(wasted / BLIND_COST, BLIND_PAUSE), wasted / MAX_COST)
                for each in self._shapes.values():
                    each.next_blind_up = max(each.next_blind_up, now + blind_pause)
        else:
            shape.failed_down += 1
            shape.next_down = now + _pause(wasted / DOWN_COST, DOWN_PAUSE)
        self._end(shape)

    def _end(self, shape: _Shape) -> None:
        shape.usual = shape.recent.cost
        shape.trial = None


def _differ(trial: _Window, recent: _Window) -> bool:
    """Whether it is beyond chance that they do. A short trial does not know yet how much its steps vary."""
    variance = trial.variance if trial.known else max(trial.variance, recent.variance)
    error = math.sqrt(variance / len(trial.steps) + recent.error**2)
    return abs(trial.cost - recent.cost) > SURE * error


def _wasted(trial: _Window, recent: _Window) -> float:
    """Seconds."""
    return trial.seconds - trial.tokens * recent.cost


def _pause(seconds: float, bounds: tuple[float, float]) -> float:
    return min(max(seconds, bounds[0]), bounds[1])
