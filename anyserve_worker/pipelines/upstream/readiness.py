"""Checks whether an upstream can be reached, seldom enough not to burden it, and reports the states of its models."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from anyserve_worker.pipelines.core.pipeline import ModelState, Report

FIRST_PAUSE = 1.0
"""Seconds between checks after the upstream was away or a request has failed; doubled up to the interval."""

_log = logging.getLogger(__name__)


class ReadinessWatch:
    """Reports states whenever they have changed. Models come back by themselves when the upstream does."""

    def __init__(self, check: Callable[[], Awaitable[Sequence[ModelState]]], report: Report, interval: float) -> None:
        self._check = check
        """Returns the current states, and raises nothing."""
        self._report = report
        self._interval = interval
        self._states: list[ModelState] | None = None
        self._request_failed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Reports the first states, and goes on checking."""
        await self._check_once()
        self._task = asyncio.create_task(self._run())

    def recheck(self) -> None:
        """A request couldn't reach the upstream: checks soon."""
        self._request_failed.set()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            if self._states and all(state.ready for state in self._states):
                pause = FIRST_PAUSE
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._interval):
                        await self._request_failed.wait()
            else:
                await asyncio.sleep(min(pause, self._interval))
                pause *= 2
            self._request_failed.clear()
            await self._check_once()
            await asyncio.sleep(min(FIRST_PAUSE, self._interval))

    async def _check_once(self) -> None:
        states = list(await self._check())
        if states == self._states:
            return
        for state in states:
            if not state.ready:
                _log.warning("model %s is not ready: %s", state.name, state.reason)
        self._states = states
        self._report(states)
