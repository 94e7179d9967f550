"""A chat as the model reads it. PURE."""

from collections.abc import Sequence
from dataclasses import dataclass

Spans = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    text: str
    plain: Spans = ()
    """Spans that are text, whatever they look like, in bytes of UTF-8."""
    marked: str = ""
    """The text with its marks: what is markup in it is the template's."""
