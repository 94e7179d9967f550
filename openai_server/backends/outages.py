"""Logs the outages of a server or a name: a warning at the beginning, and another line at the end. PURE."""

import logging
from collections import deque
from collections.abc import Callable

BURST = 5
"""Maximum number of outages logged within PERIOD."""
PERIOD = 60.0
"""Seconds."""
MAX_REASON = 500
"""Maximum length of a reason, in characters."""


class Outages:
    """`lost` and `back` are the messages; a reason follows the first one. `clock` returns seconds from any start.

    `is_there` is the state at the start. None is unknown: then `back` logs a line the first time.
    """

    def __init__(
        self, log: logging.Logger, lost: str, back: str, clock: Callable[[], float], *, is_there: bool | None = None
    ) -> None:
        self._log = log
        self._lost = lost
        self._back = back
        self._clock = clock
        self._is_there = is_there
        """The last logged state."""
        self._times: deque[float] = deque(maxlen=BURST)
        """Times of the last logged outages."""

    @property
    def would_log(self) -> bool:
        """Whether `lost` would log a line now. An outage beyond BURST may still be logged later if it lasts."""
        if self._is_there is False:
            return False
        return len(self._times) < BURST or self._clock() - self._times[0] >= PERIOD

    def lost(self, reason: str) -> None:
        """Logs an outage, once. May be called for each failed attempt."""
        if not self.would_log:
            return
        self._is_there = False
        self._times.append(self._clock())
        more = f" (at most {BURST} outages in {PERIOD:g} s are logged)" if len(self._times) == BURST else ""
        self._log.warning("%s: %s%s", self._lost, reason[:MAX_REASON], more)

    def back(self) -> None:
        if not self._is_there:
            self._is_there = True
            self._log.info("%s", self._back)
