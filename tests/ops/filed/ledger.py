"""Records what was announced to the clients of one key about files, uploads and batches. PURE."""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.ops.stored.model import Deletion

FINAL = ("completed", "failed", "expired", "cancelled")


@dataclass(eq=False)
class KnownFile:
    """A file with a name that no other has. `id` is "" if its creation was cut off: it exists or not."""

    filename: str
    content: bytes
    purpose: str
    id: str = ""
    deletion: Deletion = Deletion.NONE
    is_reserved: bool = False
    """Whether a batch is created from it: clients don't delete it meanwhile."""


@dataclass(frozen=True)
class Line:
    """A line of a batch. `answer`: the text that the worker responds with; None: it fails."""

    custom_id: str
    url: str
    body: Mapping[str, Any]
    answer: str | None

    @property
    def json(self) -> bytes:
        return json.dumps({"custom_id": self.custom_id, "method": "POST", "url": self.url, "body": self.body}).encode()


@dataclass(eq=False)
class KnownBatch:
    """A batch with a name, in its metadata, that no other has. `id` is "" if its creation was cut off."""

    name: str
    lines: Sequence[Line]
    input: KnownFile
    is_valid: bool = True
    id: str = ""
    cancellation: Deletion = Deletion.NONE
    """Whether its cancellation was requested (CUT) or announced."""


@dataclass(eq=False)
class Ledger:
    key: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    files: list[KnownFile] = field(default_factory=list)
    batches: list[KnownBatch] = field(default_factory=list)
    cancelled_uploads: list[str] = field(default_factory=list)
    """Ids."""

    def announced_files(self) -> list[KnownFile]:
        """Those that were announced, and whose deletion was not requested."""
        with self.lock:
            return [file for file in self.files if file.id and file.deletion is Deletion.NONE]

    def announced_batches(self) -> list[KnownBatch]:
        with self.lock:
            return [batch for batch in self.batches if batch.id]

    def add_file(self, file: KnownFile) -> None:
        with self.lock:
            self.files.append(file)

    def add_batch(self, batch: KnownBatch) -> None:
        with self.lock:
            self.batches.append(batch)

    def forget(self, file: KnownFile) -> None:
        """Forgets a file that was deleted, so that a long run keeps nothing."""
        with self.lock:
            self.files.remove(file)

    def forget_batch(self, batch: KnownBatch) -> None:
        with self.lock:
            self.batches.remove(batch)
