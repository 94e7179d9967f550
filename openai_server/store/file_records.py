"""Files and uploads, as they are passed to the store and returned from it. PURE.

Times are Unix seconds. Ids begin with a prefix and the time in hexadecimal digits, so that their order is that of their
creation: a list continues after an id even if that file has been deleted.
"""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from openai_server.store.records import Order

UploadStatus = Literal["pending", "completed", "cancelled"]


class Part(Struct, frozen=True):
    """A piece of a file: a blob, which is durable."""

    blob: str
    """The key."""
    n_bytes: int


class FileFields(Struct, frozen=True, kw_only=True):
    """A file without its content. `owner` is the id of the caller that made it."""

    id: str
    owner: str
    created_at: float
    expires_at: float | None
    """None: never."""
    filename: str
    """As the client sent it: text, never a path."""
    purpose: str


class FileSizes(Struct, frozen=True):
    """Sizes of all files, for metrics."""

    files: int
    """Files of all owners, with pending uploads."""
    n_bytes: int
    """Bytes of these files, and of the parts of these uploads."""
    free_bytes: int | None
    """Bytes for which the place of files has room; None: there is no place."""


class NewFile(FileFields, frozen=True, kw_only=True):
    """A file to keep."""

    parts: Sequence[Part]
    """Its content, in order."""

    @property
    def n_bytes(self) -> int:
        return sum(part.n_bytes for part in self.parts)


class StoredFile(FileFields, frozen=True, kw_only=True):
    """A file in the store."""

    n_bytes: int
    parts: Sequence[Part] = ()
    """Its content, in order; empty in lists."""


class FilesRequest(Struct, frozen=True, kw_only=True):
    """A part of the list of an owner's files, or batches."""

    limit: int
    order: Order = "desc"
    after: str | None = None
    """Id before the first one of the part, in the order of the list; None: from the start."""
    purpose: str | None = None
    """None: of all purposes. Without meaning for batches."""


class FilesPage(Struct, frozen=True):
    files: Sequence[StoredFile]
    has_more: bool


class NewUpload(Struct, frozen=True, kw_only=True):
    """A file that arrives in parts."""

    id: str
    owner: str
    created_at: float
    expires_at: float
    """Time at which it ends with its parts, unless it has been completed."""
    filename: str
    purpose: str
    mime_type: str
    n_bytes: int
    """Size of the file, as the client announced it."""
    file_seconds: float | None
    """Seconds from the creation of the file to its expiry; None: it doesn't expire."""


class StoredUpload(NewUpload, frozen=True, kw_only=True):
    status: UploadStatus
    file: StoredFile | None = None
    """Set once it is completed, unless that file has been deleted."""
