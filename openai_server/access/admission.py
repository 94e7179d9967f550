"""Decides which requests run, wait, or are refused: a bounded number at a time, fair between callers.

PURE. A free slot goes to the caller with the fewest running requests; ties go to the caller served least recently. Each
caller's own requests run in the order of their arrival. When the queue is full, a new request replaces the newest
waiting request of the caller with the most requests, unless its own caller would then have as many.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto


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
    state: State = State.NEW


@dataclass(slots=True, eq=False)
class _Caller:
    running: int = 0
    waiting: deque[Ticket] = field(default_factory=deque)
    turn: int = 0
    """Number of its latest admission, counted over all callers; 0 if it has none."""

    @property
    def load(self) -> int:
        return self.running + len(self.waiting)


class Admission:
    """Slots for `max_running` requests (0 is no limit), and a queue for `max_waiting`."""

    def __init__(self, max_running: int, max_waiting: int) -> None:
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._callers: dict[str, _Caller] = {}
        """Callers with a running or waiting request, by id."""
        self._turn = 0
        self.running = 0
        self.waiting = 0

    def arrive(self, ticket: Ticket) -> None:
        caller = self._callers.get(ticket.caller)
        if caller is None:
            caller = self._callers[ticket.caller] = _Caller()
        if not self._max_running or self.running < self._max_running:  # then the queue is empty
            self._run(caller, ticket)
        elif self.waiting < self._max_waiting or self._make_room(caller):
            ticket.state = State.WAITING
            caller.waiting.append(ticket)
            self.waiting += 1
        else:
            self._refuse(ticket)

    def leave(self, ticket: Ticket) -> None:
        """Removes a request that has ended or no longer waits. Further calls have no effect."""
        caller = self._callers.get(ticket.caller)
        if caller is None:
            return
        if ticket.state is State.RUNNING:
            caller.running -= 1
            self.running -= 1
        elif ticket.state is State.WAITING:
            caller.waiting.remove(ticket)
            self.waiting -= 1
        ticket.state = State.OVER
        self._forget(ticket.caller)
        if self.waiting and self.running < self._max_running:
            self._run_next()

    def _run_next(self) -> None:
        waiting = [caller for caller in self._callers.values() if caller.waiting]
        caller = min(waiting, key=lambda caller: (caller.running, caller.turn))
        self.waiting -= 1
        self._run(caller, caller.waiting.popleft())

    def _run(self, caller: _Caller, ticket: Ticket) -> None:
        self._turn += 1
        caller.turn = self._turn
        caller.running += 1
        self.running += 1
        ticket.state = State.RUNNING
        ticket.decided()

    def _make_room(self, newcomer: _Caller) -> bool:
        waiting = [caller for caller in self._callers.values() if caller.waiting]
        if not waiting:
            return False
        largest = max(waiting, key=lambda caller: caller.load)
        if newcomer.load + 1 >= largest.load:
            return False
        self.waiting -= 1
        self._refuse(largest.waiting.pop())
        return True

    def _refuse(self, ticket: Ticket) -> None:
        ticket.state = State.OVER
        self._forget(ticket.caller)
        ticket.decided()

    def _forget(self, name: str) -> None:
        if not self._callers[name].load:
            del self._callers[name]


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
