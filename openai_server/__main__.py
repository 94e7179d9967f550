"""`python -m openai_server`: serves, in one process or several."""

import errno
import ipaddress
import logging
import os
import socket
import subprocess

# The thread in which grpc polls reads the sockets as well, instead of waking one of a pool for it: a streamed token
# takes half the time there. Read when grpc is imported, here and in the processes that are started from here.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client")
# Lines of gRPC's own are no lines of our log, and come with each attempt to connect.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import click

from openai_server import __version__, standard_streams
from openai_server.access.tls import TLS, TLSError
from openai_server.config import Config
from openai_server.options import command
from openai_server.supervisor import supervise
from openai_server.telemetry import logs, tracing

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
    if config.tls_files is not None:
        try:
            TLS(config.tls_files)
        except TLSError as error:
            raise click.ClickException(str(error)) from error
    if config.chat_template is not None:
        _check_template(config.chat_template)
    listener = listen(config.host, config.port)
    host, port = listener.getsockname()[:2]
    address = f"{'http' if config.tls_cert is None else 'https'}://{f'[{host}]' if ':' in host else host}:{port}"
    admin = None if config.admin_port is None else listen(config.host, config.admin_port)
    _greet(config, address, admin)
    if not (config.api_key or config.api_key_file or ipaddress.ip_address(host).is_loopback):
        log.warning("no API key is set: whoever reaches %s is served", address)
    if config.workers > 1:
        supervise(config, listener, *([admin] if admin else []))
    else:
        from openai_server import server  # of what it takes, a parent of several needs nothing: 30 MiB

        server.run(config, listener, admin)


def _check_template(source: str) -> None:
    """Raises ClickException for a template that can't be compiled."""
    from openai_server import template_compiler  # few need it

    try:
        problem = template_compiler.problem_with(source)
    except (template_compiler.CompilerFailed, OSError, subprocess.SubprocessError) as error:
        raise click.ClickException(f"--chat-template: can't compile the chat template: {error}") from error
    if problem is not None:
        raise click.ClickException(f"--chat-template: the chat template can't be compiled: {problem}")


def _greet(config: Config, address: str, admin: socket.socket | None) -> None:
    health = f"{address.rpartition(':')[0]}:{admin.getsockname()[1]}" if admin else address
    logs.say(
        log,
        logging.INFO,
        f"listening on {address}",
        {
            "version": __version__,
            "backend": ", ".join(config.anyserve_endpoint),
            "api": f"{address}/v1",
            "health": f"{health}/readyz",
            "metrics": f"{health}/metrics",
            "workers": config.workers,
            "aliases": ",".join(f"{alias}={model}" for alias, model in config.model_alias.items()),
            "tracing": tracing.wanted(config.tracing) or None,
        },
    )


main = command(run)

if __name__ == "__main__":
    standard_streams.secure()
    main(prog_name="python -m openai_server")
