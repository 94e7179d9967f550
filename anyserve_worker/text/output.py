"""Token pieces to text: whole UTF-8 characters, up to the first stop string. PURE.

Invariant: the text that is handed out does not depend on how the bytes were cut into pieces.
"""

import codecs
from collections.abc import Sequence


class TextOutput:
    """The text of one choice. Held back is only what may still become a character or a stop string."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.stopped = False
        """A stop string was found; nothing more comes out."""

    @property
    def n_held(self) -> int:
        """Characters."""
        return len(self._held)

    def push(self, piece: bytes) -> str:
        """Takes the bytes of one token; returns the text that is now certain."""
        return self._advance(self._decoder.decode(piece))

    def flush(self) -> str:
        """The end of the choice: returns what was held back. Bytes that are no whole character become U+FFFD."""
        text = self._advance(self._decoder.decode(b"", final=True))
        text, self._held = text + self._held, ""
        return text

    def _advance(self, text: str) -> str:
        if self.stopped or not text:
            return ""
        if not self._stop:
            return text
        text = self._held + text
        cut = self._first_stop(text)
        if cut is not None:
            self.stopped, self._held = True, ""
            return text[:cut]
        keep = max(_overlap(text, stop) for stop in self._stop)
        cut = len(text) - keep
        self._held = text[cut:]
        return text[:cut]

    def _first_stop(self, text: str) -> int | None:
        """Where the stop string that is complete first begins: that is the one a reader of single characters meets."""
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        return min(found)[1] if found else None


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, not all of it."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
