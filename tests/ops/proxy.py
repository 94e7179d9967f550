"""A proxy between a client and a server on this machine that simulates network faults."""

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Iterator

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends RST."""


class Proxy:
    """Forwards the bytes of all connections until a fault is injected. `address` is where it listens."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._flows = threading.Event()
        self._flows.set()
        self._ended = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        """Sockets of each connection: to the client, to the server."""
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    # ---- Faults

    def stall(self) -> None:
        """Forwards nothing more; connections are accepted, but get no data."""
        self._flows.clear()

    def flow(self) -> None:
        """Ends the stall: held data arrives."""
        self._flows.set()

    def cut(self) -> None:
        """Resets both sides of all connections."""
        for pair in self._pairs:
            for end in pair:
                _reset(end)
        self._pairs.clear()

    def vanish(self) -> None:
        """Makes the clients disappear without a word to the server."""
        self.stall()
        for client, _ in self._pairs:
            _reset(client)

    # ---- Internals

    def close(self) -> None:
        self._ended = True
        self._listener.shutdown(socket.SHUT_RDWR)  # ends the blocking accept
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
        opposite = {client: server, server: client}
        with contextlib.suppress(OSError, ValueError):
            while not self._ended:
                for end in select.select([client, server], [], [], 0.2)[0]:
                    self._flows.wait()
                    if not (data := end.recv(1 << 16)):
                        raise OSError("the end")
                    opposite[end].sendall(data)
        for end in opposite:
            end.close()


def _reset(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    end.close()


@contextlib.contextmanager
def proxy(target: str) -> Iterator[Proxy]:
    new_proxy = Proxy(target)
    try:
        yield new_proxy
    finally:
        new_proxy.close()
