"""Ids of files, uploads and batches, whose order is that of their creation. PURE."""

import re
from secrets import token_hex

_FORM = re.compile(r"[0-9a-f]{32}")


def new_id(prefix: str, created_at: float) -> str:
    """`created_at` is in Unix seconds; ids of the same microsecond have a random order."""
    return f"{prefix}{round(created_at * 1e6):014x}{token_hex(9)}"


def is_id(prefix: str, id: str) -> bool:
    """Whether `new_id` could have returned this id, so that it has a place in lists."""
    return id.startswith(prefix) and _FORM.fullmatch(id, len(prefix)) is not None
