"""Splits the bytes of an answer into JSON values: server-sent events, JSON lines, an array in pieces, or whole. PURE.

All of them take the bytes in pieces of any length, and keep their order.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

MAX_FRAME = 32 << 20
"""Bytes of a single value."""
MAX_LINES = 64
"""Lines of an event up to which the end of its data is recognized without a blank line."""
MAX_CHECKED = 256 << 10
"""Characters of an event, as MAX_LINES."""

_DECODER = json.JSONDecoder()
_BLANK = re.compile(r"[ \t\r\n\0]*(?:data:[ \t\r\n]*)*")
_IN_STRING = re.compile(rb'["\\]')
_OUTSIDE = re.compile(rb'["{}\[\]]')


class BrokenStream(ValueError):
    """The bytes are not an answer in this framing, or end in the middle of a value."""


@dataclass(slots=True)
class Frame:
    value: Any
    """A JSON value; None at the end mark."""
    event: str = ""
    """Name of the server-sent event; empty: it has none."""
    is_end: bool = False
    """Whether this is the end mark, such as `[DONE]`."""


class Framing(Protocol):
    def push(self, data: bytes) -> Iterable[Frame]:
        """Yields the frames that are complete now. Raises BrokenStream."""

    def finish(self) -> Iterable[Frame]:
        """Yields the frames that only the end of the stream completes. Raises BrokenStream."""


def parse(data: bytes) -> Any:
    """The JSON value of the bytes. Raises BrokenStream."""
    try:
        return json.loads(data.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        raise BrokenStream("not JSON") from None


def frames_of(text: str, end_mark: str, event: str = "") -> Iterator[Frame]:
    """The JSON values and end marks in a text. Some servers send several without a line break between them, or repeat
    the field's name before each. Raises BrokenStream."""
    position = 0
    while True:
        blank = _BLANK.match(text, position)
        position = blank.end() if blank else position
        if position == len(text):
            return
        if end_mark and text.startswith(end_mark, position):
            position += len(end_mark)
            yield Frame(None, event, is_end=True)
            continue
        try:
            value, position = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError):
            raise BrokenStream("not JSON") from None
        yield Frame(value, event)


class Lines:
    """Splits bytes into lines, which end with LF, CRLF or CR."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._n_bytes = 0
        self._after_cr = False

    def push(self, data: bytes) -> Iterator[str]:
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
            self._after_cr = False
        if data:
            self._after_cr = data.endswith(b"\r")
        for line in data.splitlines(keepends=True):
            self._pieces.append(line)
            self._n_bytes += len(line)
            if self._n_bytes > MAX_FRAME:
                raise BrokenStream(f"a line of more than {MAX_FRAME} bytes")
            if line.endswith((b"\n", b"\r")):
                yield self.rest()

    def rest(self) -> str:
        """The bytes since the last line, which are then forgotten."""
        line = b"".join(self._pieces)
        self._pieces.clear()
        self._n_bytes = 0
        return line.decode("utf-8", "replace").rstrip("\r\n")


class ServerSentEvents:
    """Server-sent events whose data are JSON, with the deviations of real servers: no blank line between events, JSON
    without a field's name, and a field `error`."""

    def __init__(self, end_mark: str = "[DONE]") -> None:
        self._end_mark = end_mark
        self._lines = Lines()
        self._data: list[str] = []
        self._n_characters = 0
        self._event = ""
        self._is_unframed = False
        self._is_first_line = True

    def push(self, data: bytes) -> Iterator[Frame]:
        for line in self._lines.push(data):
            yield from self._read(line)

    def finish(self) -> Iterator[Frame]:
        if line := self._lines.rest():
            yield from self._read(line)
        yield from self._dispatch()

    def _read(self, line: str) -> Iterator[Frame]:
        if self._is_first_line:
            line = line.removeprefix("\ufeff")
            self._is_first_line = False
        if not line or (self._is_unframed and self._is_complete()):
            yield from self._dispatch()
        if not line:
            return
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if self._is_unframed or line.startswith(("{", "[")):
            self._is_unframed = True
            yield from self._add(line)
        elif name == "data":
            yield from self._add(value)
        elif name == "event":
            self._event = value
        elif name == "error":
            yield Frame({"error": _json_or_text(value)}, self._event)

    def _add(self, text: str) -> Iterator[Frame]:
        if self._data and self._is_complete():
            yield from self._dispatch()
        self._data.append(text)
        self._n_characters += len(text)
        if self._n_characters > MAX_FRAME:
            raise BrokenStream(f"an event of more than {MAX_FRAME} characters")

    def _is_complete(self) -> bool:
        """Whether the lines are whole values, so that the next line begins another event. Servers that leave out the
        blank lines write an event in a line or a few."""
        if len(self._data) > MAX_LINES or self._n_characters > MAX_CHECKED:
            return False
        try:
            for _ in frames_of("\n".join(self._data), self._end_mark):
                pass
        except BrokenStream:
            return False
        return True

    def _dispatch(self) -> Iterator[Frame]:
        text, event = "\n".join(self._data), self._event
        self._data.clear()
        self._n_characters = 0
        self._event = ""
        self._is_unframed = False
        yield from frames_of(text, self._end_mark, event)


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


