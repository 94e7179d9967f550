"""Log lines about something that comes and goes: one warning an outage, and one line at its end. PURE."""

import logging
from collections import deque
from collections.abc import Callable

BURST = 5
"""Outages that are logged one by one, of those within PERIOD."""
PERIOD = 60.0
"""Seconds."""
MAX_REASON = 500
"""Characters of a reason."""


class Outages:
    """`lost` and `back` are the messages; a reason follows the first. `clock` gives seconds from any start.

    `is_there` None: it has not been seen yet, and the first time is logged.
    """

    def __init__(
        self, log: logging.Logger, lost: str, back: str, clock: Callable[[], float], *, is_there: bool | None = None
    ) -> None:
        self._log = log
        self._lost = lost
        self._back = back
        self._clock = clock
        self._is_there = is_there
        """As it was logged last."""
        self._times: deque[float] = deque(maxlen=BURST)
        """When the last outages were logged."""

    @property
    def would_log(self) -> bool:
        """Whether `lost` logs a line now. An outage that is not logged because of others is once these are old."""
        if self._is_there is False:
            return False
        return len(self._times) < BURST or self._clock() - self._times[0] >= PERIOD

    def lost(self, reason: str) -> None:
        """May be called again for each attempt."""
        if not self.would_log:
            return
        self._is_there = False
        self._times.append(self._clock())
        more = f" (outages are logged {BURST} times in {PERIOD:g} s at most)" if len(self._times) == BURST else ""
        self._log.warning("%s: %s%s", self._lost, reason[:MAX_REASON], more)

    def back(self) -> None:
        if not self._is_there:
            self._is_there = True
            self._log.info("%s", self._back)
