"""Chooses the number of threads of each step from how long the steps took. PURE: times are passed in.

llama.cpp's threads wait for each other after every operation, so a thread that loses its processor to a neighbour
delays all others. The best count depends on the number of tokens in the step and on the neighbours, and both change.
So each batch shape (the tokens of a step, in powers of two) has a count in use, and tries another one for a few steps
from time to time (`phase.py`):

- a lower one as soon as steps take longer than they used to, and at once if the engine's own thread is kept waiting in
  them; otherwise rarely;
- a higher one several times a second while processors are idle, since nothing else shows that a neighbour has left.
  Where no processor is idle, more threads get more of the processors: so a higher one is tried as soon as the engine's
  own thread is kept waiting, and from time to time after that;
- a hopeless trial ends at its first step. Any other lasts longer than a period of the cgroup's quota, because an
  overdrawn quota is felt only at the period's end;
- where processors are shared, the time of a step varies by chance: a difference within chance is no sign, and a trial
  goes on for longer.
"""

import math
from collections import Counter
from collections.abc import Callable

from anyserve_worker.threads.phase import Direction, Event, Phase
from anyserve_worker.threads.shape import COLLAPSE_FACTOR, Shape
from anyserve_worker.threads.step_times import SURE_ERRORS

STALE_SECONDS = 3.0
"""Seconds without a step after which the earlier steps of a shape don't count."""
CROWDED_SHARE = 0.75
"""Minimum share of a step's time in which a thread that is alone on its processor computes."""
ALARM_FACTOR, ALARM_STEPS, ALARM_SECONDS = 2.0, 2, 0.05
"""Factor of the usual cost of a token, number of consecutive steps, their seconds together. If all three are reached
while the engine's thread is kept waiting, a neighbour has just started. Any neighbour causes less at times."""
UP_COST_SHARE, UP_PAUSE_SECONDS = 0.03, (0.4, 0.9)
"""Share of the time that trials of more threads may waste; minimum and maximum seconds between them."""
DOWN_COST_SHARE, DOWN_PAUSE_SECONDS, MAX_DOWN_PAUSES = 0.01, (2.0, 10.0), 4
"""The same for trials of fewer threads; maximum factor of the pause after lost trials."""
MAX_COST_SHARE = 0.08
"""Share of the time that trials of more threads may waste if steps are very slow. If the longest pause would allow
more, the pause is longer."""
BLIND_PAUSE_SECONDS, MAX_DOUBLINGS = 1.0, 4
"""Seconds between blind trials of all shapes together. They double with each lost trial, at most this many times."""
RECHECK_SECONDS = 0.5
"""Seconds until a blind trial checks a change to fewer threads, which a short disturbance may have caused."""
IDLE_PROCESSORS = 0.3
"""Idle processors that justify a trial of more threads."""
IDLE_COUNT_SECONDS = 0.2
"""Seconds over which idle processors are counted; the system counts a processor's times in ticks of 0.01 s."""


def ladder(max_threads: int) -> tuple[int, ...]:
    """Returns the counts to try, from 1 to `max_threads`: halves, all but one (room for a neighbour), all."""
    counts = {max_threads, max(1, max_threads - 1)}
    while max_threads > 1:
        max_threads = (max_threads + 1) // 2
        counts.add(max_threads)
    return tuple(sorted(counts))


