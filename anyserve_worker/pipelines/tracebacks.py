"""Which tracebacks of a pipeline the log has already. PURE apart from the clock."""

import time

REPEAT_SECONDS = 600.0
"""Seconds after which a traceback is logged in full again."""
MAX_TRACEBACKS = 64
"""Different tracebacks that are compared."""


class Tracebacks:
    """Those of one pipeline, whichever of its processes has written them."""

    def __init__(self) -> None:
        self._logged: dict[int, float] = {}
        """When each was logged in full, by its hash, the oldest first."""

    def is_new(self, traceback: str) -> bool:
        """Whether the traceback should be logged in full."""
        now, key = time.monotonic(), hash(traceback)
        if now - self._logged.get(key, -REPEAT_SECONDS) < REPEAT_SECONDS:
            return False
        self._logged.pop(key, None)
        self._logged[key] = now
        if len(self._logged) > MAX_TRACEBACKS:
            del self._logged[next(iter(self._logged))]
        return True
