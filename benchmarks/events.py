"""Parses server-sent events from the pieces in which they arrive. PURE.

https://html.spec.whatwg.org/multipage/server-sent-events.html, as far as OpenAI's streams use it: only `data`.
"""

from __future__ import annotations

DONE = b"[DONE]"


class EventReader:
    """Returns the data of each complete event in the pieces of a body. Skips comments and other fields."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        events = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        return events
