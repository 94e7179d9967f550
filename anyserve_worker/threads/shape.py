"""One batch shape: the count of threads in use, the steps it took, and its trial of another count. PURE."""

import math
from dataclasses import dataclass, field

from anyserve_worker.threads.phase import TRANSITIONS, Direction, Event, Phase
from anyserve_worker.threads.step_times import SURE_ERRORS, StepTimes

RECENT_SECONDS = 0.15
"""Seconds of steps that the recent cost of a token is averaged over: more than one period of a CPU quota (0.1 s)."""
TRIAL_SECONDS, LONG_TRIAL_SECONDS = 0.12, 0.6
"""Seconds of steps in a trial: if its result is beyond chance, and if it is in doubt or the engine's thread is kept
waiting."""
SETTLE_SECONDS = 0.35
"""Maximum seconds that the system takes to move the threads of a blind trial apart."""
HOPELESS_FACTOR = 1.3
"""A trial is lost at once if its tokens cost more than this many times as much as the recent ones."""
BLIND_WASTE_SECONDS = 0.05
"""Seconds that a blind trial may waste before it has MIN_STEPS steps, because a single slow step proves nothing."""
CLEAR_WIN_FACTOR, CLEAR_WIN_STEPS = 0.7, 3
"""A trial is won after this many steps if its tokens cost less than this fraction of the recent ones."""
COLLAPSE_FACTOR = 0.5
"""Fewer threads whose tokens cost less than this fraction of the recent ones show that a processor was taken away."""
WIN_FACTOR = 0.95
"""A trial is won at its end if its tokens cost less than this fraction of the recent ones."""
SLOWER_FACTOR = 1.2
"""Tokens that cost more than this many times the usual show that something has changed."""
LASTING_SECONDS = 0.3
"""Seconds that the engine's thread must be kept waiting to show that a neighbour has come, or must not be to show that
it has left. A client can cause shorter waits."""


class Crowding:
    """Whether the engine's thread is kept waiting for a processor. It changes after LASTING_SECONDS of the opposite."""

    def __init__(self) -> None:
        self.crowded = False
        self._opposite_since: float | None = None

    def observe(self, waiting: bool, now: float) -> bool:
        """Returns whether `crowded` has changed. `waiting`: the thread was kept waiting in the recent steps."""
        if waiting == self.crowded:
            self._opposite_since = None
        elif self._opposite_since is None:
            self._opposite_since = now
        elif now - self._opposite_since >= LASTING_SECONDS:
            self.crowded, self._opposite_since = waiting, None
            return True
        return False


@dataclass(slots=True, eq=False)
class Shape:
    """Steps with a similar number of tokens. Times are in seconds, costs in seconds per token."""

    counts: tuple[int, ...]
    """The counts of threads to choose from, ascending."""
    rung: int
    """Index of the count in use."""
    next_up: float
    """Time of the next trial of more threads."""
    next_blind_up: float
    """Time of the next trial of more threads if no processor is idle."""
    next_down: float
    """Time of the next trial of fewer threads."""
    phase: Phase = Phase.USUAL
    recent: StepTimes = field(default_factory=lambda: StepTimes(RECENT_SECONDS))
    """Steps with the count in use; after an alarm, only the alarming steps."""
    usual_cost: float = 0
    """Cost when the count in use was last compared, or the lowest cost since; 0: unknown."""
    hint: Direction = Direction.NONE
    """The direction in which another shape has moved, and in which a trial is due."""
    crowding: Crowding = field(default_factory=Crowding)
    last_step: float = math.inf
    """Time at which the last step began."""
    trial: StepTimes = field(default_factory=lambda: StepTimes(LONG_TRIAL_SECONDS))
    """Steps of the current trial."""
    trial_rung: int = 0
    settles_until: float = 0
    """Latest time at which SETTLING ends."""
    n_lost_down: int = 0
    """Trials of fewer threads lost since the last change. Each tries one rung lower, then again the highest."""

    @property
    def threads(self) -> int:
        """Threads of the next step."""
        return self.counts[self.trial_rung if self.phase.is_trial else self.rung]

    @property
    def rung_up(self) -> int | None:
        return self.rung + 1 if self.rung + 1 < len(self.counts) else None

    @property
    def rung_down(self) -> int | None:
        return self.rung - 1 - self.n_lost_down % self.rung if self.rung else None

    @property
    def slower(self) -> bool:
        """Whether tokens cost more than usual, beyond chance."""
        return self.recent.cost - SURE_ERRORS * self.recent.error > SLOWER_FACTOR * self.usual_cost

    def advance(self, event: Event) -> None:
        self.phase = TRANSITIONS[self.phase, event]

    def forget(self) -> None:
        self.advance(Event.FORGET)
        self.recent = StepTimes(RECENT_SECONDS)

    def move_to(self, rung: int) -> None:
        """Adopts another shape's count, without a trial."""
        if rung != self.rung:
            self.forget()
            self.rung, self.usual_cost, self.hint, self.crowding = rung, 0, Direction.NONE, Crowding()

    def begin_trial(self, rung: int, now: float, *, blind: bool) -> None:
        self.advance(Event.TRY_BLINDLY if blind else Event.TRY)
        self.trial, self.trial_rung = StepTimes(LONG_TRIAL_SECONDS), rung
        self.settles_until = now + SETTLE_SECONDS

    def settle(self, n_tokens: int, seconds: float, now: float) -> None:
        """Ends SETTLING after a step that isn't hopeless, or when its time is over. The step itself doesn't count."""
        if now >= self.settles_until or seconds <= HOPELESS_FACTOR * self.recent.cost * n_tokens:
            self.advance(Event.SETTLED)

    def verdict(self) -> bool | None:
        """Returns whether the trial is won; None if it continues."""
        trial = self.trial
        ratio = trial.cost / self.recent.cost
        sure = trial.differs_from(self.recent)
        alarmed = self.phase is Phase.ALARMED_TRIAL
        counts = trial.known or not self.phase.is_blind or trial.wasted(self.recent) > BLIND_WASTE_SECONDS
        if ratio > HOPELESS_FACTOR and sure and counts:
            return False
        clear = (ratio < CLEAR_WIN_FACTOR and sure) or (ratio < COLLAPSE_FACTOR and alarmed)
        if clear and len(trial.steps) >= CLEAR_WIN_STEPS:
            return True
        short = alarmed or (sure and not self.crowding.crowded)
        if trial.known and trial.seconds >= (TRIAL_SECONDS if short else LONG_TRIAL_SECONDS):
            return ratio < WIN_FACTOR
        return None

    def end_trial(self, *, won: bool) -> None:
        if won:
            self.rung, self.recent, self.n_lost_down = self.trial_rung, self.trial, 0
            self.recent.span = RECENT_SECONDS
        self.usual_cost = self.recent.cost
        self.advance(Event.DECIDED)
