"""Writes responses: the head together with the first part of the body, and events without waiting.

Clients with HTTP/1.0, and clients that send the body only after `100 Continue`, need a different `send`.
"""

import re
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

from starlette.types import Message
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from openai_server.http.streaming import EXCHANGE

_NOT_IN_A_NAME = re.compile(rb'[\x00-\x1f\x7f()<>@,;:\[\]={} \t\\"]')
_NOT_IN_A_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_WITHOUT_BODY = (204, 304)
"""Statuses of responses without a body."""


class Outlet:
    """The part of a transport that a response uses, with another `close`."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, transport: Any, close: Callable[[], None]) -> None:
        self.write: Callable[[bytes], None] = transport.write
        self.is_closing: Callable[[], bool] = transport.is_closing
        self.close = close


class Cycle(RequestResponseCycle):
    """One request and its response; a streaming.Exchange.

    Replaces uvicorn's `send`, which writes head and body separately: one write costs half as much as two.
    """

    _head = b""
    """The head of the response, until it is written together with the first part of the body."""
    _on_gone: Callable[[], None] | None = None
    on_progress: Callable[["Cycle"], None] | None = None
    """Called when enough of the request's body has arrived for its time limit to start again."""

    async def send(self, message: Any) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        expected = "http.response.body" if self.response_started else "http.response.start"
        if message["type"] != expected or self.response_complete:
            raise RuntimeError(f"{message['type']} was sent where {expected} was expected, or after the end.")
        if self.response_started:
            self._write_body(message.get("body", b""), message.get("more_body", False))
        else:
            self._begin(message["status"], message.get("headers", ()))

    def _begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        lines, names, values, has_close = [STATUS_LINE[status]], [], [], False
        for name, value in (*self.default_headers, *headers):
            name = name.lower()
            if name == b"content-length":
                if self.chunked_encoding is None:
                    self.expected_content_length, self.chunked_encoding = int(value), False
            elif name == b"connection" and b"close" in map(bytes.strip, value.lower().split(b",")):
                self.keep_alive, has_close = False, True
            lines += (name, b": ", value, b"\r\n")
            names.append(name)
            values.append(value)
        if _NOT_IN_A_NAME.search(b"".join(names)):
            raise RuntimeError("A header's name has a character that is not allowed there.")
        if _NOT_IN_A_VALUE.search(b"".join(values)):
            raise RuntimeError("A header's value has a control character.")
        if not (self.keep_alive or has_close):
            lines.append(b"connection: close\r\n")
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in _WITHOUT_BODY:
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(b"\r\n")
        self._head = b"".join(lines)

    def _write_body(self, part: bytes, more: bool) -> None:
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
            part = b""
        elif self.chunked_encoding:
            part = b"%x\r\n%b\r\n" % (len(part), part) if part else b""
            if not more:
                part += b"0\r\n\r\n"
        else:
            self.expected_content_length -= len(part)
        if self.expected_content_length < 0 or (self.expected_content_length and not more):
            raise RuntimeError("The body's length differs from its content-length.")
        self.transport.write(self._head + part)
        self._head = b""
        if not more:
            self.response_complete = True
            self.scope.pop(EXCHANGE, None)  # type: ignore[misc]  # breaks a reference cycle
            self.on_progress = None
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()

    # ---- As a streaming.Exchange

    @property
    def is_free(self) -> bool:
        return bool(self.chunked_encoding) and not (
            self.flow.write_paused or self._head or self.disconnected or self.response_complete
        )

    def write_now(self, part: bytes) -> None:
        """Writes a chunk."""
        self.transport.write(b"%x\r\n%b\r\n" % (len(part), part))

    def take_body(self) -> bytes | None:
        if self.more_body or self.disconnected or self.waiting_for_100_continue:
            return None
        body, self.body = self.body, bytearray()
        return bytes(body)

    def renew_body_time(self) -> None:
        if self.on_progress is not None:
            self.on_progress(self)

    @property
    def is_gone(self) -> bool:
        return self.disconnected

    def when_gone(self, callback: Callable[[], None] | None) -> None:
        self._on_gone = callback
        if callback is not None:
            self.flow.resume_reading()  # a large body has paused it, and then the end of the connection is not seen

    def leave(self) -> None:
        """Must be called when the client has left before the end of the response."""
        self.disconnected = True
        self.on_progress = None
        callback, self._on_gone = self._on_gone, None
        if callback is not None:
            callback()


def adapt(cycle: RequestResponseCycle) -> None:
    """Replaces `send` for a request that needs another one. Must be called before the application runs."""
    send: Callable[[Message], Awaitable[None]] = cycle.send  # type: ignore[assignment]  # Starlette's type
    if cycle.waiting_for_100_continue:
        send = partial(_send_unexpected, cycle, send)
    if cycle.scope["http_version"] == "1.0":
        send = _Plain(cycle, send).send
    cycle.send = send  # type: ignore[method-assign, assignment]


async def _send_unexpected(
    cycle: RequestResponseCycle, send: Callable[[Message], Awaitable[None]], message: Any
) -> None:
    """Sends a response without `100 Continue`. It ends the connection, as the next bytes may be the body or another
    request."""
    if cycle.waiting_for_100_continue and cycle.more_body:
        cycle.keep_alive = False
    await send(message)


class _Plain:
    """The `send` for HTTP/1.0. It has no chunks (RFC 9112, 6.1): a body of unknown length ends with the connection."""

    def __init__(self, cycle: RequestResponseCycle, send: Callable[[Message], Awaitable[None]]) -> None:
        self._cycle = cycle
        self._send = send
        self._until_close = False

    async def send(self, message: Message) -> None:
        cycle = self._cycle
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message["headers"]}
            if b"content-length" not in names:
                self._until_close, cycle.chunked_encoding, cycle.keep_alive = True, False, False
            elif cycle.keep_alive and b"connection" not in names:
                message = {**message, "headers": [*message["headers"], (b"connection", b"keep-alive")]}
        elif self._until_close:
            cycle.expected_content_length = len(message.get("body", b""))  # `_write_body` checks each part against it
        await self._send(message)
