"""Sending an answer, whole or as events, to a client that may go away before it is there.

When the client goes, the task that works for it is cancelled, and with it the call to the backend.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from openai_server.core.errors import APIError, InternalError, ShuttingDown
from openai_server.http import sse

log = logging.getLogger(__name__)
T = TypeVar("T")
Write = Callable[[bytes], Awaitable[None]]

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


class EventStream(Response):
    """What `events` writes, as it comes.

    The status is sent with the first event. A failure before that is raised, so that it gets a status of its own; a
    later one becomes an event, and `status_code` what it would have been; 499 if the client left before the end.
    Cancelling is the server's way to say that it waits no longer.
    """

    def __init__(self, events: Callable[[Write], Coroutine[Any, Any, None]]) -> None:
        super().__init__(headers=sse.HEADERS)
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def write(event: bytes) -> None:
            nonlocal started
            if not started:
                started = True
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": event, "more_body": True})

        last = b""
        try:
            await unless_gone(receive, self._events(write))
        except ClientGone:
            self.status_code = CLIENT_CLOSED_REQUEST
            return
        except (asyncio.CancelledError, Exception) as error:
            if not started:
                raise
            told = _told(error)
            self.status_code = told.status
            last = sse.failure(told)
        await send({"type": "http.response.body", "body": last})


def _told(error: BaseException) -> APIError:
    if isinstance(error, APIError):
        return error
    if isinstance(error, asyncio.CancelledError):
        return ShuttingDown()
    log.error("a stream failed", exc_info=error)
    return InternalError()
