"""`python -m openai_server`: the server, in one process or several."""

from anyserve_common import interrupts

if __name__ == "__main__":
    interrupts.end_quietly()  # until signals are handled: the imports below take most of that time

import asyncio
import ipaddress
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import replace

# grpc's polling thread also reads the sockets, instead of waking a thread of a pool: a streamed token takes half the
# time there. grpc reads the variable when it is imported, here and in the worker processes.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client")
# gRPC would log each attempt to connect, in another format than this server's log.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import click

from anyserve_common import addresses, logs, standard_streams, tracing
from openai_server import __version__
from openai_server.access.item_keys import new_key
from openai_server.cli import command
from openai_server.config import Config
from openai_server.http.tls import TLS, TLSError

log = logging.getLogger("openai_server")


def run(config: Config) -> None:
    config.set_up_logging()
    if config.tls_files is not None:
        try:
            TLS(config.tls_files)
        except TLSError as error:
            raise click.ClickException(str(error)) from error
    for template in config.chat_template.values():
        _check_template("--chat-template", template.path, template.source)
    for folder in config.tokenizer.values():
        for parameter, path in folder.template_files.items():
            _check_template("--tokenizer", path, folder.parameters[parameter])
    try:
        hosts = addresses.usable(config.host)
        listeners = addresses.listen(hosts, config.port)
        admin = [] if config.admin_port is None else addresses.listen(hosts, config.admin_port)
    except addresses.AddressError as error:
        raise click.ClickException(str(error)) from error
    port = addresses.port_of(listeners)
    _greet(config, hosts, port, addresses.port_of(admin) if admin else port)
    public = [host for host in hosts if not ipaddress.ip_address(host).is_loopback]
    if public and not (config.api_key or config.api_key_file):
        reached = ", ".join(addresses.endpoint(host, port) for host in public)
        log.warning("no API key is set: any client that can reach %s has access", reached)
    if config.workers > 1:
        if not config.item_key and config.item_key_file is None and config.store is None:
            config = replace(config, item_key=(new_key(),))  # all processes need the same key
        _supervise(config, listeners, admin)
    else:
        from openai_server import serving  # takes 30 MiB, which the parent of several processes doesn't need

        serving.run(config, listeners, admin)


def _supervise(config: Config, listeners: Sequence[socket.socket], admin: Sequence[socket.socket] = ()) -> None:
    """Runs several processes until SIGINT or SIGTERM. Raises ClickException."""
    from openai_server.http.supervisor import Supervisor  # a single process needs neither of the two
    from openai_server.telemetry import sharing

    async def main() -> None:
        supervisor = Supervisor(config.workers, config, listeners, admin, ended=sharing.forget)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, supervisor.end)
        await supervisor.run()

    with sharing.shared():
        asyncio.run(main())


def _check_template(option: str, path: str, source: str) -> None:
    """Raises ClickException for a template that can't be compiled."""
    from openai_server.prompting import template_compiler  # needed only for these two options

    try:
        problem = template_compiler.problem_with(source)
    except (template_compiler.CompilerFailed, OSError, subprocess.SubprocessError) as error:
        raise click.ClickException(f"{option} {path!r}: can't compile the chat template: {error}") from error
    if problem is not None:
        raise click.ClickException(f"{option} {path!r}: the chat template can't be compiled: {problem}")


def _greet(config: Config, hosts: Sequence[str], port: int, health_port: int) -> None:
    scheme = "http" if config.tls_cert is None else "https"
    here = addresses.reached_at(hosts[0])
    api = f"{scheme}://{addresses.endpoint(here, port)}"
    health = api if health_port == port else f"http://{addresses.endpoint(here, health_port)}"
    logs.log_fields(
        log,
        logging.INFO,
        "listening on " + ", ".join(f"{scheme}://{addresses.endpoint(host, port)}" for host in hosts),
        {
            "version": __version__,
            "backend": ", ".join(config.anyserve_endpoint),
            "api": f"{api}/v1",
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
