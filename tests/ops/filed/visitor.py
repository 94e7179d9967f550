"""A client of one key that requests at random, with what it records, and the moments at which kills hurt most."""

import threading
from collections import Counter
from collections.abc import Sequence

from tests.ops.filed.client import FileClient
from tests.ops.filed.ledger import Ledger
from tests.ops.stored.visiting import RandomClient

FILES, UPLOADS, BATCHES = "/v1/files", "/v1/uploads", "/v1/batches"
MODEL = "tiny"
MOMENTS = ("body", "part", "complete", "create batch", "validation", "lines", "last lines", "cancel batch", "delete")
"""Requests and observations of clients at which a sidecar may be killed."""


class Moments:
    """Lets another thread act when a client begins something."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._counts: Counter[str] = Counter()

    def reached(self, moment: str) -> None:
        with self._changed:
            self._counts[moment] += 1
            self._changed.notify_all()

    def wait(self, moment: str, seconds: float) -> bool:
        """Waits for the next time. Returns whether it came within this time."""
        with self._changed:
            n = self._counts[moment]
            return self._changed.wait_for(lambda: self._counts[moment] > n, seconds)


class FileVisitor(RandomClient):
    client: FileClient

    def __init__(
        self,
        name: str,
        seed: str,
        ports: Sequence[int],
        ledger: Ledger,
        stranger: Ledger,
        moments: Moments,
        *,
        slowness: float = 0.0,
    ) -> None:
        super().__init__(name, seed)
        self.client = FileClient(ports, ledger.key, self.rng, slowness=slowness)
        self.ledger = ledger
        self.stranger = stranger
        """The ledger of another key."""
        self.moments = moments
        self._n_names = 0

    def new_name(self) -> str:
        """A name that no other object has."""
        self._n_names += 1
        return f"{self.name} {self._n_names}"

    def new_content(self, max_bytes: int) -> bytes:
        return self.rng.randbytes(self.rng.randrange(1, max_bytes))
