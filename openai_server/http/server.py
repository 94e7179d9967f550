"""One process that serves: listens, and ends cleanly on SIGINT and SIGTERM."""

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable
from contextvars import Context
from types import FrameType
from typing import Any, cast

import uvicorn

log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """Told to end, it stops being ready, lets the running requests finish, and exits with 0. Told again, it hurries.

    `drain` is called when it is to stop being ready, `started` once it answers. `delay`: seconds for which it still
    takes new requests, from clients that have not noticed yet. `handshake`: seconds for that of TLS.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        drain: Callable[[], None],
        started: Callable[["Server"], None],
        *,
        delay: float = 0,
        handshake: float = 60,
    ) -> None:
        super().__init__(config)
        self._handshake = handshake
        self._delay = delay
        self._closes_at: float | None = None
        self._drain = drain
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])  # all but listening, which it does without a limit for handshakes
        loop, config = asyncio.get_running_loop(), self.config
        for listener in sockets or ():
            server = await loop.create_server(
                self._connection,
                sock=listener,
                ssl=config.ssl,
                backlog=config.backlog,
                ssl_handshake_timeout=self._handshake if config.ssl else None,
            )
            self.servers.append(server)
        self._started(self)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit:  # then uvicorn leaves this out, and the log has a traceback of the cancelled lifespan
            await self.lifespan.shutdown()

    def _connection(self) -> asyncio.Protocol:
        """For each that is accepted; what uvicorn gives it."""
        state, made_for = self.lifespan.state, cast(type[Any], self.config.http_protocol_class)
        made: asyncio.Protocol = made_for(config=self.config, server_state=self.server_state, app_state=state)
        return made

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Outside the context of the request that is interrupted: the line in the log is not about it.
        Context().run(self.end, signal.Signals(sig).name)

    def end(self, why: str) -> None:
        # Before a word is said: who reads it may tell us again at once, and this runs again in the midst of itself.
        if self._closes_at is None:
            self._closes_at = time.monotonic() + self._delay
            self.should_exit = not self._delay
        else:
            self.force_exit = self.should_exit = True
        self._drain()
        log.info("%s: finishing the running requests", why)

    async def on_tick(self, counter: int) -> bool:
        if self._closes_at is not None and time.monotonic() >= self._closes_at:
            self.should_exit = True
        return await super().on_tick(counter)
