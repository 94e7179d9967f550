"""The text of one choice: deltas of a cumulative text, without the prompt, and without the stop string. PURE.

All texts are UTF-8 bytes. Text that may still become a stop string, or be replaced, is held back.
"""

from collections.abc import Sequence

from openai_server.core.errors import BackendError

_REPLACEMENT = "\ufffd".encode()
"""Backends end a cumulative text with this character while its last character is incomplete."""


class ChoiceText:
    """`prompt`: the text that precedes the choice; empty if the backend doesn't send it. `stops`: stop strings that the
    backend leaves in the text."""

    def __init__(self, prompt: bytes, stops: Sequence[bytes], *, is_cumulative: bool) -> None:
        self._prompt = prompt
        self._stops = stops
        self._is_cumulative = is_cumulative
        self._received = b""
        """The text so far, if it is cumulative."""
        self._head = b""
        """Text that may be the beginning of the prompt."""
        self._held = b""
        """Text that may be the beginning of a stop string."""
        self.is_stopped = False
        """Whether a stop string was found; no text follows."""

    def add(self, text: bytes) -> bytes:
        """The text to pass on. Raises BackendError for a cumulative text that no longer begins as before."""
        delta = self._delta(text) if self._is_cumulative else text
        if self._prompt:
            delta = self._without_prompt(delta)
        return self._before_stop(delta) if self._stops else delta

    def end(self) -> bytes:
        """The text that was held back, unless it became a stop string."""
        if self._is_cumulative and self._received.endswith(_REPLACEMENT):
            self._is_cumulative = False  # the text really ends with it
            rest = self.add(_trailing_replacements(self._received))
        else:
            rest = b""
        if self._head:
            head, self._head, self._prompt = self._head, b"", b""
            rest += self._before_stop(head) if self._stops else head
        held, self._held = self._held, b""
        return rest + held

    def _delta(self, text: bytes) -> bytes:
        stable = text.removesuffix(_trailing_replacements(text))
        before = self._received.removesuffix(_trailing_replacements(self._received))
        if not stable.startswith(before):
            raise BackendError("UNKNOWN", "The model backend changed text that it had already sent.")
        self._received = text
        return stable[len(before) :]

    def _without_prompt(self, delta: bytes) -> bytes:
        self._head += delta
        if len(self._head) < len(self._prompt) and self._prompt.startswith(self._head):
            return b""
        text = self._head.removeprefix(self._prompt)
        self._head = self._prompt = b""
        return text

    def _before_stop(self, delta: bytes) -> bytes:
        if self.is_stopped:
            return b""
        text = self._held + delta
        found = min((at for stop in self._stops if (at := text.find(stop)) >= 0), default=-1)
        if found >= 0:
            self.is_stopped, self._held = True, b""
            return text[:found]
        n_held = max(_overlap(text, stop) for stop in self._stops)
        cut = len(text) - n_held
        self._held = text[cut:]
        return text[:cut]


def _overlap(text: bytes, stop: bytes) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


def _trailing_replacements(text: bytes) -> bytes:
    n = 0
    while text.endswith(_REPLACEMENT, 0, len(text) - n):
        n += len(_REPLACEMENT)
    return text[len(text) - n :]
