"""Sending an answer, whole or as events, to a client that may go away before it is there.

When the client goes, the task that works for it is cancelled, and with it the call to the backend.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from openai_server.core.errors import APIError, InternalError, ShuttingDown
from openai_server.http import sse

log = logging.getLogger(__name__)
T = TypeVar("T")

EXCHANGE = "exchange"
"""Key in the ASGI scope: the request's Exchange."""

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that left; nobody sees it but the access log."""


class ClientGone(Exception):
    """Nobody is there to read the answer."""


class Exchange(Protocol):
    """What the server offers for one request beside ASGI's messages, which cost a task for each thing to wait for."""

    @property
    def is_free(self) -> bool:
        """Whether the client reads fast enough, and is there, so that `write_now` need not wait."""

    def write_now(self, part: bytes) -> None:
        """Writes a part of the body, in the order of the parts that are sent as messages."""

    def take_body(self) -> bytes | None:
        """The rest of the request's body, if all of it has come; None: it has to be received."""

    @property
    def is_gone(self) -> bool:
        """Whether the client has left before the end of the response."""

    def when_gone(self, callback: Callable[[], None] | None) -> None:
        """Calls it once if the client leaves from now on, before the end of the response. None: no longer."""


async def unless_gone(scope: Mapping[str, Any], work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled if the client leaves before that; then raises ClientGone."""
    worker = asyncio.current_task()
    assert worker is not None
    exchange: Exchange = scope[EXCHANGE]
    if exchange.is_gone:
        work.close()
        raise ClientGone
    gone = False

    def cancel() -> None:
        nonlocal gone
        gone = True
        worker.cancel()

    exchange.when_gone(cancel)
    try:
        return await work
    except asyncio.CancelledError:
        # The server may have cancelled as well, and that counts more.
        if gone and worker.uncancel() == 0:
            raise ClientGone from None
        raise
    finally:
        exchange.when_gone(None)


class EventWriter:
    """Writes the body of one event stream."""

    __slots__ = ("_exchange", "_headers", "_send", "is_started", "write_now")

    def __init__(self, send: Send, headers: list[tuple[bytes, bytes]], exchange: Exchange) -> None:
        self.is_started = False
        """The head has been sent."""
        self._send = send
        self._headers = headers
        self._exchange = exchange
        self.write_now: Callable[[bytes], None] = exchange.write_now
        """Writes events without waiting, if `is_free`."""

    @property
    def is_free(self) -> bool:
        """Whether `write_now` may be called."""
        return self.is_started and self._exchange.is_free

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
        self.status_code, self.background = 200, None
        self.raw_headers = sse.HEADERS.copy()
        self._events = events
        self._writer: EventWriter | None = None

    @property
    def is_started(self) -> bool:
        """The head has been sent, so that no other response may follow."""
        return self._writer is not None and self._writer.is_started

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writer = self._writer = EventWriter(send, self.raw_headers, scope[EXCHANGE])
        try:
            last = await unless_gone(scope, self._events(writer))
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
