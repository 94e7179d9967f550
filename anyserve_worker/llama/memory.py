"""Gives unused memory back to the system.

glibc keeps what was freed behind anything that still lives, in each of its arenas, and a worker's threads have many of
them: hundreds of MiB would stay after thousands of calls, or after messages of megabytes.
"""

import asyncio
import ctypes
import time
from collections.abc import Callable
from typing import Any

INTERVAL_SECONDS = 10.0
"""Seconds between two looks at what the process has done."""
BUSY_SHARE = 0.01
"""Processor time in each second of an interval, from which on there may be something to give back; else it is quiet."""
MAX_BUSY_INTERVALS = 6
"""Without a quiet interval, memory is given back after so many, though others may wait some 10 ms for that."""


async def give_back(interval: float = INTERVAL_SECONDS) -> None:
    """In the first quiet interval after each that was not. Until it is cancelled."""
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
    """None where the C library is not glibc."""
    function: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return None if function is None else lambda: function(ctypes.c_size_t(0))
