"""The part of a file that a request wants: Range, If-Range and If-None-Match (RFC 9110, 13 and 14). PURE.

The content of a file never changes, so its id is its entity tag. A request for several ranges gets the whole file, as
does one with a range that is malformed or of another unit.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from openai_server.core.errors import APIError

_RANGE = re.compile(rb"[ \t]*(\d*)-(\d*)[ \t]*")
_MAX_DIGITS = 18


class Part(NamedTuple):
    """The bytes from `start` up to `end`. `is_range`: whether the request wanted a range, which gets status 206."""

    start: int
    end: int
    is_range: bool


class UnsatisfiableRange(APIError):
    def __init__(self, n_bytes: int) -> None:
        super().__init__(
            416,
            f"The range is not within the {n_bytes} bytes of the file.",
            code="range_not_satisfiable",
            headers={"content-range": f"bytes */{n_bytes}"},
        )


def etag_of(id: str) -> bytes:
    return f'"{id}"'.encode()


def is_unchanged(headers: Iterable[tuple[bytes, bytes]], etag: bytes) -> bool:
    """Whether the client has the file (status 304)."""
    tags = [tag.strip(b" \t") for name, value in headers if name == b"if-none-match" for tag in value.split(b",")]
    return any(tag.removeprefix(b"W/") in (etag, b"*") for tag in tags)


def part_of(headers: Iterable[tuple[bytes, bytes]], n_bytes: int, etag: bytes) -> Part:
    """Raises UnsatisfiableRange."""
    whole = Part(0, n_bytes, is_range=False)
    by_name = {name: value for name, value in headers if name in (b"range", b"if-range")}
    unit, equals, text = by_name.get(b"range", b"").partition(b"=")
    if not equals or unit.strip(b" \t").lower() != b"bytes" or by_name.get(b"if-range", etag) != etag:
        return whole
    match = _RANGE.fullmatch(text)
    if match is None or not (match[1] or match[2]) or max(len(match[1]), len(match[2])) > _MAX_DIGITS:
        return whole
    if not match[1]:  # the last bytes
        start, end = max(n_bytes - int(match[2]), 0), n_bytes
    else:
        start, end = int(match[1]), min(int(match[2] or n_bytes) + 1, n_bytes)
        if match[2] and int(match[2]) < start:
            return whole
    if start >= n_bytes or start >= end:
        raise UnsatisfiableRange(n_bytes)
    return Part(start, end, is_range=True)
