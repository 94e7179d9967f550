"""Which requests may run, which wait, and which are refused: so many at a time, fair between callers.

PURE. A free place goes to the caller who has the fewest running requests, among equals to the one whose turn is the
longest ago; each caller's own requests go in the order in which they came. When the queue is full, a newcomer whose
caller has less in here than another one takes the place of that one's last.
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
    """`decided` is called once: when the request may run, or was refused."""

    caller: str
    decided: Callable[[], None] = lambda: None
    state: State = State.NEW


@dataclass(slots=True, eq=False)
class _Caller:
    running: int = 0
    waiting: deque[Ticket] = field(default_factory=deque)
    turn: int = 0
    """Number of the last place that it got."""

    @property
    def load(self) -> int:
        return self.running + len(self.waiting)


class Admission:
    """`max_running` 0 is no limit."""

    def __init__(self, max_running: int, max_waiting: int) -> None:
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._callers: dict[str, _Caller] = {}
        """Those who have a request in here."""
        self._turn = 0
        self.running = 0
        self.waiting = 0

    def arrive(self, ticket: Ticket) -> None:
        caller = self._callers.get(ticket.caller)
        if caller is None:
            caller = self._callers[ticket.caller] = _Caller()
        if not self._max_running or self.running < self._max_running:  # then nobody waits
            self._run(caller, ticket)
        elif self.waiting < self._max_waiting or self._make_room(caller):
            ticket.state = State.WAITING
            caller.waiting.append(ticket)
            self.waiting += 1
        else:
            self._refuse(ticket)

    def leave(self, ticket: Ticket) -> None:
        """It has ended, or waits no longer. More than once is as once."""
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
    """How fast places become free while others wait for one. `now` is in seconds from any start."""

    _WEIGHT = 0.1
    """Of the newest time between two of them, in their mean."""

    def __init__(self) -> None:
        self._last: float | None = None
        """When one became free that was waited for, unless nobody waited since."""
        self._interval = 0.0

    @property
    def is_measuring(self) -> bool:
        """Whether the last place that became free was waited for."""
        return self._last is not None

    def freed(self, now: float, waiting: int) -> None:
        """`waiting`: for the place that becomes free, and the next ones."""
        if self._last is not None:
            passed = now - self._last
            self._interval += (passed - self._interval) * (self._WEIGHT if self._interval else 1)
        self._last = now if waiting else None

    def wait(self, waiting: int) -> float:
        """Seconds until so many have got a place; 0 is unknown."""
        return self._interval * waiting
