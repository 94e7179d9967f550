"""Counts the tokens of a choice up to a mark in its text, such as the end of its reasoning. PURE."""

from collections.abc import Sequence


class ReasoningCounter:
    """Counts tokens up to the first of `ends`. With `begin`: only if the text, after white space, begins with it."""

    def __init__(self, ends: Sequence[str], begin: str = "") -> None:
        self._ends = [end.encode() for end in ends]
        self._longest = max(map(len, self._ends))
        self._begin = begin.encode()
        self._tail = b""
        self._counts = True
        self._n_before: int | None = None

    def push(self, piece: bytes, n_tokens: int) -> None:
        """Adds the bytes of a token, which is the `n_tokens`-th of the choice."""
        if self._n_before is not None or not self._counts:
            return
        text = self._tail + piece
        if self._begin:
            text = text.lstrip()
            if len(text) < len(self._begin):
                self._counts, self._tail = self._begin.startswith(text), text
                return
            self._counts, self._begin = text.startswith(self._begin), b""
        if any(end in text for end in self._ends):
            self._n_before = n_tokens
        self._tail = text[max(0, len(text) - self._longest + 1) :]

    @property
    def is_open(self) -> bool:
        """Whether the text is behind the begin tag and before an end tag."""
        return self._counts and not self._begin and self._n_before is None

    @property
    def may_be_open(self) -> bool:
        """Whether the text is open, or may be with the next token."""
        return self._counts and self._n_before is None

    def count(self, n_tokens: int) -> int:
        """Returns how many of the `n_tokens` tokens of the choice are counted."""
        if self._begin or not self._counts:
            return 0
        return n_tokens if self._n_before is None else self._n_before
