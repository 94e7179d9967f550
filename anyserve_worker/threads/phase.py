"""The phases of a batch shape, and the events that lead from one to the next. PURE.

A shape (steps with a similar number of tokens) runs with the count in use until a trial of another count is due. Two
conditions are independent of the phase: whether the engine's thread is kept waiting (`shape.Crowding`), and the
direction in which another shape has moved (`Shape.hint`).
"""

from enum import Enum, IntEnum, auto


class Phase(Enum):
    USUAL = auto()
    """Steps run with the count in use."""
    ALARMED = auto()
    """The last steps were so slow that the next one tries fewer threads, without waiting for the end of a pause."""
    TRIAL = auto()
    """Steps run with another count: fewer threads, or more of them on idle processors."""
    ALARMED_TRIAL = auto()
    """Steps run with fewer threads after an alarm. The trial is short, and ends early if the cost collapses."""
    SETTLING = auto()
    """Steps run with more threads although no processor is idle. Slow steps don't count until the system has moved the
    threads apart."""
    BLIND_TRIAL = auto()
    """The trial that follows SETTLING: each step counts."""

    @property
    def is_trial(self) -> bool:
        return self not in (Phase.USUAL, Phase.ALARMED)

    @property
    def is_blind(self) -> bool:
        return self in (Phase.SETTLING, Phase.BLIND_TRIAL)


class Event(Enum):
    ALARM = auto()
    """Consecutive usual steps, of this shape and others, were alarming."""
    TRY = auto()
    """A trial begins. If it has more threads, processors are idle for them."""
    TRY_BLINDLY = auto()
    """A trial with more threads begins, and no processor is idle for them."""
    SETTLED = auto()
    """The system has moved the threads of a blind trial apart, or has had the time to do so."""
    DECIDED = auto()
    """The trial was won or lost."""
    FORGET = auto()
    """The recent steps no longer count: the shape paused, or moved to another count without a trial."""


TRANSITIONS = {
    (Phase.USUAL, Event.ALARM): Phase.ALARMED,
    (Phase.USUAL, Event.TRY): Phase.TRIAL,
    (Phase.USUAL, Event.TRY_BLINDLY): Phase.SETTLING,
    (Phase.ALARMED, Event.TRY): Phase.ALARMED_TRIAL,
    (Phase.SETTLING, Event.SETTLED): Phase.BLIND_TRIAL,
    (Phase.TRIAL, Event.DECIDED): Phase.USUAL,
    (Phase.ALARMED_TRIAL, Event.DECIDED): Phase.USUAL,
    (Phase.BLIND_TRIAL, Event.DECIDED): Phase.USUAL,
    **{(phase, Event.FORGET): Phase.USUAL for phase in Phase},
}
"""The next phase, by phase and event. Other pairs can't happen."""


class Direction(IntEnum):
    """Fewer or more threads."""

    DOWN = -1
    NONE = 0
    UP = 1
