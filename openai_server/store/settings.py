"""Settings of the store. PURE."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Observe = Callable[[str, float, bool], None]
"""Called after each transaction with the name of the method, its seconds, and whether the store answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """The limits are per owner; 0 is no limit."""

    url: str
    """`sqlite:///FILE`, `sqlite://` (memory) or `postgresql://…`."""
    blobs: Path | None = None
    """Folder for large bodies and files. None keeps bodies in the database, and files beside an SQLite file or, for
    memory, in a temporary folder; with PostgreSQL there is then no place for files."""
    retention: float = 30 * 86400.0
    """Seconds after which a response expires, or a conversation that nothing was added to; 0: never."""
    max_objects: int = 0
    """Responses and conversations; and the same number of files and pending uploads."""
    max_bytes: int = 0
    """Bytes of responses and conversations."""
    max_file_bytes: int = 0
    """Bytes of all files, and of the parts of pending uploads."""
    max_upload_parts: int = 10_000
    """Parts of one upload."""
    max_batches: int = 0
    """Batches that have not ended."""
