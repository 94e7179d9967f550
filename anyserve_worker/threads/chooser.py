"""How many threads a step gets, learned from how long the steps took. PURE: times are passed in.

llama.cpp's threads wait for each other after every operation, so a thread that loses its processor to a neighbour
holds up all others. Which count is best depends on the number of tokens in the step and on the neighbours, and both
change. So each batch shape (the tokens of a step, in powers of two) has a count in use, and now and then another one
is tried for a few steps:

- a lower one as soon as steps take longer than they used to, and at once if the engine's own thread is kept waiting in
  them; otherwise rarely;
- a higher one several times a second, if there are idle processors for it, since nothing else shows that a neighbour
  has left; and, where no processor is idle, as soon as the engine's own thread is kept waiting, and from time to time
  after that, since there more threads get more of the processors;
- a trial ends at its first step if that is hopeless, and lasts longer than a period of the cgroup's quota if it is
  not, since a quota that is overdrawn is felt only at the period's end;
- where processors are shared, the time of a step is a matter of luck: what differs by less than chance would have it
  is no sign, and a trial goes on for longer.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from anyserve_worker.threads.step_times import SURE_ERRORS, StepTimes

RECENT_SECONDS = 0.15
"""Seconds of steps over which the time of a token is averaged: more than one period of a CPU quota (0.1 s)."""
STALE_SECONDS = 3.0
"""Seconds without a step after which it counts no more."""
TRIAL_SECONDS, LONG_TRIAL_SECONDS = 0.12, 0.6
"""Seconds of steps that a trial lasts: if its result is beyond chance, and if it stays in doubt or the engine's thread
is kept waiting."""
HOPELESS_FACTOR = 1.3
"""A trial whose tokens take this many times as long as before ends at once."""
CLEAR_WIN_FACTOR = 0.7
"""A trial whose tokens take this part of the time, or less, has won after CLEAR_WIN_STEPS."""
CLEAR_WIN_STEPS = 3
COLLAPSE_FACTOR = 0.5
"""A trial of fewer threads whose tokens take this part of the time, or less, shows that a processor was taken away,
and counts for all shapes; so does the next one that finds it idle."""
ALARM_FACTOR, ALARM_STEPS, ALARM_SECONDS = 2.0, 2, 0.05
"""Steps in a row, so many and of so many seconds together, in which tokens take this many times as long as they used to
and the engine's thread begins to be kept waiting, mean that a neighbour has just come. Less happens for a moment
with any neighbour."""
WIN_FACTOR = 0.95
"""A trial wins in the end if its tokens take this part of the time, or less."""
SLOWER_FACTOR = 1.2
"""Tokens that take this many times as long as they used to are a sign that something has changed."""
UP_COST_SHARE, UP_PAUSE_SECONDS = 0.03, (0.4, 0.9)
"""Part of the time that trials of more threads may waste; bounds of the pause between them in seconds."""
DOWN_COST_SHARE, DOWN_PAUSE_SECONDS, MAX_DOWN_PAUSES = 0.01, (2.0, 10.0), 4
"""The same for fewer threads; the pause grows up to so many times while no count wins."""
BLIND_PAUSE_SECONDS, MAX_DOUBLINGS = 1.0, 4
"""Seconds between trials of more threads where the engine's thread is kept waiting, for all shapes together. They are
doubled after each that fails, so many times at most, since the first ones may have had bad luck."""
BLIND_WASTE_SECONDS = 0.05
"""Seconds that such a trial may waste before it has MIN_STEPS: a single slow step means nothing there."""
BLIND_SETTLE_SECONDS = 0.35
"""Seconds after which the system has moved the threads of such a trial apart, at the latest; hopeless steps before tell
nothing."""
LASTING_SECONDS = 0.3
"""Seconds after which an engine's thread that is kept waiting has a neighbour, or else has none any more: a shorter
while is a client's doing."""
RECHECK_SECONDS = 0.5
"""Seconds until a change to fewer threads is looked at again there: it may have begun in a bad moment."""
MAX_COST_SHARE = 0.08
"""Where single steps are so slow that the longest pause would waste more than this part, pauses are longer."""
CROWDED_SHARE = 0.75
"""Part of the time of a step in which a thread that is alone on its processor computes, at least."""
IDLE_PROCESSORS = 0.3
"""Idle processors that make a trial of more threads worth while."""
IDLE_COUNT_SECONDS = 0.2
"""Seconds over which they are counted; the system counts a processor's times in ticks of 0.01 s."""


