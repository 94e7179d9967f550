"""`python -m openai_server`: serves, in one process or several."""

import errno
import logging
import os
import socket

# The thread in which grpc polls reads the sockets as well, instead of waking one of a pool for it: a streamed token
# takes half the time there. Read when grpc is imported, here and in the processes that are started from here.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client")

import click

from openai_server.config import Config, command
from openai_server.supervisor import supervise

log = logging.getLogger("openai_server")


def listen(host: str, port: int) -> socket.socket:
    """Raises ClickException, which becomes one line on stderr and exit status 1."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        problem = "the port is in use" if error.errno == errno.EADDRINUSE else os.strerror(error.errno or 0)
        raise click.ClickException(f"can't listen on {host}:{port}: {problem}") from error


def run(config: Config) -> None:
    config.set_up_logging()
    listener = listen(config.host, config.port)
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    log.info("listening on %s, backend %s, workers: %d", address, ", ".join(config.anyserve_endpoint), config.workers)
    if config.workers > 1:
        supervise(config, listener)
    else:
        from openai_server import server  # of what it takes, a parent of several needs nothing: 30 MiB

        server.run(config, listener)


main = command(run)

if __name__ == "__main__":
    main(prog_name="python -m openai_server")
