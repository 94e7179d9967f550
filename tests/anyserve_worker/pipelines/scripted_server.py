"""An HTTP server whose answers a test writes byte by byte."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Call:
    """A request, and the connection on which it is answered."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    async def begin(self, status: int = 200, type: str = "text/event-stream", headers: tuple[str, ...] = ()) -> None:
        """Sends the head of an answer whose end is the end of the last chunk."""
        lines = (f"HTTP/1.1 {status} X", f"Content-Type: {type}", "Transfer-Encoding: chunked", *headers)
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        await self.writer.drain()

    async def send(self, data: str | bytes) -> None:
        data = data.encode() if isinstance(data, str) else data
        self.writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        await self.writer.drain()

    async def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    async def stream(self, *pieces: str | bytes, type: str = "text/event-stream") -> None:
        await self.begin(type=type)
        for piece in pieces:
            await self.send(piece)
        await self.end()

    async def reply(
        self, body: Any, status: int = 200, type: str = "application/json", headers: tuple[str, ...] = ()
    ) -> None:
        """Sends a whole answer; `body` is text or a JSON value."""
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        lines = (f"HTTP/1.1 {status} X", f"Content-Type: {type}", f"Content-Length: {len(data)}", *headers)
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + data)
        await self.writer.drain()

    def reset(self) -> None:
        self.writer.transport.abort()

    async def until_closed(self) -> None:
        """Returns when the client has closed the connection."""
        with suppress(ConnectionError):
            while await self.reader.read(1 << 16):
                pass


Script = Callable[[Call], Awaitable[None]]


@dataclass
class ScriptedServer:
    script: Script
    """Answers everything but the list of models and the check of the server."""
    port: int = 0
    calls: list[Call] = field(default_factory=list)
    """Requests that the script has answered."""
    checks: list[Call] = field(default_factory=list)
    """All GET requests."""
    models: Any = field(default_factory=lambda: {"data": [{"id": "model"}]})
    check_status: int = 200
    n_connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.n_connections += 1
        try:
            while head := await _head(reader):
                call = await _call(head, reader, writer)
                if call.method == "GET":
                    self.checks.append(call)
                    await call.reply(self.models, self.check_status)
                else:
                    self.calls.append(call)
                    await self.script(call)
        except ConnectionError:
            pass
        finally:
            writer.close()


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


async def _call(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Call:
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Call(method, path, headers, body, reader, writer)


@asynccontextmanager
async def scripted_server(script: Script, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer(script)
    tasks = set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await scripted.serve(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(serve, host, port)
    scripted.port = server.sockets[0].getsockname()[1]
    try:
        yield scripted
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
