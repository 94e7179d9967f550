"""How many tokens come before a mark in a choice's text, such as the end of its reasoning. PURE."""

from collections.abc import Iterable


class Mark:
    def __init__(self, marks: Iterable[str]) -> None:
        self._marks = [mark.encode() for mark in marks]
        self._longest = max(map(len, self._marks), default=0)
        self._tail = b""
        self._n_before: int | None = None

    def push(self, piece: bytes, n_tokens: int) -> None:
        """The bytes of a token, and how many tokens there are with it."""
        if self._n_before is None:
            text = self._tail + piece
            if any(mark in text for mark in self._marks):
                self._n_before = n_tokens
            self._tail = text[len(text) - self._longest + 1 :] if self._longest <= len(text) else text

    def count(self, n_tokens: int) -> int:
        """Tokens until the first of the marks was complete; of `n_tokens` all, if none was."""
        return n_tokens if self._n_before is None else self._n_before
