"""The text of one choice: deltas of a cumulative text, without the prompt, the stop string and the end mark. PURE.

All texts are UTF-8 bytes. Text that may still become a stop string, or be replaced, is held back.
"""

from collections.abc import Sequence
from functools import lru_cache

from openai_server.core.errors import BackendError

_REPLACEMENT = "\ufffd".encode()
"""Backends end a cumulative text with this character while its last character is incomplete."""
_MAX_REPLACEMENTS = 4
"""An incomplete character is at most as many."""


class ChoiceText:
    """`prompt`: the text that precedes the choice; empty if the backend doesn't send it. `stops`: stop strings that the
    backend leaves in the text. `mark`: text that ends the choice; empty if there is none."""

    def __init__(self, prompt: bytes, stops: Sequence[bytes], *, is_cumulative: bool, mark: bytes = b"") -> None:
        self._prompt = prompt
        self._n_of_prompt = 0
        """Bytes of the prompt that were received, while nothing else was."""
        self._mark = mark
        self._searches = [_Search(text) for text in (*stops, mark) if text]
        self._is_cumulative = is_cumulative
        self._received = b""
        """The text so far, if it is cumulative."""
        self._n_stable = 0
        """Bytes of it that were taken."""
        self._held = b""
        """Text that may be the beginning of a stop string."""
        self.is_stopped = False
        """Whether a stop string was found; no text follows."""
        self.is_marked = False
        """Whether the mark of the end was found."""
        self.exceeds_mark = False
        """Whether text other than whitespace followed it."""

    def add(self, text: bytes) -> bytes:
        """The text to pass on. Raises BackendError for a cumulative text that no longer begins as before."""
        return self._take(self._delta(text) if self._is_cumulative else text)

    def end(self) -> bytes:
        """The text that was held back, unless it became a stop string."""
        rest = b""
        if self._is_cumulative:  # the text really ends with the characters that were not taken
            delta, self._n_stable = self._received[self._n_stable :], len(self._received)
            rest = self._take(delta)
        if self._prompt:
            head, self._prompt = self._prompt[: self._n_of_prompt], b""
            rest += self._before_stop(head)
        held, self._held = self._held, b""
        return rest + held

    def _take(self, delta: bytes) -> bytes:
        if self._prompt:
            delta = self._without_prompt(delta)
        return self._before_stop(delta)

    def _delta(self, text: bytes) -> bytes:
        if not text.startswith(self._received[: self._n_stable]):
            raise BackendError("UNKNOWN", "The model backend changed text that it had already sent.")
        before = self._n_stable
        self._received, self._n_stable = text, max(before, _n_complete(text))
        return text[before : self._n_stable]

    def _without_prompt(self, delta: bytes) -> bytes:
        start, n_expected = self._n_of_prompt, len(self._prompt) - self._n_of_prompt
        if len(delta) < n_expected and self._prompt.startswith(delta, start):
            self._n_of_prompt += len(delta)
            return b""
        prompt, self._prompt = self._prompt, b""
        return delta[n_expected:] if delta.startswith(prompt[start:]) else prompt[:start] + delta

    def _before_stop(self, delta: bytes) -> bytes:
        if self.is_stopped or not self._searches:
            return b"" if self.is_stopped else delta
        if self.is_marked:
            self.exceeds_mark |= bool(delta.strip())
            return b""
        text = self._held + delta
        found = [(at, search.text) for search in self._searches if (at := text.find(search.text)) >= 0]
        if found:
            at, stop = min(found)
            self._held = b""
            self.is_marked = stop == self._mark
            self.is_stopped = not self.is_marked
            self.exceeds_mark = self.is_marked and bool(text[at + len(stop) :].strip())
            return text[:at]
        for search in self._searches:
            search.add(delta)
        cut = len(text) - max(search.n_matched for search in self._searches)
        self._held = text[cut:]
        return text[:cut]


class _Search:
    """A text of which another one may end with a beginning. Takes time in proportion to what is added (the algorithm
    of Knuth, Morris and Pratt)."""

    __slots__ = ("_borders", "n_matched", "text")

    def __init__(self, text: bytes) -> None:
        self.text = text
        self._borders = _borders(text)
        self.n_matched = 0
        """Length of the longest end of what was added that is a beginning of `text`."""

    def add(self, delta: bytes) -> None:
        """`text` must not occur in what was added."""
        n = self.n_matched
        if len(delta) >= len(self.text):
            n, delta = 0, delta[len(delta) - len(self.text) + 1 :]
        for byte in delta:
            while n and self.text[n] != byte:
                n = self._borders[n - 1]
            n += self.text[n] == byte
        self.n_matched = n


@lru_cache(maxsize=64)
def _borders(text: bytes) -> Sequence[int]:
    """For each beginning of the text, the length of its longest proper end that is also its beginning."""
    borders = [0] * len(text)
    n = 0
    for i in range(1, len(text)):
        while n and text[n] != text[i]:
            n = borders[n - 1]
        n += text[n] == text[i]
        borders[i] = n
    return borders


def _n_complete(text: bytes) -> int:
    """Length of the text without the characters that may stand for an incomplete one."""
    n = len(text)
    for _ in range(_MAX_REPLACEMENTS):
        if text.endswith(_REPLACEMENT, 0, n):
            n -= len(_REPLACEMENT)
    return n
