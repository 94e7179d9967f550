"""Decides which requests run, wait, or are refused: a bounded number at a time, fair between callers.

PURE. A free slot goes to the most urgent class of requests, and in it to the caller with the fewest running requests of
that class; ties go to the caller served least recently. Each caller's own requests of a class run in the order of their
arrival. Background work leaves some slots free, so that a request of another class gets one at once.

When the queue is full, a new request replaces waiting background work. Otherwise it replaces the newest waiting request
of the caller with the most requests of its class or a less urgent one, unless its own caller would then have as many.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from openai_server.core.tiers import Urgency

RESERVED = 1 / 4
"""The part of the slots that background work leaves free; at least one slot, if there are several."""


class State(Enum):
    NEW = auto()
    WAITING = auto()
    RUNNING = auto()
    OVER = auto()


@dataclass(slots=True, eq=False)
class Ticket:
    """A request's place. `decided` is called once: when the request is admitted or refused."""

    caller: str
    decided: Callable[[], None] = lambda: None
    urgency: Urgency = Urgency.ORDINARY
    state: State = State.NEW


@dataclass(slots=True, eq=False)
class _Caller:
    """The requests of one class of one caller."""

    running: int = 0
    waiting: deque[Ticket] = field(default_factory=deque)
    turn: int = 0
    """Number of its latest admission, counted over all callers; 0 if it has none."""

    @property
    def load(self) -> int:
        return self.running + len(self.waiting)


@dataclass(slots=True, eq=False)
class _Class:
    """The requests of one urgency."""

    max_running: int
    """Number of running requests of all classes below which one of this class may start; 0 is no limit."""
    callers: dict[str, _Caller] = field(default_factory=dict)
    """Callers with a running or waiting request, by id."""
    waiting: int = 0

    def largest(self) -> _Caller:
        """The caller with the most requests among those that wait."""
        return max((caller for caller in self.callers.values() if caller.waiting), key=lambda caller: caller.load)

    def next(self) -> _Caller:
        """The caller that gets the next slot."""
        waiting = (caller for caller in self.callers.values() if caller.waiting)
        return min(waiting, key=lambda caller: (caller.running, caller.turn))


class Admission:
    """Slots for `max_running` requests (0 is no limit), and a queue for `max_waiting`."""

    def __init__(self, max_running: int, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        in_background = max_running - max(1, int(max_running * RESERVED)) if max_running > 1 else max_running
        self._classes = (_Class(max_running), _Class(max_running), _Class(in_background))
        self._turn = 0
        self.running = 0
        self.waiting = 0
        """Waiting requests of all classes."""

    @property
    def waiting_for_any(self) -> int:
        """Waiting requests without background work: those that get the next free slots."""
        return self.waiting - self._classes[Urgency.BACKGROUND].waiting

    def arrive(self, ticket: Ticket) -> None:
        of_class = self._classes[ticket.urgency]
        caller = of_class.callers.get(ticket.caller)
        if caller is None:
            caller = of_class.callers[ticket.caller] = _Caller()
        limit = of_class.max_running
        if not limit or self.running < limit:  # then no request of the class waits
            self._run(caller, ticket)
        elif self.waiting < self._max_waiting or self._make_room(caller, ticket.urgency):
            ticket.state = State.WAITING
            caller.waiting.append(ticket)
            of_class.waiting += 1
            self.waiting += 1
        else:
            self._refuse(ticket)

    def leave(self, ticket: Ticket) -> None:
        """Removes a request that has ended or no longer waits. Further calls have no effect."""
        of_class = self._classes[ticket.urgency]
        caller = of_class.callers.get(ticket.caller)
        if caller is None:
            return
        if ticket.state is State.RUNNING:
            caller.running -= 1
            self.running -= 1
        elif ticket.state is State.WAITING:
            caller.waiting.remove(ticket)
            of_class.waiting -= 1
            self.waiting -= 1
        ticket.state = State.OVER
        self._forget(ticket)
        if self.waiting:
            self._run_next()

    def _run_next(self) -> None:
        for of_class in self._classes:
            if of_class.waiting:
                if self.running < of_class.max_running:
                    of_class.waiting -= 1
                    self.waiting -= 1
                    caller = of_class.next()
                    self._run(caller, caller.waiting.popleft())
                return

    def _run(self, caller: _Caller, ticket: Ticket) -> None:
        self._turn += 1
        caller.turn = self._turn
        caller.running += 1
        self.running += 1
        ticket.state = State.RUNNING
        ticket.decided()

    def _make_room(self, newcomer: _Caller, urgency: Urgency) -> bool:
        """Refuses a waiting request in favor of one of `newcomer`. Returns False if there is none to refuse."""
        for lower in reversed(Urgency):
            of_class = self._classes[lower]
            if lower < urgency or not of_class.waiting:
                continue
            largest = of_class.largest()
            is_above = lower is Urgency.BACKGROUND and urgency is not Urgency.BACKGROUND
            if not is_above and newcomer.load + 1 >= largest.load:
                continue
            of_class.waiting -= 1
            self.waiting -= 1
            self._refuse(largest.waiting.pop())
            return True
        return False

    def _refuse(self, ticket: Ticket) -> None:
        ticket.state = State.OVER
        self._forget(ticket)
        ticket.decided()

    def _forget(self, ticket: Ticket) -> None:
        callers = self._classes[ticket.urgency].callers
        if not callers[ticket.caller].load:
            del callers[ticket.caller]


class Turnover:
    """Measures how fast slots become free while requests wait for them. `now` is in seconds from any start."""

    _WEIGHT = 0.1
    """Weight of the newest interval in the running mean."""

    def __init__(self) -> None:
        self._last: float | None = None
        """Time at which the last slot became free; None if no request waited for it."""
        self._interval = 0.0
        """Mean seconds between two freed slots; 0 is unknown."""

    @property
    def is_measuring(self) -> bool:
        """Whether a request waited for the last slot that became free."""
        return self._last is not None

    def freed(self, now: float, waiting: int) -> None:
        """Records a freed slot. `waiting`: number of requests in the queue."""
        if self._last is not None:
            passed = now - self._last
            self._interval += (passed - self._interval) * (self._WEIGHT if self._interval else 1)
        self._last = now if waiting else None

    def wait(self, waiting: int) -> float:
        """Seconds until `waiting` requests have got a slot; 0 is unknown."""
        return self._interval * waiting
