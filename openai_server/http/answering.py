"""How an answer differs for a client of HTTP/1.0, and for one that sends its body only after `100 Continue`."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from starlette.types import Message
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class Outlet:
    """The part of a transport that an answer uses, with another `close`."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, transport: Any, close: Callable[[], None]) -> None:
        self.write: Callable[[bytes], None] = transport.write
        self.is_closing: Callable[[], bool] = transport.is_closing
        self.close = close


def adapt(cycle: RequestResponseCycle) -> None:
    """Must be called before the application runs. Other requests keep uvicorn's own `send`, which costs less."""
    send: Callable[[Message], Awaitable[None]] = cycle.send  # type: ignore[assignment]  # Starlette's type
    if cycle.waiting_for_100_continue:
        send = partial(_send_unexpected, cycle, send)
    if cycle.scope["http_version"] == "1.0":
        send = _Plain(cycle, send).send
    cycle.send = send  # type: ignore[method-assign, assignment]


async def _send_unexpected(cycle: RequestResponseCycle, send: Callable[[Message], Awaitable[None]], what: Any) -> None:
    """After an answer instead of `100 Continue`, the next bytes may be the body or another request."""
    if cycle.waiting_for_100_continue and cycle.more_body:
        cycle.keep_alive = False
    await send(what)


class _Plain:
    """HTTP/1.0 knows no chunks (RFC 9112, 6.1): a body of unknown length ends with the connection."""

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
            cycle.expected_content_length = len(message.get("body", b""))  # uvicorn checks each part against it
        await self._send(message)