def ladder(max_threads: int) -> tuple[int, ...]:
    """The counts that are tried, from 1 to `max_threads`: halves, one less than all (room for a neighbour), all."""
    counts = {max_threads, max(1, max_threads - 1)}
    while max_threads > 1:
        max_threads = (max_threads + 1) // 2
        counts.add(max_threads)
    return tuple(sorted(counts))


@dataclass(slots=True)
class _Shape:
    """Steps of about as many tokens. `rung` is the index of the count in use."""

    counts: tuple[int, ...]
    rung: int
    recent: StepTimes = field(default_factory=lambda: StepTimes(RECENT_SECONDS))
    usual: float = 0
    """Cost when the count in use was last compared, or the least since."""
    suspect: int = 0
    """Another shape has gone up (1) or down (-1): so should this one, maybe."""
    alarmed: bool = False
    """`recent` begins with the alarm."""
    trial: StepTimes | None = None
    trial_rung: int = 0
    crowded: bool = False
    """The engine's thread is kept waiting, for LASTING_SECONDS at least."""
    otherwise_since: float | None = None
    """It has not been so of late."""
    last_step: float = math.inf
    """When it began."""
    blind: bool = False
    """The trial is of more threads, for which no processor is idle: these first have to get their turn."""
    settles_until: float | None = None
    """When hopeless steps of such a trial begin to tell something; None: now."""
    next_up: float = 0
    next_blind_up: float = 0
    """Whether processors are idle or not."""
    next_down: float = 0
    failed_down: int = 0
    """Trials of fewer threads since the last change: each goes further down, then it begins anew."""

    def forget(self) -> None:
        """What the last steps were like."""
        self.recent, self.trial, self.alarmed = StepTimes(RECENT_SECONDS), None, False

    def begin_at(self, rung: int) -> None:
        if rung != self.rung:
            self.forget()
            self.rung, self.usual, self.suspect = rung, 0, 0
            self.crowded, self.otherwise_since = False, None


