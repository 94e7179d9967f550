"""How an answer is written: its head with the first of its body, and events without a task that waits for them.

It differs for a client of HTTP/1.0, and for one that sends its body only after `100 Continue`.
"""

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


class _HeldHead:
    """Takes the place of the outlet until the head of an answer can be written with the first part of its body."""

    __slots__ = ("_cycle", "_head", "_outlet", "is_closing")

    def __init__(self, cycle: "Cycle", outlet: Outlet) -> None:
        self._cycle = cycle
        self._head = b""
        self._outlet = outlet
        self.is_closing = outlet.is_closing

    def write(self, data: bytes) -> None:
        if self._head:
            self.release(data)
        else:
            self._head = data

    def release(self, body: bytes = b"") -> None:
        self._cycle.transport = self._outlet  # type: ignore[assignment]  # all of it that a cycle uses
        self._outlet.write(self._head + body)

    def close(self) -> None:
        self.release()
        self._outlet.close()


class Cycle(RequestResponseCycle):
    """One request and its answer. Head and body are one write, which costs half as much as two; also a
    streaming.WriteNow."""

    async def send(self, message: Any) -> None:
        if not self.response_started:
            self.transport = _HeldHead(self, self.transport)  # type: ignore[arg-type, assignment]
            await super().send(message)
            return
        await super().send(message)
        if isinstance(self.transport, _HeldHead):
            self.transport.release()  # a body of no bytes, such as that of the answer to HEAD

    @property
    def is_free(self) -> bool:
        return bool(self.chunked_encoding) and not (
            self.flow.write_paused or self.disconnected or self.response_complete
        )

    def write_now(self, part: bytes) -> None:
        """Writes a chunk, as uvicorn's `send` does."""
        self.transport.write(b"%x\r\n%b\r\n" % (len(part), part))


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
