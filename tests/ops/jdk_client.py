"""`python -m tests.ops.jdk_client`: runs the JDK's own HTTP client (`java.net.http`) with a sidecar. Needs a JDK.

`--record` prints what the client sends on its connections, byte for byte; tests/wire/test_jdk_client.py contains it.
"""

import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from tests.e2e import servers
from tests.ops import able_worker

PROGRAM = Path(__file__).parent / "JdkClient.java"
TIMEOUT = 120.0


class Recorder:
    """Forwards connections to `port`, and records each piece that a client sends."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections: list[list[bytes]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(("127.0.0.1", self._port))
            pieces: list[bytes] = []
            self.connections.append(pieces)
            threading.Thread(target=_forward, args=(client, server, pieces), daemon=True).start()
            threading.Thread(target=_forward, args=(server, client, []), daemon=True).start()


def _forward(source: socket.socket, target: socket.socket, pieces: list[bytes]) -> None:
    try:
        while piece := source.recv(1 << 16):
            pieces.append(piece)
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@contextmanager
def sidecar() -> Iterator[int]:
    """Yields the sidecar's port; checks at the end that it has logged no failure."""
    with able_worker.listening() as address, servers.sidecar(address) as (process, url):
        yield int(url.rpartition(":")[2])
        assert process.end() == 0
        assert "Traceback" not in process.output, process.output


@click.command()
@click.option("--record", is_flag=True, help="Print what the first connection sends.")
def main(record: bool) -> None:
    """Sends requests of all kinds, one after another and at once. Fails at the first wrong response."""
    if shutil.which("java") is None:
        raise click.ClickException("there is no program `java` on the PATH")
    with sidecar() as port:
        recorder = Recorder(port)
        command = ["java", str(PROGRAM), f"http://127.0.0.1:{recorder.port}"]
        result = subprocess.run(command, timeout=TIMEOUT, capture_output=True, text=True, check=False)
        click.echo(result.stdout + result.stderr, nl=False)
        click.echo(f"{len(recorder.connections)} connections")
        if record:
            for piece in recorder.connections[0][:16]:
                click.echo(repr(piece.replace(str(recorder.port).encode(), b"PORT")))
    sys.exit(result.returncode)


if __name__ == "__main__":
    main()
