"""Returns unused memory to the system.

Each of glibc's arenas keeps freed memory that lies before memory in use, and a worker's threads have many arenas. So
hundreds of MiB would stay allocated after thousands of calls, or after messages of megabytes.
"""

import asyncio
import ctypes
import time
from collections.abc import Callable
from typing import Any

INTERVAL_SECONDS = 10.0
"""Seconds of an interval."""
BUSY_SHARE = 0.01
"""An interval with less processor time than this share is quiet. After any other, there may be memory to return."""
MAX_BUSY_INTERVALS = 6
"""Busy intervals after which memory is returned without a quiet one, though other threads may wait some 10 ms."""


async def return_unused(interval: float = INTERVAL_SECONDS) -> None:
    """Returns memory in the first quiet interval after a busy one. Runs until cancelled."""
    trim = _trim()
    n_waited = 0
    while trim:
        began = time.process_time()
        await asyncio.sleep(interval)
        quiet = time.process_time() - began < BUSY_SHARE * interval
        if not quiet:
            n_waited += 1
        if n_waited and (quiet or n_waited >= MAX_BUSY_INTERVALS):
            await asyncio.to_thread(trim)
            n_waited = 0


def _trim() -> Callable[[], object] | None:
    """Returns glibc's function that returns memory; None with another C library."""
    function: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return None if function is None else lambda: function(ctypes.c_size_t(0))