class ThreadChooser:
    """Chooses among `counts` for a step that only generates, among `prompt_counts` for one with prompts.

    A single count is fixed. `idle` returns the number of processors that were idle since its last call; None: unknown.
    """

    def __init__(
        self,
        counts: tuple[int, ...],
        prompt_counts: tuple[int, ...],
        idle: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._counts = {False: counts, True: prompt_counts}
        self._idle = _IdleProcessors(idle)
        self._shapes: dict[tuple[bool, int], Shape] = {}
        self._running: tuple[Shape, int] | None = None
        """The shape of the last `choose` and its tokens; None if its count is fixed."""
        self._alarms: list[tuple[Shape, float]] = []
        """Consecutive alarming steps, with their seconds. Their shapes are in the phase USUAL."""
        self._n_lost_blindly = 0
        """Number of blind trials lost since one was won or the crowding of a shape changed."""
        self._collapsed = False
        """Whether a processor was taken away and has not come back yet."""

    @classmethod
    def of(cls, threads: int, threads_batch: int, usable: int, idle: Callable[[], float | None]) -> "ThreadChooser":
        """Creates a chooser from the options of these names. 0: choose among at most `usable` threads."""
        counts = (threads,) if threads else ladder(usable)
        return cls(counts, (threads_batch,) if threads_batch else counts, idle)

    @property
    def chosen(self) -> list[tuple[bool, int, int]]:
        """(with prompts, minimum number of tokens, threads in use) of each shape so far."""
        shapes = sorted(self._shapes.copy().items(), key=lambda item: item[0])  # the engine may add a shape meanwhile
        return [(prompts, 1 << bits - 1, shape.counts[shape.rung]) for (prompts, bits), shape in shapes]

    def choose(self, n_tokens: int, *, prompts: bool, now: float) -> int:
        """Returns the threads for a step of `n_tokens`. Call `record` after it, if the step was computed."""
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
        if not shape.phase.is_trial and (rung := self._rung_to_try(shape, now)) is not None:
            blind = rung > shape.rung and (shape.crowding.crowded or not self._idle.enough(now))
            shape.begin_trial(rung, now, blind=blind)
            self._drop_alarms(shape)
        return shape.threads

    def record(self, seconds: float, now: float, cpu_seconds: float) -> None:
        """Records the step of the last `choose`: its duration, its end, and the calling thread's processor time."""
        if self._running is None:
            return
        shape, n_tokens = self._running
        if shape.phase is Phase.SETTLING:
            shape.settle(n_tokens, seconds, now)
        elif shape.phase.is_trial:
            shape.trial.add(n_tokens, seconds, cpu_seconds)
            won = shape.verdict()
            if won is not None:
                (self._win if won else self._lose)(shape, now)
        else:
            self._record_usual(shape, n_tokens, seconds, cpu_seconds, now)

    # ---- Usual steps

    def _record_usual(self, shape: Shape, n_tokens: int, seconds: float, cpu_seconds: float, now: float) -> None:
        recent = shape.recent
        recent.add(n_tokens, seconds, cpu_seconds)
        slow = seconds > ALARM_FACTOR * shape.usual_cost * n_tokens and cpu_seconds < CROWDED_SHARE * seconds
        if slow and shape.rung and shape.usual_cost and not shape.crowding.crowded:
            self._alarms.append((shape, seconds))
        else:
            self._alarms.clear()
        if len(self._alarms) >= ALARM_STEPS and sum(seconds for _, seconds in self._alarms) >= ALARM_SECONDS:
            self._raise_alarm()
        elif recent.known:
            shape.usual_cost = min(shape.usual_cost or math.inf, recent.cost + SURE_ERRORS * recent.error)
            if shape.crowding.observe(recent.share < CROWDED_SHARE, now):
                shape.next_blind_up, self._n_lost_blindly = now, 0

    def _raise_alarm(self) -> None:
        """Makes the shapes of the alarming steps try fewer threads, compared with these steps only."""
        for shape, n_steps in Counter(shape for shape, _ in self._alarms).items():
            shape.recent = shape.recent.last(n_steps)
            shape.advance(Event.ALARM)
        self._alarms.clear()

    def _drop_alarms(self, shape: Shape) -> None:
        """Removes the alarming steps of a shape whose usual steps end here."""
        self._alarms = [(other, seconds) for other, seconds in self._alarms if other is not shape]

    # ---- Trials

    def _new_shape(self, key: tuple[bool, int], now: float) -> Shape:
        """Returns a shape with the count of the nearest shape of its kind, or the highest count if there is none."""
        counts = self._counts[key[0]]
        alike = [other for other in self._shapes if other[0] == key[0]]
        nearest = min(alike, key=lambda other: abs(other[1] - key[1]), default=None)
        rung = len(counts) - 1 if nearest is None else self._shapes[nearest].rung
        blind, down = now + BLIND_PAUSE_SECONDS, now + DOWN_PAUSE_SECONDS[0]
        return Shape(counts, rung, next_up=now, next_blind_up=blind, next_down=down)

    def _rung_to_try(self, shape: Shape, now: float) -> int | None:
        """Returns the rung of the trial that is due; None if none is due."""
        alarmed = shape.phase is Phase.ALARMED
        if not (shape.recent.known or alarmed):
            return None
        up, down = shape.rung_up, shape.rung_down
        hint, shape.hint = shape.hint, Direction.NONE
        if down is not None and (hint is Direction.DOWN or alarmed or shape.slower):
            return down
        if up is not None and (hint is Direction.UP or self._may_try_more(shape, now)):
            return up
        return down if now >= shape.next_down else None

    def _may_try_more(self, shape: Shape, now: float) -> bool:
        blindly = shape.crowding.crowded and now >= shape.next_blind_up
        return now >= shape.next_up and (blindly or self._idle.enough(now))

    def _win(self, shape: Shape, now: float) -> None:
        """Makes the count on trial the one in use. Other shapes follow or get a hint."""
        direction = Direction.UP if shape.trial_rung > shape.rung else Direction.DOWN
        collapsed = direction is Direction.DOWN and shape.trial.cost < COLLAPSE_FACTOR * shape.recent.cost
        came_back = direction is Direction.UP and not shape.phase.is_blind and self._collapsed
        self._collapsed = collapsed or (self._collapsed and not came_back)
        if shape.phase.is_blind:
            self._n_lost_blindly = 0
        shape.next_up = now + UP_PAUSE_SECONDS[0]
        shape.next_blind_up = now + (RECHECK_SECONDS if direction is Direction.DOWN else BLIND_PAUSE_SECONDS)
        shape.next_down = now + DOWN_PAUSE_SECONDS[0]
        shape.end_trial(won=True)
        for other in self._shapes.values():
            if other is not shape and len(other.counts) == len(shape.counts):
                self._follow(other, shape.rung, direction, certain=collapsed or came_back)
        self._idle.restart(now)

    def _follow(self, shape: Shape, rung: int, direction: Direction, *, certain: bool) -> None:
        """Moves a shape after another one's trial, or gives it a hint. `certain`: a processor was taken away or came
        back, which applies to all shapes."""
        farther = (rung - shape.rung) * direction > 0
        if not shape.recent.known or (farther and certain):
            shape.move_to(rung)
            self._drop_alarms(shape)
        else:
            shape.hint = direction

    def _lose(self, shape: Shape, now: float) -> None:
        """Keeps the count in use. The more time the trial wasted, the later is the next one in this direction."""
        wasted = shape.trial.wasted(shape.recent)
        if shape.trial_rung > shape.rung:
            shape.next_up = now + max(_pause(wasted / UP_COST_SHARE, UP_PAUSE_SECONDS), wasted / MAX_COST_SHARE)
            if shape.phase.is_blind:
                self._postpone_blind_trials(now)
        else:
            shape.n_lost_down += 1
            n_pauses = min(1 + shape.n_lost_down // shape.rung, MAX_DOWN_PAUSES)
            shape.next_down = now + n_pauses * _pause(wasted / DOWN_COST_SHARE, DOWN_PAUSE_SECONDS)
        shape.end_trial(won=False)
        self._idle.restart(now)

    def _postpone_blind_trials(self, now: float) -> None:
        pause = BLIND_PAUSE_SECONDS * 2 ** min(self._n_lost_blindly, MAX_DOUBLINGS)
        self._n_lost_blindly += 1
        for shape in self._shapes.values():
            shape.next_blind_up = max(shape.next_blind_up, now + pause)


class _IdleProcessors:
    """Counts idle processors over IDLE_COUNT_SECONDS of an unchanged count of threads."""

    def __init__(self, count: Callable[[], float | None]) -> None:
        self._count = count
        self._since = -math.inf
        self._idle: float | None = 0.0

    def restart(self, now: float) -> None:
        self._count()
        self._since, self._idle = now, 0.0

    def enough(self, now: float) -> bool:
        """Returns whether a processor is idle for one more thread; True if that is unknown."""
        if now - self._since >= IDLE_COUNT_SECONDS:
            self._since, self._idle = now, self._count()
        return self._idle is None or self._idle >= IDLE_PROCESSORS


def _pause(seconds: float, bounds: tuple[float, float]) -> float:
    return min(max(seconds, bounds[0]), bounds[1])
