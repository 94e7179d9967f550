"""A network that can fail, between a client and a server on this machine."""

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Iterator

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends RST."""


class Proxy:
    """Passes on the bytes of all connections, until it is told otherwise. `address`: where it listens."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._flows = threading.Event()
        self._flows.set()
        self._ended = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        """From the client, to the server."""
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    # ---- What can happen

    def stall(self) -> None:
        """Nothing passes any more; connections are taken, and nothing comes of them."""
        self._flows.clear()

    def flow(self) -> None:
        """What was held up arrives after all."""
        self._flows.set()

    def cut(self) -> None:
        """Both sides of all connections are told at once."""
        for pair in self._pairs:
            for end in pair:
                _reset(end)
        self._pairs.clear()

    def vanish(self) -> None:
        """The clients are gone, and nobody tells the server."""
        self.stall()
        for client, _ in self._pairs:
            _reset(client)

    # ---- Inside

    def close(self) -> None:
        self._ended = True
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts
        self._listener.close()
        self.cut()
        self._flows.set()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self._ended:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(client,), daemon=True))
            self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        self._flows.wait()
        try:
            server = socket.create_connection(self._target)
        except OSError:
            _reset(client)
            return
        self._pairs.append((client, server))
        other = {client: server, server: client}
        with contextlib.suppress(OSError, ValueError):
            while not self._ended:
                for end in select.select([client, server], [], [], 0.2)[0]:
                    self._flows.wait()
                    if not (data := end.recv(1 << 16)):
                        raise OSError("the end")
                    other[end].sendall(data)
        for end in other:
            end.close()


def _reset(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    end.close()


@contextlib.contextmanager
def proxy(target: str) -> Iterator[Proxy]:
    made = Proxy(target)
    try:
        yield made
    finally:
        made.close()
