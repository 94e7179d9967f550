"""The prompt as the beginning of an answer: its text, and the text of each of its tokens. PURE."""

from array import array
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Protocol

from anyserve_worker.core.spans import Spans


class Vocabulary(Protocol):
    def written(self, token: int) -> bytes: ...
    def adds_bos(self, text: str, plain: Spans = ()) -> bool: ...


@dataclass(frozen=True, slots=True)
class Echo:
    text: str
    pieces: tuple[bytes, ...]
    """The text of each token of the prompt, without a BOS that `tokenize` added."""


def echo_of(prompt: str | Items[int], tokens: "array[int]", vocabulary: Vocabulary, plain: Spans = ()) -> Echo:
    """Returns the echo of a prompt. `tokens` are its tokens, `plain` its plain spans."""
    pieces = [vocabulary.written(token) for token in tokens]
    if not isinstance(prompt, str):
        return Echo(b"".join(pieces).decode(errors="replace"), tuple(pieces))
    if vocabulary.adds_bos(prompt, plain):
        del pieces[0]
    # SentencePiece adds a space before a text.
    if pieces and pieces[0].startswith(b" ") and not prompt.startswith(" "):
        pieces[0] = pieces[0][1:]
    return Echo(prompt, tuple(pieces))
