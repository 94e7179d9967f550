"""The load of the backends, for metrics. Only backends that list contract.EXTENSION_LOAD are queried.

A scrape queries the backends and waits for a moment; a report that arrives later is used by the next scrape. So a
backend that hangs delays a scrape by WAIT at most.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass

from openai_server.backends.pool import Member, Pool
from openai_server.core.errors import BackendError
from openai_server.core.load import BackendLoad, total

log = logging.getLogger(__name__)

INTERVAL = 0.25
"""Seconds between two requests to a backend. Endpoint pickers scrape every 0.05 seconds."""
WAIT = 0.2
"""Maximum seconds that a scrape waits for the reports."""
MAX_AGE = 5.0
"""Seconds after which a report no longer counts."""


@dataclass(slots=True, eq=False)
class _Report:
    """The last report of one backend."""

    load: BackendLoad | None = None
    """None before the first report."""
    received_at: float = float("-inf")
    requested_at: float = float("-inf")
    lookup: "asyncio.Task[None] | None" = None


class LoadReports:
    """`clock` returns seconds from any start."""

    def __init__(self, pool: Pool, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._clock = clock
        self._reports: dict[Member, _Report] = {}
        """Reports of the connected backends that report their load."""

    async def refresh(self) -> None:
        """Queries the backends that were not queried within INTERVAL, and waits WAIT seconds at most."""
        now, started = self._clock(), list[asyncio.Task[None]]()
        self._reports = {member: self._reports.get(member) or _Report() for member in self._able}
        for member, report in self._reports.items():
            is_answered = report.lookup is None or report.lookup.done()
            if is_answered and now - report.requested_at >= INTERVAL:
                report.requested_at = now
                report.lookup = asyncio.create_task(self._look_up(member, report), context=Context())
                started.append(report.lookup)
        if started:
            await asyncio.wait(started, timeout=WAIT)

    @property
    def _able(self) -> list[Member]:
        return [member for member in self._pool.members if member.backend.reports_load]

    async def _look_up(self, member: Member, report: _Report) -> None:
        try:
            report.load = await member.backend.load()
            report.received_at = self._clock()
        except BackendError as error:
            log.debug("%s does not report its load: %s: %s", member.backend.target, error.status, error.message)

    @property
    def reported(self) -> BackendLoad | None:
        """The backends' load, as of `refresh`. None if they report it but no report is newer than MAX_AGE seconds; a
        backend without a newer report is left out where others have one."""
        oldest = self._clock() - MAX_AGE
        loads = [report.load for report in self._reports.values() if report.load and report.received_at >= oldest]
        return total(loads) if loads or not self._reports else None

    @property
    def n_unreported(self) -> int:
        """Requests of this process in progress at backends that don't report their load."""
        return sum(member.backend.n_running for member in self._pool.members if not member.backend.reports_load)

    def close(self) -> None:
        for report in self._reports.values():
            if report.lookup is not None:
                report.lookup.cancel()
