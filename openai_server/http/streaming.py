"""Sends responses, whole or as events, to clients that may leave before the end.

When the client leaves, the task of its request is cancelled, and with it the call to the backend.
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
"""nginx's status for a client that left. Only the access log, metrics and spans have it."""


class ClientGone(Exception):
    """The client left before the end of the response."""


class Exchange(Protocol):
    """Operations of the server for one request, besides ASGI's messages, which would need a task for each wait."""

    @property
    def is_free(self) -> bool:
        """Whether `write_now` is possible: the head has been sent, and the client is there and reads fast enough."""

    def write_now(self, part: bytes) -> None:
        """Writes a part of the body without waiting, after the parts that were sent as messages."""

    def take_body(self) -> bytes | None:
        """The rest of the request's body if all of it has arrived; None: it must be received as messages."""

    def renew_body_time(self) -> None:
        """Starts the time limit for the request's body again, since enough of it has arrived."""

    @property
    def is_gone(self) -> bool:
        """Whether the client has left before the end of the response."""

    def when_gone(self, callback: Callable[[], None] | None) -> None:
        """Sets the function to call once when the client leaves before the end of the response; None removes it."""


async def unless_gone(scope: Mapping[str, Any], work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`. If the client leaves before that, cancels `work` and raises ClientGone."""
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
        # The server may have cancelled the task as well; its cancellation has priority.
        if gone and worker.uncancel() == 0:
            raise ClientGone from None
        raise
    finally:
        exchange.when_gone(None)


class EventWriter:
    """Writes the body of one event stream."""

    __slots__ = ("_headers", "_send", "exchange", "failure", "is_started")

    def __init__(self, send: Send, headers: list[tuple[bytes, bytes]], exchange: Exchange) -> None:
        self.is_started = False
        """Whether the head has been sent."""
        self.failure: Callable[[APIError], bytes] = sse.failure
        """Returns the last events of a stream that failed after its head was sent."""
        self._send = send
        self._headers = headers
        self.exchange = exchange
        """Writes events without waiting, while no `write` is under way."""

    async def write(self, events: bytes, *, more: bool = True) -> None:
        """Writes events, and waits if the client reads too slowly. `more`: whether other events will follow."""
        if not self.is_started:
            self.is_started = True
            await self._send({"type": "http.response.start", "status": 200, "headers": self._headers})
        await self._send({"type": "http.response.body", "body": events, "more_body": more})


class EventStream(Response):
    """A stream of events: those that `events` writes, and at the end those that it returns.

    The status is sent with the first event. A failure before that is raised, so that it gets a status of its own. A
    later failure is sent as an event, and sets `status_code` to the status that it would have had; 499 if the client
    left before the end. A cancellation by the server is a failure too; during the last send it is raised again.
    """

    def __init__(self, events: Callable[[EventWriter], Coroutine[Any, Any, bytes]]) -> None:
        self.status_code, self.background = 200, None
        self.raw_headers = sse.HEADERS.copy()
        self._events = events
        self._writer: EventWriter | None = None

    @property
    def is_started(self) -> bool:
        """Whether the head has been sent, so that no other response may follow."""
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
            last = writer.failure(failure)
        try:
            await writer.write(last, more=False)
        except asyncio.CancelledError as error:
            self.status_code = _as_api_error(error).status
            raise


def _as_api_error(error: BaseException) -> APIError:
    """The error to send to the client of a stream."""
    if isinstance(error, APIError):
        return error
    if isinstance(error, asyncio.CancelledError):
        return ShuttingDown()
    log.error("a stream failed", exc_info=error)
    return InternalError()
