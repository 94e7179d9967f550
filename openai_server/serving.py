"""Puts one process that serves together, by the options of the command line, and runs it."""

import gc
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import uvicorn
import uvloop

from anyserve_common import addresses
from anyserve_common.open_files import room_for
from openai_server.access.keys import BadKeys
from openai_server.app import App
from openai_server.backends.calls import Backend
from openai_server.backends.channel import Dialer, Files
from openai_server.backends.pool import Address, Pool
from openai_server.config import Config
from openai_server.http import admin as admin_port
from openai_server.http.connection import connection
from openai_server.http.forwarded import Forwarded
from openai_server.http.server import Server
from openai_server.http.tls import TLS, TLSError

SWITCH_INTERVAL = 0.001
"""Seconds after which the event loop gets the interpreter back from a thread that renders a template; Python's 5 ms
are longer than a token takes."""

GC_THRESHOLDS = (10_000, 20, 50)
"""Thresholds of Python's garbage collector. With the default ones, 1,024 streams that begin spend 5 % of their time in
it and it finds nothing: completed requests leave no reference cycles."""


def dialer(config: Config) -> Dialer:
    """Raises ClickException if a file of --backend-... is not what it should be."""
    if not config.backend_tls:
        return Dialer(config.keepalive_time)
    given = (config.backend_ca, config.backend_cert, config.backend_key)
    files = Files(*(Path(file) if file else None for file in given))
    try:
        return Dialer(config.keepalive_time, files, config.backend_server_name)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"the files of --backend-ca, --backend-cert, --backend-key: {error}") from error


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
    gc.set_threshold(*GC_THRESHOLDS)
    gc.freeze()  # what lives as long as the process is not looked at again when a large request makes garbage
    if tls is not None:
        served.ssl = tls.context
    async with admin_port.serving(app.admin, admin):
        server = Server(served, app.services.drain, started, delay=config.drain_delay, handshake=config.header_timeout)
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
