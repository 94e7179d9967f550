"""Sending an answer, whole or as events, to a client that may go away before it is there.

When the client goes, the task that works for it is cancelled, and with it the call to the backend.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from openai_server.core.errors import APIError, InternalError, ShuttingDown
from openai_server.http import sse

log = logging.getLogger(__name__)
T = TypeVar("T")

WRITE_NOW = "write_now"
"""Key in the ASGI scope: a `WriteNow`, where the server has one for this response."""

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that left; nobody sees it but the access log."""
WATCH_AFTER = 0.01
"""Seconds before a client is watched: an answer that is there sooner would only wait for the task that does it."""


class ClientGone(Exception):
    """Nobody is there to read the answer."""


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled if the client leaves before that; then raises ClientGone.

    The body must have been read. This task does the work itself: waiting for another one would make it later.
    """
    worker = asyncio.current_task()
    assert worker is not None
    watcher: asyncio.Task[None] | None = None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        worker.cancel()

    def begin_to_watch() -> None:
        nonlocal watcher
        watcher = asyncio.create_task(watch())

    timer = asyncio.get_running_loop().call_later(WATCH_AFTER, begin_to_watch)
    try:
        return await work
    except asyncio.CancelledError:
        # The server may have cancelled as well, and that counts more.
        if gone and worker.uncancel() == 0:
            raise ClientGone from None
        raise
    finally:
        timer.cancel()
        if watcher is not None:
            watcher.cancel()


class WriteNow(Protocol):
    """Writes a part of the body, in the order of the parts that are sent as ASGI messages."""

    @property
    def is_free(self) -> bool:
        """Whether the client reads fast enough, and is there, so that `write_now` need not wait."""

    def write_now(self, part: bytes) -> None: ...


class EventWriter:
    """Writes the body of one event stream."""

    __slots__ = ("_headers", "_now", "_send", "is_started")

    def __init__(self, send: Send, headers: list[tuple[bytes, bytes]], now: WriteNow | None) -> None:
        self.is_started = False
        """The head has been sent."""
        self._send = send
        self._headers = headers
        self._now = now

    @property
    def is_free(self) -> bool:
        """Whether `write_now` may be called."""
        now = self._now
        return now is not None and self.is_started and now.is_free

    def write_now(self, events: bytes) -> None:
        """Writes without waiting."""
        assert self._now is not None
        self._now.write_now(events)

    async def write(self, events: bytes, *, more: bool = True) -> None:
        """Waits while the client reads more slowly. `more`: these are not the last events."""
        if not self.is_started:
            self.is_started = True
            await self._send({"type": "http.response.start", "status": 200, "headers": self._headers})
        await self._send({"type": "http.response.body", "body": events, "more_body": more})


class EventStream(Response):
    """What `events` writes, as it comes, and at last what it returns.

    The status is sent with the first event. A failure before that is raised, so that it gets a status of its own; a
    later one becomes an event, and `status_code` what it would have been; 499 if the client left before the end.
    Cancelling is the server's way to say that it waits no longer; during the last send it is raised again.
    """

    def __init__(self, events: Callable[[EventWriter], Coroutine[Any, Any, bytes]]) -> None:
        super().__init__(headers=sse.HEADERS)
        del self.headers["content-length"]
        self._events = events
        self._writer: EventWriter | None = None

    @property
    def is_started(self) -> bool:
        """The head has been sent, so that no other response may follow."""
        return self._writer is not None and self._writer.is_started

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writer = self._writer = EventWriter(send, self.raw_headers, scope.get(WRITE_NOW))
        try:
            last = await unless_gone(receive, self._events(writer))
        except ClientGone:
            self.status_code = CLIENT_CLOSED_REQUEST
            return
        except (asyncio.CancelledError, Exception) as error:
            if not writer.is_started:
                raise
            failure = _as_api_error(error)
            self.status_code = failure.status
            last = sse.failure(failure)
        try:
            await writer.write(last, more=False)
        except asyncio.CancelledError as error:
            self.status_code = _as_api_error(error).status
            raise


def _as_api_error(error: BaseException) -> APIError:
    """The error that the client of a stream gets."""
    if isinstance(error, APIError):
        return error
    if isinstance(error, asyncio.CancelledError):
        return ShuttingDown()
    log.error("a stream failed", exc_info=error)
    return InternalError()
