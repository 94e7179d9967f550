"""Large bodies outside of the database."""

import secrets
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import msgspec

from openai_server.store.records import Item

BLOB_BYTES = 64 << 10
"""A body of more bytes is a blob, if there is a place for blobs."""


class BlobItem(Item, frozen=True, kw_only=True):
    """An item whose body is a blob; its `body` is empty."""

    key: str
    n_bytes: int


class BlobRequest(msgspec.Struct, frozen=True):
    """The request of a background response as a blob."""

    key: str
    n_bytes: int


class ReadableBlobs(Protocol):
    def get(self, key: str) -> bytes:
        """Raises MissingBlob."""
        ...


class BlobWriter(Protocol):
    """Writes a blob piece by piece. The methods block, and raise BlobsAway, and BlobsFull if there is no room."""

    def write(self, data: bytes) -> None: ...

    def finish(self) -> None:
        """The blob is durable, and can be read, when this returns."""
        ...

    def abandon(self) -> None:
        """Deletes what has been written. Has no effect after `finish`."""
        ...


class Blobs(ReadableBlobs, Protocol):
    """Values by key. The methods block, and raise BlobsAway."""

    def create(self, key: str) -> BlobWriter:
        """Begins a blob of any size."""
        ...

    def read(self, key: str, start: int, n_bytes: int) -> bytes:
        """The bytes from `start` on, fewer than `n_bytes` only at the end of the blob. Raises MissingBlob."""
        ...

    def put(self, key: str, value: bytes) -> None:
        """The value is durable when this returns."""
        ...

    def delete(self, key: str) -> None:
        """Deletes the value, if there is one."""
        ...

    def belongs_to(self, store: str) -> bool:
        """Whether the place is that of the store with this id. The first store that calls this gets it."""
        ...

    def older_than(self, seconds: float) -> Iterator[str]:
        """The keys of the values that were put before this number of seconds."""
        ...

    def free_bytes(self) -> int:
        """Bytes for which there is room."""
        ...


class Places(NamedTuple):
    """The places of blobs; None: there is none."""

    bodies: Blobs | None
    """Large bodies, which are in the database otherwise."""
    files: Blobs | None
    """Files: the same place as that of bodies, if there is one."""


def new_key() -> str:
    return secrets.token_hex(16)
