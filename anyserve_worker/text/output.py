"""Turns token pieces into text: whole UTF-8 characters, up to the first stop string or its end. PURE.

Invariant: the returned text does not depend on how the bytes were split into pieces.
"""

import codecs
from collections.abc import Sequence


class TextOutput:
    """The text of one choice. It holds back only text that may still become a character or a stop string."""

    def __init__(self, stop: Sequence[str] = (), *, include_stop: bool = False) -> None:
        """`include_stop`: whether the text includes the stop string that is found."""
        self._stop = tuple(stop)
        self._include_stop = include_stop
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.stopped = False
        """A stop string was found, so no more text is returned."""

    @property
    def n_held(self) -> int:
        """Characters held back."""
        return len(self._held)

    def push(self, piece: bytes) -> str:
        """Adds the bytes of one token. Returns the text that is now certain."""
        return self._advance(self._decoder.decode(piece))

    def flush(self) -> str:
        """Ends the choice. Returns the text held back, with incomplete characters as U+FFFD."""
        text = self._advance(self._decoder.decode(b"", final=True))
        text, self._held = text + self._held, ""
        return text

    def _advance(self, text: str) -> str:
        if self.stopped or not text:
            return ""
        if not self._stop:
            return text
        text = self._held + text
        if (found := self._first_stop(text)) is not None:
            begin, end = found
            self.stopped, self._held = True, ""
            return text[: end if self._include_stop else begin]
        keep = max(_overlap(text, stop) for stop in self._stop)
        cut = len(text) - keep
        self._held = text[cut:]
        return text[:cut]

    def _first_stop(self, text: str) -> tuple[int, int] | None:
        """Returns start and end of the stop string that ends first, the longest if there are several; None without
        any."""
        matches = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if not matches:
            return None
        end, begin = min(matches)
        return begin, end


def _overlap(text: str, stop: str) -> int:
    """Returns the length of the longest suffix of `text` that is a proper prefix of `stop`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
