"""The load generator: closed-loop clients in a separate process, cheap enough not to disturb the measurement.

    python -m benchmarks.load < orders.json > answers.json

Each client sends its next request as soon as its last one has ended. It uses httptools' C parser and uvloop.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import deque
from dataclasses import asdict
from typing import Any, cast

import httptools
import orjson
import uvloop

from benchmarks.events import DONE, EventReader
from benchmarks.orders import Answer, Orders

MARK = b"~"
"""In `count` mode: a byte that each token has once. A single byte can't be split between two reads."""

LOST = "the connection was lost"


class Client(asyncio.Protocol):
    """One connection, kept open between requests if the server keeps it open."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[None] | None = None
        self._answer = Answer(0.0)

    async def send(self, body: bytes, answer: Answer) -> None:
        kept = self._transport is not None
        await self._send(body, answer)
        if kept and answer.error == LOST and not self._began:
            # Some servers close a connection that they promised to keep open: send the request again.
            answer.error = ""
            await self._send(body, answer)

    async def _send(self, body: bytes, answer: Answer) -> None:
        load = self._load
        if self._transport is None or self._transport.is_closing():
            await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", load.orders.port)
        assert self._transport
        self._answer, self._events, self._whole = answer, EventReader(), b""
        self._marks = 0
        self._began = self._stays_open = False
        self._parser = httptools.HttpResponseParser(self)
        self._done = asyncio.get_running_loop().create_future()
        head = f"POST {load.orders.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        answer.sent = load.now()
        self._transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        try:
            await self._done
        finally:
            answer.ended = load.now()
            if not self._stays_open:
                self.close()

    def close(self) -> None:
        if self._transport:
            self._transport.abort()
            self._transport = None

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._began = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(str(error))

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        self._end(LOST)

    # ---- httptools' callbacks

    def on_body(self, body: bytes) -> None:
        answer, status = self._answer, self._parser.get_status_code()
        if self._load.orders.count and status == 200:
            marks = body.count(MARK)
            if marks and not answer.times:
                answer.times.append(self._load.now())
            self._marks += marks
            answer.tokens = self._marks // self._load.orders.copies
            answer.events += body.count(b"\n\n")
        elif status != 200:
            self._whole += body
        else:
            for event in self._events.feed(body):
                if event != DONE:
                    self._read(orjson.loads(event))

    def on_message_complete(self) -> None:
        status, self._stays_open = self._parser.get_status_code(), self._parser.should_keep_alive()
        self._end("" if status == 200 else f"{status}: {self._whole[:500].decode(errors='replace')}")

    # ----

    def _read(self, chunk: dict[str, Any]) -> None:
        answer = self._answer
        answer.events += 1
        if "error" in chunk:
            answer.error = str(chunk["error"])
        for choice in chunk.get("choices") or ():
            if choice.get("text") or (choice.get("delta") or {}).get("content"):
                answer.times.append(self._load.now())
                answer.choices.append(choice.get("index", 0))
                self._load.arrived(answer)
            answer.finish = choice.get("finish_reason") or answer.finish
        if usage := chunk.get("usage"):
            answer.tokens = usage.get("completion_tokens") or 0
            answer.prompt_tokens = usage.get("prompt_tokens") or 0
            answer.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0

    def _end(self, error: str) -> None:
        if self._done and not self._done.done():
            self._answer.error = self._answer.error or error
            self._done.set_result(None)


class Load:
    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.answers: list[Answer] = []
        self._bodies = deque(body.encode() for body in orders.bodies)
        self._all_stream = asyncio.Event()
        self._began = 0.0
        self._random = random.Random(len(orders.bodies))  # the same pauses for each system

    def now(self) -> float:
        return time.perf_counter() - self._began

    def arrived(self, answer: Answer) -> None:
        """Called for each chunk with text."""
        if answer.late:
            self._late_began.set()
        elif len(answer.times) == self.orders.late_after:
            running = sum(not answer.ended and len(answer.times) >= self.orders.late_after for answer in self.answers)
            if running >= self.orders.concurrency:
                self._all_stream.set()

    async def run(self) -> list[Answer]:
        self._late_began = asyncio.Event()
        clients = [asyncio.ensure_future(self._client()) for _ in range(self.orders.concurrency)]
        self._began = self.orders.began or time.perf_counter()
        work: set[asyncio.Future[Any]] = {asyncio.gather(*clients)}
        if self.orders.late:
            work.add(asyncio.ensure_future(self._come_late()))
        done, _ = await asyncio.wait(work, timeout=self.orders.limit_s, return_when=asyncio.FIRST_COMPLETED)
        ended = self.now()
        for task in done:
            task.result()  # raises errors of the load generator itself
        for answer in self.answers:
            if not answer.ended:
                answer.cut, answer.ended = True, ended
        return self.answers

    async def _client(self) -> None:
        client, bodies = Client(self), self._bodies
        while bodies:
            for body in [bodies.popleft() for _ in range(min(self.orders.turns, len(bodies)))]:
                if self.orders.pause_s:
                    await asyncio.sleep(self._random.expovariate(1 / self.orders.pause_s))
                answer = Answer(self.now())
                await self._send(client, body, answer)
                if self.orders.think:
                    pause = self._random.expovariate(1 / self.orders.think)
                    await asyncio.sleep(pause * (answer.ended - answer.sent))
        client.close()

    async def _come_late(self) -> None:
        """Sends the late request once all clients stream. Returns 0.5 s after its answer has begun."""
        await self._all_stream.wait()
        request = asyncio.ensure_future(self._send(Client(self), self.orders.late.encode(), Answer(0.0, late=True)))
        begun = asyncio.ensure_future(self._late_began.wait())
        await asyncio.wait((request, begun), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0.5)

    async def _send(self, client: Client, body: bytes, answer: Answer) -> None:
        self.answers.append(answer)
        try:
            await client.send(body, answer)
        except OSError as error:
            answer.error, answer.ended = str(error), self.now()


async def _main() -> bytes:
    answers = await Load(Orders(**orjson.loads(sys.stdin.buffer.read()))).run()
    return orjson.dumps([asdict(answer) for answer in answers])


if __name__ == "__main__":
    # Not sys.stdout, which with PYTHONUNBUFFERED may write only what the pipe has room for, and drop the rest.
    with open(sys.stdout.fileno(), "wb") as answer:
        answer.write(uvloop.run(_main()))
