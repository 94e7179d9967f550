"""Stores the log of a background response while it is generated."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from openai_server.api.responses.background.event_log import batches
from openai_server.core.errors import APIError
from openai_server.core.store_errors import StoreAway
from openai_server.http import sse
from openai_server.store.records import EventBatch

MAX_BATCH_BYTES = 64 << 10
"""Maximum size of a batch, unless a single record is larger. As many bytes may wait to be stored."""
WRITE_SECONDS = 0.05
"""Minimum time between the beginnings of two writes. Records that come meanwhile are stored together."""
RETRY_SECONDS = 0.5
"""Time until a write is tried again that the store didn't answer. The runner ends this when the lease is lost."""

Add = Callable[[Sequence[EventBatch]], Awaitable[None]]
"""Stores batches of one run. Raises StoreAway, and Superseded if they are refused."""


class LogSink:
    """An `EventSink` for the store. Failures of the store are raised by the next write. `stored` is called after each
    write: followers get events only when they are stored."""

    def __init__(self, add: Add, stored: Callable[[], None]) -> None:
        self.failure: Callable[[APIError], bytes] = sse.failure
        self.n_batches = 0
        """Number of the next batch."""
        self._add = add
        self._stored = stored
        self._waiting = bytearray()
        self._has_room = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        self._pause: asyncio.Future[None] | None = None
        """Ends the pause of the writing task between two writes."""
        self._is_closing = False
        self._error: BaseException | None = None

    @property
    def exchange(self) -> "LogSink":
        return self

    @property
    def is_free(self) -> bool:
        return len(self._waiting) < MAX_BATCH_BYTES and self._error is None

    @property
    def has_records(self) -> bool:
        """Whether anything was written."""
        return self.n_batches > 0 or bool(self._waiting)

    def write_now(self, part: bytes) -> None:
        if self._error is not None:
            raise self._error
        self._waiting += part
        if self._writing is None and self._waiting:
            self._writing = asyncio.create_task(self._write())

    async def write(self, events: bytes) -> None:
        self.write_now(events)
        while not self.is_free:
            self._has_room.clear()
            await self._has_room.wait()
            if self._error is not None:
                raise self._error

    async def close(self) -> list[EventBatch]:
        """Waits for the write that is under way, and returns what hasn't been stored."""
        self._is_closing = True
        if self._writing is not None:
            if self._pause is not None and not self._pause.done():
                self._pause.set_result(None)
            await self._writing
        if self._error is not None:
            raise self._error
        return self._taken()

    def abort(self) -> None:
        """Stores nothing more. A write that is under way may still be stored."""
        if self._writing is not None:
            self._writing.cancel()

    def batches_of(self, data: bytes) -> list[EventBatch]:
        """The data as the next batches."""
        parts = [EventBatch(self.n_batches + i, part) for i, part in enumerate(batches(data, MAX_BATCH_BYTES))]
        self.n_batches += len(parts)
        return parts

    def _taken(self) -> list[EventBatch]:
        data = bytes(self._waiting)
        self._waiting.clear()
        self._has_room.set()
        return self.batches_of(data)

    async def _write(self) -> None:
        """Stores what waits until nothing does, or until `close`. Never raises anything but a cancellation."""
        loop = asyncio.get_running_loop()
        try:
            while self._waiting and not self._is_closing:
                next_at = loop.time() + WRITE_SECONDS
                await self._stored_for_certain(self._taken())
                self._stored()
                await self._rest(next_at - loop.time())
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._error = error
            self._has_room.set()
        finally:
            self._writing = None

    async def _stored_for_certain(self, waiting: Sequence[EventBatch]) -> None:
        while True:
            try:
                await self._add(waiting)
            except StoreAway:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            return

    async def _rest(self, seconds: float) -> None:
        if self._is_closing or seconds <= 0:
            return
        loop = asyncio.get_running_loop()
        self._pause = loop.create_future()
        timer = loop.call_later(seconds, _finish, self._pause)
        try:
            await self._pause
        finally:
            timer.cancel()
            self._pause = None


def _finish(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
