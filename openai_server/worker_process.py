"""`python -m openai_server.worker_process FDS ADMIN_FDS`: one of several serving processes, started by supervisor.py.

It inherits the listening sockets as file descriptors (numbers, separated by commas), reads the configuration from
stdin, and prints a line to stdout when it has started. When stdin ends, its parent is gone, and it ends too.
"""

import asyncio
import pickle
import socket
import sys

import click

from anyserve_common import standard_streams
from openai_server import serving
from openai_server.config import Config
from openai_server.http.server import Server


def main() -> None:
    standard_streams.secure()
    config: Config = pickle.load(sys.stdin.buffer)
    config.set_up_logging()
    listeners, admin = ([socket.socket(fileno=int(fd)) for fd in fds.split(",") if fd] for fds in sys.argv[1:])
    serving.run(config, listeners, admin, _started)


def _started(server: Server) -> None:
    print("started", flush=True)
    loop = asyncio.get_running_loop()

    def orphaned() -> None:
        loop.remove_reader(sys.stdin)
        server.end("the parent process is gone")

    loop.add_reader(sys.stdin, orphaned)


if __name__ == "__main__":
    try:
        main()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
