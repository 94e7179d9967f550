"""One process that serves: listens, answers, and ends cleanly on SIGINT and SIGTERM."""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextvars import Context
from types import FrameType
from typing import Any, cast

import click
import uvicorn
import uvloop

from anyserve_common import addresses
from anyserve_common.open_files import room_for
from openai_server.access.keys import BadKeys
from openai_server.app import App
from openai_server.backends.calls import Backend
from openai_server.backends.channel import dialer
from openai_server.backends.pool import Address, Pool
from openai_server.config import Config
from openai_server.http import admin as admin_port
from openai_server.http.connection import connection
from openai_server.http.forwarded import Forwarded
from openai_server.http.tls import TLS, TLSError

log = logging.getLogger(__name__)


SWITCH_INTERVAL = 0.001
"""Seconds after which the event loop gets the interpreter back from a thread that renders a template; Python's 5 ms
are longer than a token takes."""


class Server(uvicorn.Server):
    """Told to end, it stops being ready, lets the running requests finish, and exits with 0. Told again, it hurries.

    `delay`: seconds for which it still takes new requests, from those who have not noticed yet. `handshake`: seconds
    for that of TLS.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        app: App,
        started: Callable[["Server"], None],
        *,
        delay: float = 0,
        handshake: float = 60,
    ) -> None:
        super().__init__(config)
        self._handshake = handshake
        self._delay = delay
        self._closes_at: float | None = None
        self._app = app
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
        self._app.services.draining = True
        log.info("%s: finishing the running requests", why)

    async def on_tick(self, counter: int) -> bool:
        if self._closes_at is not None and time.monotonic() >= self._closes_at:
            self.should_exit = True
        return await super().on_tick(counter)


def backends(config: Config) -> Pool:
    """Raises ClickException."""
    dial = dialer(config)

    def open(address: Address) -> Backend:
        return Backend(
            address.target,
            timeout=config.request_timeout or None,
            lookup_timeout=config.lookup_timeout,
            dialer=dial,
            name=address.name,
        )

    return Pool(config.anyserve_endpoint, open, renewals=dial.watch)


async def _serve(
    config: Config,
    listeners: Sequence[socket.socket],
    admin: Sequence[socket.socket],
    started: Callable[[Server], None],
) -> None:
    try:
        tls = TLS(config.tls_files) if config.tls_files else None
        app = App(config, backends(config), watches=[tls.watch] if tls else [])
    except TLSError as error:  # the files were good when the first process started
        raise click.ClickException(str(error)) from error
    except BadKeys as error:
        raise click.ClickException(f"--api-key-file '{config.api_key_file}': {error}.") from error
    served = uvicorn.Config(
        app,
        interface="asgi3",
        http=connection(
            header_seconds=config.header_timeout,
            body_seconds=config.body_timeout,
            send_seconds=config.send_timeout,
            max_connections=room_for(config.max_connections),
            refused=app.observer.metrics.connection_refused,
        ),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # ours knows more
        proxy_headers=False,  # `Forwarded` reads them
        forwarded_allow_ips=os.environ.get("FORWARDED_ALLOW_IPS", ",".join(addresses.LOOPBACK)),
        server_header=False,
        timeout_keep_alive=config.keep_alive_timeout,
        timeout_graceful_shutdown=config.drain_timeout,
    )
    served.load()
    if config.access_log:  # nothing else uses the client's address
        served.loaded_app = Forwarded(served.loaded_app, served)
    # Not after a full collection: imports leave next to no garbage, and it is a tenth of the time to the first answer.
    gc.freeze()  # what lives as long as the process is not looked at again when a large request makes garbage
    if tls is not None:
        served.ssl = tls.context
    async with admin_port.serving(app.admin, admin):
        server = Server(served, app, started, delay=config.drain_delay, handshake=config.header_timeout)
        await server.serve(list(listeners))


def run(
    config: Config,
    listeners: Sequence[socket.socket],
    admin: Sequence[socket.socket] = (),
    started: Callable[[Server], None] = lambda _: None,
) -> None:
    """Until it is told to end. `admin` listen for health and metrics. `started` is called once it answers."""
    # uvicorn reports its own life at INFO, which we do ourselves.
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, logging.getLogger().level))
    sys.setswitchinterval(SWITCH_INTERVAL)
    uvloop.run(_serve(config, listeners, admin, started))
