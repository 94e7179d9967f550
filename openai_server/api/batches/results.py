"""Stores the results of lines: those that end while one transaction runs are stored by the next one together."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence

from openai_server.core.store_errors import StoreAway, Superseded
from openai_server.store.batch_records import LineResult

log = logging.getLogger(__name__)

MAX_GROUP = 256
MAX_GROUP_BYTES = 4 << 20
"""Results that one transaction stores, and their bytes, unless the first one is larger."""
RETRY_SECONDS = 0.5
"""Time until a transaction is tried again that the store didn't answer."""

Add = Callable[[Sequence[LineResult]], Awaitable[Collection[str]]]
"""`BatchStore.add_results`."""


class Results:
    """`ended` is called with the results that a transaction has stored."""

    def __init__(self, add: Add, ended: Callable[[Sequence[LineResult]], None]) -> None:
        self._add, self._ended = add, ended
        self._waiting: dict[asyncio.Future[bool], LineResult] = {}
        """The results that are not stored yet, by what is set to whether they were."""
        self._writing: asyncio.Task[None] | None = None

    async def add(self, result: LineResult) -> None:
        """Returns when the result is committed. Raises Superseded if the line is no longer this process' own. The
        result may be stored even if this task is cancelled."""
        future = asyncio.get_running_loop().create_future()
        self._waiting[future] = result
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        if not await future:
            raise Superseded

    async def flush(self, seconds: float) -> None:
        """Waits for the results that are not stored yet, at most this number of seconds."""
        if self._writing is not None:
            await asyncio.wait([self._writing], timeout=seconds)

    async def close(self) -> None:
        """Gives up the results that are not stored yet."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait([self._writing])

    async def _write(self) -> None:
        while self._waiting:
            group = self._group()
            try:
                left = await self._add(list(group.values()))
            except StoreAway:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            except Exception:
                log.exception("the results of %d lines can't be stored", len(group))
                left = {result.run.id for result in group.values()}
            self._ended([result for result in group.values() if result.run.id not in left])
            for future, result in group.items():
                del self._waiting[future]
                if not future.done():  # else its task was cancelled
                    future.set_result(result.run.id not in left)

    def _group(self) -> dict[asyncio.Future[bool], LineResult]:
        group: dict[asyncio.Future[bool], LineResult] = {}
        n_bytes = 0
        for future, result in self._waiting.items():
            n_bytes += len(result.data)
            if group and (len(group) >= MAX_GROUP or n_bytes > MAX_GROUP_BYTES):
                break
            group[future] = result
        return group
