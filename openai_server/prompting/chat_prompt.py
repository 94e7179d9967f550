"""The rendered prompt of a chat. PURE."""

from collections.abc import Sequence
from dataclasses import dataclass

Spans = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    text: str
    plain: Spans = ()
    """Spans that are plain text even if they have the form of markup, in bytes of UTF-8."""
    marked: str = ""
    """The text with its marks. Any markup in it is the template's."""
