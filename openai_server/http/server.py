"""The server of one process: it listens, and ends cleanly on SIGINT and SIGTERM."""

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
    """Drains on the first signal: reports that it is not ready, finishes the running requests, and exits with 0. On a
    second signal, it doesn't wait for the running requests.

    `drain` is called when the server must report that it is not ready, `started` when it accepts connections. `delay`
    is the number of seconds for which it still accepts requests after the signal, so that load balancers can move away.
    `handshake` is the time limit of a TLS handshake, in seconds.
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
        await super().startup([])  # without listening: uvicorn sets no time limit for TLS handshakes
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
        if self.force_exit:  # uvicorn would skip this, and log a traceback of the cancelled lifespan
            await self.lifespan.shutdown()

    def _connection(self) -> asyncio.Protocol:
        """Creates the protocol of an accepted connection, with uvicorn's arguments."""
        state, protocol_class = self.lifespan.state, cast(type[Any], self.config.http_protocol_class)
        protocol: asyncio.Protocol = protocol_class(config=self.config, server_state=self.server_state, app_state=state)
        return protocol

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Outside the context of the interrupted request: the log line is not about it.
        Context().run(self.end, signal.Signals(sig).name)

    def end(self, reason: str) -> None:
        # Before logging: a process that reads the line may send another signal at once, which calls this again.
        if self._closes_at is None:
            self._closes_at = time.monotonic() + self._delay
            self.should_exit = not self._delay
        else:
            self.force_exit = self.should_exit = True
        self._drain()
        log.info("%s: finishing the running requests", reason)

    async def on_tick(self, counter: int) -> bool:
        if self._closes_at is not None and time.monotonic() >= self._closes_at:
            self.should_exit = True
        return await super().on_tick(counter)
