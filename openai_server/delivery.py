"""Sending an answer, whole or as events, to a client that may go away before it is there.

When the client goes, the task that works for it is cancelled, and with it the call to the backend.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.types import Receive, Scope, Send

from openai_server import sse
from openai_server.errors import APIError, InternalError, ShuttingDown

log = logging.getLogger(__name__)
T = TypeVar("T")


class ClientGone(Exception):
    """Nobody is there to read the answer."""


async def _gone(receive: Receive) -> None:
    """Returns when the client has closed the connection. The body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _stop(*tasks: asyncio.Task[Any]) -> None:
    """Cancels, and waits until that is done."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`. Raises ClientGone if the client leaves before that."""
    working = asyncio.create_task(work)
    gone = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        await _stop(working, gone)


class EventStream:
    """An ASGI response that sends `events` as they come, and a ping whenever `ping_interval` seconds were silent.

    The status is sent with the first of these. A failure before that is raised, so that it gets a status of its own; a
    later one becomes an event. Cancelling is the server's way to say that it waits no longer.
    """

    def __init__(self, events: AsyncGenerator[bytes, None], *, ping_interval: float) -> None:
        self._events = events
        self._ping_interval = ping_interval
        self._started = False
        self._sending = False
        """An event is on its way, and the client is slow if it stays so."""
        self._pinging = asyncio.Lock()
        """Held while a ping is sent, since `send` is called by one task at a time. Events only look whether it is."""
        self._last_sent = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._clock = asyncio.get_running_loop().time
        self._last_sent = self._clock()
        pump = asyncio.create_task(self._pump(send))
        gone = asyncio.create_task(_gone(receive))
        try:
            while True:
                await asyncio.wait({pump, gone}, timeout=self._until_ping(), return_when=asyncio.FIRST_COMPLETED)
                if pump.done() or gone.done():
                    break
                if self._sending:
                    self._last_sent = self._clock()
                elif self._until_ping() == 0:
                    await self._ping(send)
            if pump.done():
                await pump
        except asyncio.CancelledError:
            await _stop(pump)
            if not self._started:
                raise
            await self._end(send, sse.failure(ShuttingDown()))
        finally:
            await _stop(pump, gone)

    def _until_ping(self) -> float:
        return max(0.0, self._last_sent + self._ping_interval - self._clock())

    async def _pump(self, send: Send) -> None:
        last = b""
        try:
            async with aclosing(self._events) as events:
                async for event in events:
                    if self._pinging.locked():
                        await self._after_ping()
                    self._sending = True
                    if not self._started:
                        await self._start(send)
                    await send({"type": "http.response.body", "body": event, "more_body": True})
                    self._sending = False
                    self._last_sent = self._clock()
        except Exception as error:
            if not self._started:
                raise
            if not isinstance(error, APIError):
                log.exception("a stream failed")
                error = InternalError()
            last = sse.failure(error)
        await self._after_ping()
        await self._end(send, last)

    async def _after_ping(self) -> None:
        async with self._pinging:
            pass

    async def _ping(self, send: Send) -> None:
        async with self._pinging:
            if not self._started:
                await self._start(send)
            await send({"type": "http.response.body", "body": sse.PING, "more_body": True})
            self._last_sent = self._clock()

    async def _start(self, send: Send) -> None:
        self._started = True
        headers = [(name.encode(), value.encode()) for name, value in sse.HEADERS.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _end(self, send: Send, last: bytes) -> None:
        await send({"type": "http.response.body", "body": last})
