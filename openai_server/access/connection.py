"""uvicorn's connection, whose client has to send its headers in time and within bounds, and to read its answer in time.

uvicorn bounds none of it: a client that sends a byte now and then would hold a connection for ever, one that does not
read a place among those that run, and one that sends no end of headers would fill the memory. Those that are more
than so many are told so and closed at once. (uvicorn's `limit_concurrency` lets them in, and refuses what they ask.)
"""

import sys
from asyncio import TimerHandle, Transport
from collections.abc import Callable
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, cast

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from openai_server.errors import APIError, TooManyConnections

MAX_HEADER_BYTES = 64 << 10
"""Of a request line and its headers; also of whatever else comes between two pieces of a body."""
MAX_HEADERS = 128
"""Small ones take many times their size."""
MAX_PIPELINED = 64
"""Requests that may wait for the answers to those before them; each read may bring thousands of small ones."""


BODY_LATE = "body_late"
"""In the ASGI scope of a request whose body was given up: the seconds that it had. What came of it is all there is."""


class Phase(Enum):
    """What of a request is expected next."""

    HEADERS = auto()
    BODY = auto()
    NOTHING = auto()
    """Its end has come."""


class Connection(HttpToolsProtocol):
    """A new connection has as long for its first byte as for its headers."""

    HEADER_SECONDS: float
    BODY_SECONDS: float
    SEND_SECONDS: float
    MOST: int
    """Open ones at a time; with TLS, those whose handshake is done."""
    refused: Callable[[], None]
    """Told of each that is one too many."""

    _phase = Phase.NOTHING
    _unread = 0
    """Bytes since the last piece of a body, or since the last request."""
    _timer: TimerHandle | None = None
    _timed: Phase | None = None
    """For what the timer was set."""
    _send_timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn
        super().connection_made(transport)
        if len(self.connections) > self.MOST:
            self.refused()
            self._refuse(TooManyConnections())
        else:
            self._set_timer(Phase.HEADERS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_send_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unread += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            self._stop_timer()
        elif self._unread > MAX_HEADER_BYTES or len(self.headers or ()) > MAX_HEADERS:
            self._refuse(_headers_too_large())
        elif self._phase is Phase.NOTHING and (self._unread == 0 or self._answering()):
            self._stop_timer()
        else:  # Bytes that begin no request, such as empty lines, are those of headers as well.
            expected = Phase.BODY if self._phase is Phase.BODY else Phase.HEADERS
            if self._timed is not expected:
                self._set_timer(expected)

    # ---- Of the parser

    def on_message_begin(self) -> None:
        self._phase = Phase.HEADERS
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._phase = Phase.BODY
        too_many = len(self.headers or ()) > MAX_HEADERS
        if too_many or (self._unread > MAX_HEADER_BYTES and self._header_bytes() > MAX_HEADER_BYTES):
            raise _headers_too_large()
        self._unread = 0
        if len(self.pipeline) >= MAX_PIPELINED:
            raise APIError(400, f"More than {MAX_PIPELINED} requests came without waiting for their answers.")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._phase = Phase.NOTHING
        self._unread = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Called where the parser's error, of which ours is the context, is handled."""
        error = sys.exception()
        ours = error.__context__ if error else None
        if not isinstance(ours, APIError):
            ours = APIError(400, "The request is not valid HTTP.", code="invalid_http")
        self._refuse(ours)

    def _header_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    # ---- Readers

    def pause_writing(self) -> None:
        """More waits to be sent than should."""
        super().pause_writing()
        self._set_send_timer()

    def resume_writing(self) -> None:
        self._stop_send_timer()
        super().resume_writing()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()  # Else each answer would let in more requests.
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self._set_send_timer()  # Else it would be closing until all of it is sent.

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def _set_send_timer(self) -> None:
        if self._send_timer is None:
            self._send_timer = self.loop.call_later(self.SEND_SECONDS, self.transport.abort)

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    # ---- Senders

    def _set_timer(self, phase: Phase) -> None:
        self._stop_timer()
        self._timed = phase
        seconds = self.HEADER_SECONDS if phase is Phase.HEADERS else self.BODY_SECONDS
        self._timer = self.loop.call_later(seconds, self._late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._timed = None

    def _late(self) -> None:
        phase, self._timed = self._timed, None
        if self.transport.is_closing() or phase is None:
            return
        if self.flow.read_paused or self.pipeline or self._answering():
            # It is we who don't read, or an answer is still on its way, which must not be cut off.
            self._set_timer(phase)
            if phase is Phase.BODY and not (self.flow.read_paused or self.pipeline or self.cycle.response_started):
                self._end_body()
        elif self._phase is Phase.NOTHING and self._unread == 0:
            self.transport.close()  # It never said anything, and expects no answer.
        elif phase is Phase.HEADERS:
            problem = f"The request's headers did not arrive within {self.HEADER_SECONDS:g} s."
            self._refuse(APIError(408, problem, code="request_timeout"))
        else:
            self.transport.close()

    def _end_body(self) -> None:
        """For the application, which waits for it. What comes of it later must not be taken for another request."""
        cast(dict[str, Any], self.cycle.scope)[BODY_LATE] = self.BODY_SECONDS
        self.cycle.keep_alive = self.cycle.more_body = False
        self.cycle.message_event.set()

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, error: APIError) -> None:
        """Ends the connection; if no answer is on its way, with this one."""
        self._stop_timer()
        if not self._answering():
            body = orjson.dumps(error.envelope())
            head = [
                f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}",
                "content-type: application/json",
                f"content-length: {len(body)}",
                *(f"{name}: {value}" for name, value in error.headers.items()),
                "connection: close",
            ]
            self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
        self.transport.close()


def _headers_too_large() -> APIError:
    return APIError(431, f"There are more than {MAX_HEADER_BYTES} bytes or {MAX_HEADERS} lines of headers.")


def connection(
    *, header_seconds: float, body_seconds: float, send_seconds: float, most: int, refused: Callable[[], None]
) -> type[Any]:
    """uvicorn takes a class, and makes one for each connection itself."""
    bounds = {
        "HEADER_SECONDS": header_seconds,
        "BODY_SECONDS": body_seconds,
        "SEND_SECONDS": send_seconds,
        "MOST": most,
        "refused": staticmethod(refused),
    }
    return type("Connection", (Connection,), bounds)
