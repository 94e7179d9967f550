"""`python -m openai_server`: listens, serves, and ends cleanly on SIGINT and SIGTERM."""

import asyncio
import errno
import logging
import os
import signal
import socket
from types import FrameType

import click
import uvicorn
import uvloop

from openai_server.app import App
from openai_server.backend import Backend
from openai_server.config import Config, command

log = logging.getLogger("openai_server")


class Server(uvicorn.Server):
    """Told to end, it stops being ready, lets the running requests finish, and exits with 0. Told again, it hurries."""

    def __init__(self, config: uvicorn.Config, app: App) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        log.info("%s: finishing the running requests", signal.Signals(sig).name)
        self._app.routes.draining = True
        self.force_exit = self.should_exit
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """Raises ClickException, which becomes one line on stderr and exit status 1."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        problem = "the port is in use" if error.errno == errno.EADDRINUSE else os.strerror(error.errno or 0)
        raise click.ClickException(f"can't listen on {host}:{port}: {problem}") from error


async def serve(config: Config, listener: socket.socket) -> None:
    backend = Backend(
        config.anyserve_endpoint, timeout=config.request_timeout or None, lookup_timeout=config.lookup_timeout
    )
    app = App(config, backend)
    server = Server(
        uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=config.access_log,
            proxy_headers=config.access_log,  # only the log asks where a request really came from
            server_header=False,
            timeout_graceful_shutdown=config.drain_timeout,
        ),
        app,
    )
    host, port = listener.getsockname()[:2]
    log.info("listening on http://%s:%d, backend %s", f"[{host}]" if ":" in host else host, port, backend.target)
    await server.serve([listener])


def run(config: Config) -> None:
    logging.basicConfig(level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # uvicorn reports its own life at INFO, which we do ourselves.
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, logging.getLogger().level))
    listener = listen(config.host, config.port)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(config, listener))


main = command(run)

if __name__ == "__main__":
    main(prog_name="python -m openai_server")
