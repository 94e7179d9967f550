"""Watches a pipeline's process: whether its event loop runs, and how much memory it uses."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable

from anyserve_worker.pipelines.limits import Limits

log = logging.getLogger(__name__)

MAX_INTERVAL = 1.0
"""Seconds between two looks at a process."""
KILL_FACTOR = 1.25
"""Memory, in times the limit, at which a process is killed before it has finished its requests."""


class VitalSigns:
    def __init__(
        self,
        pid: int,
        limits: Limits,
        *,
        ping: Callable[[], None],
        on_memory: Callable[[int], None],
        replace: Callable[[str], None],
        kill: Callable[[str, bool], Awaitable[None]],
    ) -> None:
        """`on_memory` is called with the resident memory in bytes, `replace` with a problem that another process
        solves, `kill` with a problem that can't wait, and whether the stacks of the threads explain it."""
        self._pid = pid
        self._limits = limits
        self._ping = ping
        self._on_memory = on_memory
        self._replace = replace
        self._kill = kill
        self._n_silent = 0
        """Intervals since the oldest ping without a pong. A late wake-up of the worker itself counts as one."""
        self._stopped = False
        self.started = False
        """Whether the pipeline has started. Before, its event loop may be blocked: imports and models take long."""

    def pong(self) -> None:
        self._n_silent = 0

    def stop(self) -> None:
        self._stopped = True

    async def watch(self) -> None:
        """Returns when the process is killed, or after `stop`."""
        interval = min(MAX_INTERVAL, self._limits.stall_timeout / 4)
        while not self._stopped:
            if not self._n_silent:
                self._ping()
            self._n_silent += 1
            await asyncio.sleep(interval)
            if self._stopped:
                return
            if not self.started:
                self._n_silent = 0
            elif self._n_silent * interval > self._limits.stall_timeout:
                await self._kill(f"its event loop has been blocked for {self._limits.stall_timeout:g} s", True)
                return
            memory = resident_memory(self._pid)
            self._on_memory(memory)
            if await self._exceeds(memory):
                return

    async def _exceeds(self, memory: int) -> bool:
        """Whether the process was killed for its memory."""
        if self._limits.memory is None:
            return False
        used, limit = memory / 2**20, self._limits.memory
        if used > limit * KILL_FACTOR:
            await self._kill(f"it uses {used:.0f} MiB of memory, the limit is {limit} MiB", False)
            return True
        if used > limit:
            self._replace(f"it uses {used:.0f} MiB of memory, the limit is {limit} MiB")
        return False


def resident_memory(pid: int) -> int:
    """Bytes of resident memory; 0 if it is unknown."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