class ThreadChooser:
    """The counts that a step may get: `counts` if it generates only, `prompt_counts` if there are prompts in it.

    A single count is fixed. `idle` returns how many processors were idle since its last call; None is unknown.
    """

    def __init__(
        self,
        counts: tuple[int, ...],
        prompt_counts: tuple[int, ...],
        idle: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._counts = {False: counts, True: prompt_counts}
        self._idle = _IdleProcessors(idle)
        self._shapes: dict[tuple[bool, int], _Shape] = {}
        self._running: tuple[_Shape, int] | None = None
        self._alarms: list[tuple[_Shape, float]] = []
        """Alarming steps in a row, with their seconds."""
        self._blind_failures = 0
        """Since the engine's thread began to be kept waiting, or more threads did win."""
        self._collapsed = False
        """A processor was taken away, and has not come back yet."""

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
        if len(shape.counts) == 1:
            self._running = None
            return shape.counts[0]
        self._running = shape, n_tokens
        if now - shape.last_step > STALE_SECONDS:
            shape.forget()
            self._drop_alarms(shape)
        shape.last_step = now
        if shape.trial is None and (rung := self._due(shape, now)) is not None:
            self._drop_alarms(shape)
            shape.trial, shape.trial_rung = StepTimes(LONG_TRIAL_SECONDS), rung
            shape.blind = rung > shape.rung and (shape.crowded or not self._idle.enough(now))
            shape.settles_until = now + BLIND_SETTLE_SECONDS if shape.blind else None
        return shape.counts[shape.rung if shape.trial is None else shape.trial_rung]

    def record(self, seconds: float, now: float, cpu_seconds: float) -> None:
        """What the step of the last `choose` took; `cpu_seconds` is the processor time of the calling thread in it."""
        if self._running is None:
            return
        shape, n_tokens = self._running
        if shape.trial is None:
            self._record_usual(shape, n_tokens, seconds, cpu_seconds, now)
            return
        if shape.settles_until is not None:
            hopeless = seconds > HOPELESS_FACTOR * shape.recent.cost * n_tokens
            if now >= shape.settles_until or not hopeless:
                shape.settles_until = None
            return
        trial = shape.trial
        trial.add(n_tokens, seconds, cpu_seconds)
        ratio = trial.cost / shape.recent.cost
        sure = trial.differs_from(shape.recent)
        too_dear = trial.known or not shape.blind or trial.wasted(shape.recent) > BLIND_WASTE_SECONDS
        if ratio > HOPELESS_FACTOR and sure and too_dear:
            self._fail(shape, trial, now)
        elif len(trial.steps) >= CLEAR_WIN_STEPS and (
            (ratio < CLEAR_WIN_FACTOR and sure) or (ratio < COLLAPSE_FACTOR and shape.alarmed)
        ):
            self._win(shape, trial, now)
        elif trial.known and trial.seconds >= _trial_seconds(shape, sure=sure):
            (self._win if ratio < WIN_FACTOR else self._fail)(shape, trial, now)

    def _record_usual(self, shape: _Shape, n_tokens: int, seconds: float, cpu_seconds: float, now: float) -> None:
        """A step that is no trial."""
        recent = shape.recent
        recent.add(n_tokens, seconds, cpu_seconds)
        slow = seconds > ALARM_FACTOR * shape.usual * n_tokens and cpu_seconds < CROWDED_SHARE * seconds
        if slow and shape.rung and shape.usual and not shape.crowded:
            self._alarms.append((shape, seconds))
        else:
            self._alarms.clear()
        if len(self._alarms) >= ALARM_STEPS and sum(took for _, took in self._alarms) >= ALARM_SECONDS:
            shapes = [each for each, _ in self._alarms]
            for each in shapes:
                each.recent = each.recent.last(shapes.count(each))
                each.alarmed = True
            self._alarms.clear()
        elif recent.known:
            shape.usual = min(shape.usual or math.inf, recent.cost + SURE_ERRORS * recent.error)
            if (recent.share < CROWDED_SHARE) == shape.crowded:
                shape.otherwise_since = None
            elif shape.otherwise_since is None:
                shape.otherwise_since = now
            elif now - shape.otherwise_since >= LASTING_SECONDS:
                shape.crowded, shape.otherwise_since = not shape.crowded, None
                shape.next_blind_up, self._blind_failures = now, 0

    def _drop_alarms(self, shape: _Shape) -> None:
        """Removes the alarming steps of a shape whose steps in a row end here."""
        self._alarms = [(other, seconds) for other, seconds in self._alarms if other is not shape]

    def _new_shape(self, key: tuple[bool, int], now: float) -> _Shape:
        """Begins like the shape that is next to it."""
        counts = self._counts[key[0]]
        alike = [other for other in self._shapes if other[0] == key[0]]
        nearest = min(alike, key=lambda other: abs(other[1] - key[1]), default=None)
        rung = len(counts) - 1 if nearest is None else self._shapes[nearest].rung
        blind, down = now + BLIND_PAUSE_SECONDS, now + DOWN_PAUSE_SECONDS[0]
        return _Shape(counts, rung, next_up=now, next_blind_up=blind, next_down=down)

    def _due(self, shape: _Shape, now: float) -> int | None:
        """The rung to try now, if any."""
        if len(shape.counts) == 1 or not (shape.recent.known or shape.alarmed):
            return None
        up = shape.rung + 1 if shape.rung + 1 < len(shape.counts) else None
        down = shape.rung - 1 - shape.failed_down % shape.rung if shape.rung else None
        suspect, shape.suspect = shape.suspect, 0
        slower = shape.recent.cost - SURE_ERRORS * shape.recent.error > SLOWER_FACTOR * shape.usual
        if down is not None and (suspect < 0 or shape.alarmed or slower):
            return down
        if up is not None and suspect > 0:
            return up
        blindly = shape.crowded and now >= shape.next_blind_up
        if up is not None and now >= shape.next_up and (blindly or self._idle.enough(now)):
            return up
        if down is not None and now >= shape.next_down:
            return down
        return None

    def _win(self, shape: _Shape, trial: StepTimes, now: float) -> None:
        direction = 1 if shape.trial_rung > shape.rung else -1
        again = RECHECK_SECONDS if direction < 0 else BLIND_PAUSE_SECONDS
        collapsed = direction < 0 and trial.cost < COLLAPSE_FACTOR * shape.recent.cost
        if shape.blind:
            self._blind_failures = 0
        came_back = direction > 0 and not shape.blind and self._collapsed
        self._collapsed = collapsed or (self._collapsed and not came_back)
        shape.rung, shape.recent, shape.failed_down = shape.trial_rung, trial, 0
        trial.span = RECENT_SECONDS
        shape.next_up = now + UP_PAUSE_SECONDS[0]
        shape.next_blind_up, shape.next_down = now + again, now + DOWN_PAUSE_SECONDS[0]
        for other in self._shapes.values():
            if other is shape or len(other.counts) != len(shape.counts):
                continue
            farther = (shape.rung - other.rung) * direction > 0
            if not other.recent.known or (farther and (collapsed or came_back)):
                other.begin_at(shape.rung)
                self._drop_alarms(other)
            else:
                other.suspect = direction
        self._end(shape, now)

    def _fail(self, shape: _Shape, trial: StepTimes, now: float) -> None:
        wasted = trial.wasted(shape.recent)
        if shape.trial_rung > shape.rung:
            shape.next_up = now + max(_pause(wasted / UP_COST_SHARE, UP_PAUSE_SECONDS), wasted / MAX_COST_SHARE)
            if shape.blind:
                blind_pause = BLIND_PAUSE_SECONDS * 2 ** min(self._blind_failures, MAX_DOUBLINGS)
                self._blind_failures += 1
                for each in self._shapes.values():
                    each.next_blind_up = max(each.next_blind_up, now + blind_pause)
        else:
            shape.failed_down += 1
            n_pauses = min(1 + shape.failed_down // shape.rung, MAX_DOWN_PAUSES)
            shape.next_down = now + n_pauses * _pause(wasted / DOWN_COST_SHARE, DOWN_PAUSE_SECONDS)
        self._end(shape, now)

    def _end(self, shape: _Shape, now: float) -> None:
        shape.usual = shape.recent.cost
        shape.trial, shape.alarmed = None, False
        self._idle.restart(now)


class _IdleProcessors:
    """Counted over IDLE_COUNT_SECONDS without a change of threads: how many were idle before one means nothing."""

    def __init__(self, count: Callable[[], float | None]) -> None:
        self._count = count
        self._since = -math.inf
        self._idle: float | None = 0.0

    def restart(self, now: float) -> None:
        self._count()
        self._since, self._idle = now, 0.0

    def enough(self, now: float) -> bool:
        """For one more thread, as far as is known."""
        if now - self._since >= IDLE_COUNT_SECONDS:
            self._since, self._idle = now, self._count()
        return self._idle is None or self._idle >= IDLE_PROCESSORS


def _pause(seconds: float, bounds: tuple[float, float]) -> float:
    return min(max(seconds, bounds[0]), bounds[1])


def _trial_seconds(shape: _Shape, *, sure: bool) -> float:
    """Returns the length of a trial; `sure`: its result is beyond chance."""
    return TRIAL_SECONDS if shape.alarmed or (sure and not shape.crowded) else LONG_TRIAL_SECONDS