class JsonLines:
    """A JSON value in each line."""

    def __init__(self, end_mark: str = "") -> None:
        self._end_mark = end_mark
        self._lines = Lines()

    def push(self, data: bytes) -> Iterator[Frame]:
        for line in self._lines.push(data):
            yield from frames_of(line, self._end_mark)

    def finish(self) -> Iterator[Frame]:
        yield from frames_of(self._lines.rest(), self._end_mark)


class JsonArray:
    """The objects and arrays in a JSON array, as soon as each is complete, or a single object."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._position = 0
        """Bytes of `_data` that have been read."""
        self._start = 0
        self._depth = 0
        """Depth within the current element; 0: outside."""
        self._in_string = False
        self._is_array = False
        self._is_closed = False

    def push(self, data: bytes) -> Iterator[Frame]:
        self._data += data
        if len(self._data) > MAX_FRAME:
            raise BrokenStream(f"a value of more than {MAX_FRAME} bytes")
        while found := (_IN_STRING if self._in_string else _OUTSIDE).search(self._data, self._position):
            at, character = found.start(), found[0]
            if character == b"\\":
                if at + 1 == len(self._data):
                    self._position = at
                    return
                self._position = at + 2
                continue
            self._position = at + 1
            if character == b'"':
                self._in_string = not self._in_string
            elif character in b"{[":
                self._open(at, character)
            elif self._depth > 1:
                self._depth -= 1
            elif self._depth == 1:
                self._depth = 0
                value = parse(bytes(self._data[self._start : at + 1]))
                del self._data[: at + 1]
                self._position = 0
                yield Frame(value)
            else:
                self._is_closed = True
        self._position = len(self._data)

    def _open(self, at: int, character: bytes) -> None:
        if character == b"[" and not self._is_array and self._depth == 0:
            self._is_array = True
            return
        if self._depth == 0:
            self._start = at
        self._depth += 1

    def finish(self) -> Iterator[Frame]:
        if self._depth or self._in_string or self._is_array != self._is_closed:
            raise BrokenStream("the array isn't complete")
        return iter(())


class WholeJson:
    """A single JSON value."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._n_bytes = 0

    def push(self, data: bytes) -> Iterator[Frame]:
        self._pieces.append(data)
        self._n_bytes += len(data)
        if self._n_bytes > MAX_FRAME:
            raise BrokenStream(f"an answer of more than {MAX_FRAME} bytes")
        return iter(())

    def finish(self) -> Iterator[Frame]:
        yield Frame(parse(b"".join(self._pieces)))
