"""Clients with different behaviours: some read their response to the end, most disconnect early, at a random moment."""

import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from urllib.parse import urlsplit

from tests.ops import traffic

TIMEOUT = 60.0
EARLY_LEAVERS = ("silent", "half a request", "gone at once", "gone midway", "reset midway", "never reads")
"""Behaviours of clients that disconnect before their response is complete."""
BEHAVIOURS = (*EARLY_LEAVERS, "slow", "whole", "whole", "whole")
NO_LINGER = struct.pack("ii", 1, 0)


class Visitors:
    """Runs visits in `n` threads. `behaviours` counts the clients' behaviours, `statuses` the responses that were
    read."""

    def __init__(self, url: str, seed: int, n: int = 8) -> None:
        split = urlsplit(url)
        assert split.hostname is not None
        assert split.port is not None
        self._address = (split.hostname, split.port)
        self._seed = seed
        self._n = n
        self._lock = threading.Lock()
        self.behaviours: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.failures: list[str] = []

    @property
    def n_disconnected(self) -> int:
        return sum(self.behaviours[behaviour] for behaviour in EARLY_LEAVERS)

    def warm_up(self) -> None:
        """Makes one visit of each kind, read to the end: memory that the first visit of a kind takes is not a leak."""
        for number, kind in enumerate(traffic.KINDS):
            self._make(kind(random.Random(number)), "whole", random.Random(number))

    def visit(self, n_visits: int, *, until: Callable[[], bool] = lambda: False) -> None:
        """Makes `n_visits` visits, or fewer if `until()` becomes true; returns when all clients are done."""
        remaining = iter(range(n_visits))

        def run() -> None:
            while not until():
                with self._lock:
                    if (number := next(remaining, None)) is None:
                        return
                self._visit(random.Random(self._seed * 1_000_003 + number))

        threads = [threading.Thread(target=run, daemon=True) for _ in range(self._n)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._seed += 1

    def _visit(self, rng: random.Random) -> None:
        self._make(traffic.request(rng), rng.choice(BEHAVIOURS), rng)

    def _make(self, request: traffic.Request, behaviour: str, rng: random.Random) -> None:
        content = request.content
        status = ""
        try:
            with socket.socket() as connection:
                connection.settimeout(TIMEOUT)
                if behaviour == "never reads":
                    connection.setsockopt(
                        socket.SOL_SOCKET, socket.SO_RCVBUF, 1
                    )  # the smallest buffer that the kernel allows
                connection.connect(self._address)
                if behaviour != "silent":
                    n_bytes = rng.randrange(len(content)) if behaviour == "half a request" else len(content)
                    connection.sendall(content[:n_bytes])
                if behaviour in ("whole", "slow", "gone midway", "reset midway"):
                    status = _read(connection, behaviour, rng)
                elif behaviour == "never reads":
                    threading.Event().wait(rng.random() * 0.5)
                if behaviour == "reset midway":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        except OSError as error:
            status = f"failed: {error!r}"
        with self._lock:
            self.behaviours[behaviour] += 1
            if status:
                self.statuses[status] += 1
            if status not in ("", str(request.status), "429"):
                self.failures.append(f"{behaviour} {request.path} {request.body}: {status}")


def _read(connection: socket.socket, behaviour: str, rng: random.Random) -> str:
    """Returns the status, and the end of a response that failed midway; "nothing" if none was received."""
    response = b""
    n_wanted = rng.randrange(1, 4000) if behaviour.endswith("midway") else None
    while n_wanted is None or len(response) < n_wanted:
        if behaviour == "slow":
            threading.Event().wait(rng.random() * 0.02)
        data = connection.recv(rng.randrange(1, 3000) if behaviour == "slow" else 1 << 16)
        if not data:
            break
        response += data
    status = response[9:12].decode()
    if n_wanted is None and status == "200" and b'data: {"error"' in response:
        return f"200, then {response[-300:]!r}"
    return status or "nothing"
