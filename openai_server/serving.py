"""Builds the server of one process from the options of the command line, and runs it."""

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
from anyserve_common.pem_files import PEMFiles
from openai_server.access.item_keys import BadItemKeys
from openai_server.access.keys import BadKeys
from openai_server.app import App
from openai_server.backends.calls import Backend
from openai_server.backends.channel import Dialer
from openai_server.backends.pool import Address, Pool
from openai_server.config import Config
from openai_server.http import admin as admin_port
from openai_server.http.connection import connection
from openai_server.http.forwarded import Forwarded
from openai_server.http.server import Server
from openai_server.http.tls import TLS, TLSError
from openai_server.store.errors import BadStore
from openai_server.tokenizing.tokenizers import BadTokenizer

SWITCH_INTERVAL = 0.001
"""Seconds after which the event loop gets the interpreter back from a thread that renders a template. Python's default,
5 ms, is longer than a token takes."""

GC_THRESHOLDS = (10_000, 20, 50)
"""Thresholds of Python's garbage collector. With the default ones, 1,024 streams that begin spend 5 % of their time in
it and it finds nothing: completed requests leave no reference cycles."""


def dialer(config: Config) -> Dialer:
    """Raises ClickException if a file of --backend-ca, --backend-cert or --backend-key is not valid."""
    if not config.backend_tls:
        return Dialer(config.keepalive_time)
    paths = (config.backend_cert, config.backend_key, config.backend_ca)
    files = PEMFiles(*(Path(path) if path else None for path in paths))
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

    return Pool(config.anyserve_endpoint, open, renewals=dial.watch, prefix_affinity=config.prefix_affinity)


async def _serve(
    config: Config,
    listeners: Sequence[socket.socket],
    admin: Sequence[socket.socket],
    started: Callable[[Server], None],
) -> None:
    try:
        tls = TLS(config.tls_files) if config.tls_files else None
        app = App(config, backends(config), watches=[tls.watch] if tls else [])
        await app.open_store()
    except TLSError as error:  # the files were good when the first process started
        raise click.ClickException(str(error)) from error
    except BadKeys as error:
        raise click.ClickException(f"--api-key-file '{config.api_key_file}': {error}.") from error
    except BadItemKeys as error:
        raise click.ClickException(f"--item-key-file '{config.item_key_file}': {error}.") from error
    except BadStore as error:
        raise click.ClickException(f"--store: {error}.") from error
    except BadTokenizer as error:
        raise click.ClickException(f"--tokenizer: {error}.") from error
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
        access_log=False,  # telemetry/access_log.py replaces it
        proxy_headers=False,  # `Forwarded` reads them
        forwarded_allow_ips=os.environ.get("FORWARDED_ALLOW_IPS", ",".join(addresses.LOOPBACK)),
        server_header=False,
        timeout_keep_alive=config.keep_alive_timeout,
        timeout_graceful_shutdown=config.drain_timeout,
    )
    served.load()
    if config.access_log:  # nothing else uses the client's address
        served.loaded_app = Forwarded(served.loaded_app, served)
    # Without a full collection first: imports leave little garbage, and it takes a tenth of the time until it serves.
    gc.set_threshold(*GC_THRESHOLDS)
    gc.freeze()  # later collections skip the objects that live as long as the process
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
    """Serves until a signal ends the process. `admin` are the sockets for health and metrics. `started` is called when
    the server accepts connections."""
    # uvicorn would log its start and end, which this server logs itself.
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, logging.getLogger().level))
    sys.setswitchinterval(SWITCH_INTERVAL)
    uvloop.run(_serve(config, listeners, admin, started))
