"""Messages between the worker and a pipeline's process, over a stream socket. PURE.

A frame is the length of the rest (4 bytes, little-endian), the length of the header (4 bytes), the header as a JSON
object, and the parts: byte strings whose lengths the header's `parts` lists. The worker passes the JSON of requests and
events on as parts, without parsing it.

From the worker:

- `start`, the first frame: `name` and `path` of the folder, `pipeline` (the pipeline's kind), `settings` (the table of
  that kind), `python_path` (folders for the end of `sys.path`), `concurrency` (requests that run at once), `log_level`.
- `request`: `number`, `model`, `caller`, `headers`, `streams`, `messages` (number of parts with messages), `has_body`,
  `has_items`; parts: the messages (one JSON array, or an object each), then the body, then the input items.
- `cancel`: `number`. Its events are ignored from here on; `end` or `error` means that its generator is closed.
- `ack`: `number`, `count` of events that the client has taken. Events are sent while fewer than WINDOW of a request are
  unacknowledged, and they have fewer than WINDOW_BYTES.
- `ping`: answered with `pong` by the event loop, so that one that is blocked is noticed.
- `stop`: no request is running any more; the process closes the pipeline and ends. It also ends when the socket closes.

From the process:

- `models`: `models`, a list with the fields of ModelState. The first one means that the pipeline has started.
- `failed`: `problem`, one line. The pipeline can't be served, and the process ends.
- `events`: `number`; parts: events in their JSON form.
- `end`: `number`, `finish_reasons` (those of the choices, in the order in which they ended), `usage` (the fields of the
  last Usage, or null); parts: the last events. The answer is complete.
- `error`: `number`, `status`, `message`, `tensor`, `field`, `reason`, `retry_after`.
- `pong`.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Any

WINDOW = 256
"""Events of one request that may be in flight."""
WINDOW_BYTES = 2 << 20
"""Bytes of these events, without the last one."""
MAX_FRAME = 64 << 20
"""Bytes of a frame."""

_LENGTHS = Struct("<II")


class BrokenFrame(ValueError):
    """The bytes are not a frame; the connection is of no use any more."""


@dataclass(slots=True)
class Frame:
    header: dict[str, Any]
    parts: Sequence[bytes] = ()


def encode(kind: str, parts: Sequence[bytes] = (), **fields: Any) -> bytes:
    """The bytes of a frame. Raises BrokenFrame if it is too large."""
    header = json.dumps(
        {"kind": kind, "parts": [len(part) for part in parts], **fields}, separators=(",", ":")
    ).encode()
    length = 4 + len(header) + sum(map(len, parts))
    if length > MAX_FRAME:
        raise BrokenFrame(f"a frame of {length} bytes")
    return b"".join((_LENGTHS.pack(length, len(header)), header, *parts))


class Frames:
    """Splits a stream of bytes into frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def push(self, data: bytes) -> Iterator[Frame]:
        """Yields the frames that are complete now. Raises BrokenFrame."""
        self._data += data
        while len(self._data) >= _LENGTHS.size:
            length, n_header = _LENGTHS.unpack_from(self._data)
            if not 4 + n_header <= length <= MAX_FRAME:
                raise BrokenFrame(f"a frame of {length} bytes with a header of {n_header}")
            if len(self._data) < 4 + length:
                return
            body = bytes(memoryview(self._data)[_LENGTHS.size : 4 + length])
            del self._data[: 4 + length]
            yield _decoded(body, n_header)


def _decoded(body: bytes, n_header: int) -> Frame:
    try:
        header = json.loads(body[:n_header])
        lengths = header["parts"]
        if sum(lengths) != len(body) - n_header:
            raise ValueError("the parts have another length")
    except (ValueError, KeyError, TypeError) as error:
        raise BrokenFrame(str(error)) from None
    parts, start = [], n_header
    for length in lengths:
        parts.append(body[start : start + length])
        start += length
    return Frame(header, parts)
