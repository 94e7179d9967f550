"""Server-sent events out of the pieces in which they arrive. PURE.

https://html.spec.whatwg.org/multipage/server-sent-events.html, as far as OpenAI's streams use it: `data` alone.
"""

from __future__ import annotations

DONE = b"[DONE]"


class EventReader:
    """Fed pieces of a body, gives the data of each event that is complete. Comments and other fields are skipped."""

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
