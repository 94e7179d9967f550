"""Clients as they come: some read their answer to the end, most do not, and each leaves at a moment of its own."""

import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from urllib.parse import urlsplit

from tests.ops import traffic

TIMEOUT = 60.0
LEAVERS = ("silent", "half a request", "gone at once", "gone midway", "reset midway", "deaf")
"""Those who are gone before their answer has come."""
MANNERS = (*LEAVERS, "slow", "whole", "whole", "whole")
NO_LINGER = struct.pack("ii", 1, 0)


class Visitors:
    """Makes visits with `n` threads at a time. `came` counts what the clients did, `statuses` what they were told."""

    def __init__(self, url: str, seed: int, n: int = 8) -> None:
        split = urlsplit(url)
        assert split.hostname is not None
        assert split.port is not None
        self._address = (split.hostname, split.port)
        self._seed = seed
        self._n = n
        self._lock = threading.Lock()
        self.came: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.failures: list[str] = []

    @property
    def n_left(self) -> int:
        return sum(self.came[manner] for manner in LEAVERS)

    def introduce(self) -> None:
        """One visit of each kind, read to the end: what the first of its kind costs is no leak."""
        for number, kind in enumerate(traffic.KINDS):
            self._make(kind(random.Random(number)), "whole", random.Random(number))

    def visit(self, n_visits: int, *, until: Callable[[], bool] = lambda: False) -> None:
        """So many visits, or until it is time; returns when all have left."""
        left = iter(range(n_visits))

        def run() -> None:
            while not until():
                with self._lock:
                    if (number := next(left, None)) is None:
                        return
                self._visit(random.Random(self._seed * 1_000_003 + number))

        threads = [threading.Thread(target=run, daemon=True) for _ in range(self._n)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._seed += 1

    def _visit(self, chance: random.Random) -> None:
        self._make(traffic.request(chance), chance.choice(MANNERS), chance)

    def _make(self, request: traffic.Request, manner: str, chance: random.Random) -> None:
        content = request.content
        status = ""
        try:
            with socket.socket() as connection:
                connection.settimeout(TIMEOUT)
                if manner == "deaf":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # as small as can be
                connection.connect(self._address)
                if manner != "silent":
                    n_bytes = chance.randrange(len(content)) if manner == "half a request" else len(content)
                    connection.sendall(content[:n_bytes])
                if manner in ("whole", "slow", "gone midway", "reset midway"):
                    status = _read(connection, manner, chance)
                elif manner == "deaf":
                    threading.Event().wait(chance.random() * 0.5)
                if manner == "reset midway":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        except OSError as error:
            status = f"failed: {error!r}"
        with self._lock:
            self.came[manner] += 1
            if status:
                self.statuses[status] += 1
            if status not in ("", str(request.status), "429"):
                self.failures.append(f"{manner} {request.path} {request.body}: {status}")


def _read(connection: socket.socket, manner: str, chance: random.Random) -> str:
    """The status, and how the answer ended if that was not as it should."""
    answer = b""
    wanted = chance.randrange(1, 4000) if manner.endswith("midway") else None
    while wanted is None or len(answer) < wanted:
        if manner == "slow":
            threading.Event().wait(chance.random() * 0.02)
        data = connection.recv(chance.randrange(1, 3000) if manner == "slow" else 1 << 16)
        if not data:
            break
        answer += data
    status = answer[9:12].decode()
    if wanted is None and status == "200" and b'data: {"error"' in answer:
        return f"200, then {answer[-300:]!r}"
    return status or "nothing"
