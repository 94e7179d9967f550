"""Limits on the files that clients send. PURE."""

from typing import NamedTuple


class FileLimits(NamedTuple):
    """In bytes."""

    file_bytes: int = 512 << 20
    """A file in one request."""
    upload_bytes: int = 8 << 30
    """A file in parts."""
    part_bytes: int = 64 << 20
    """One part."""
