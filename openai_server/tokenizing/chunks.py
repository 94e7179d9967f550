"""Splits a text with plain spans into chunks that are tokenized with or without added tokens. PURE.

Added tokens are those that a tokenizer recognizes in any text, such as control tokens. The library recognizes all of
them in a text or none. So a text is split at the tokens to recognize, and the text between two of them is tokenized
without added tokens if it has a plain span.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from protos.literals import occurrences, pattern_of

Spans = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class AddedToken:
    text: str
    is_control: bool = True
    """Whether it is a control token; the others are recognized in plain text too, unless they touch a span."""
    strips_left: bool = False
    """It removes whitespace before it, and `strips_right` after it."""
    strips_right: bool = False
    is_word: bool = False
    """It is recognized only where no letter or digit touches it."""


@dataclass(frozen=True, slots=True)
class Chunk:
    text: str
    is_plain: bool
    """Whether no added token is recognized in it."""


class AddedTokens:
    """The added tokens of one tokenizer. Those of whitespace only aren't markup, and are left to the library."""

    def __init__(self, tokens: Iterable[AddedToken]) -> None:
        self._by_text = {token.text: token for token in tokens if token.text.strip()}
        self._pattern = pattern_of(self._by_text)

    @property
    def control(self) -> list[str]:
        return [token.text for token in self._by_text.values() if token.is_control]

    @property
    def user_defined(self) -> list[str]:
        return [token.text for token in self._by_text.values() if not token.is_control]

    def chunks(self, text: str, plain: Spans, *, parse_special: bool = True) -> list[Chunk]:
        """The chunks of a text, whose tokens in order are those of the text; empty chunks are left out.

        `plain` are spans in UTF-8 bytes. An added token that touches one is not recognized. Without `parse_special`, no
        control token is.
        """
        if parse_special and not plain:
            return [Chunk(text, False)] if text else []
        spans = _in_characters(text, plain)
        chunks: list[Chunk] = []
        done = gap = span = 0  # ends of the last chunk and of the last token, and the next span
        for start, end in (*self._recognized(text, spans, parse_special), (len(text), len(text))):
            while span < len(spans) and spans[span][1] <= gap:
                span += 1
            if gap < start and (not parse_special or (span < len(spans) and spans[span][0] < start)):
                if done < gap:
                    chunks.append(Chunk(text[done:gap], False))
                chunks.append(Chunk(text[gap:start], True))
                done = start
            gap = end
        if done < len(text):
            chunks.append(Chunk(text[done:], False))
        return chunks

    def _recognized(self, text: str, spans: Spans, parse_special: bool) -> list[tuple[int, int]]:
        """The places of the tokens to recognize, with the whitespace that they strip, in order and without overlaps."""
        places: list[tuple[int, int]] = []
        last = span = 0  # end of the last token, and the next span
        for match in occurrences(self._pattern, text):
            start, end = match.span()
            while span < len(spans) and spans[span][1] <= start:
                span += 1
            token = self._by_text[match[0]]
            touches = span < len(spans) and spans[span][0] < end
            if start < last or touches or (token.is_control and not parse_special):
                continue
            if token.is_word and ((start and _WORD.match(text, start - 1, start)) or _WORD.match(text, end, end + 1)):
                continue
            while token.strips_left and start > last and text[start - 1].isspace():
                start -= 1
            while token.strips_right and end < len(text) and text[end].isspace():
                end += 1
            places.append((start, end))
            last = end
        return places


_WORD = re.compile(r"\w")


def _in_characters(text: str, spans: Spans) -> Spans:
    """The spans, which are in bytes of UTF-8, in characters."""
    if text.isascii():
        return spans
    data, converted, place, n = text.encode(), list[tuple[int, int]](), 0, 0
    for start, end in spans:
        n += len(data[place:start].decode())
        first = n
        n += len(data[start:end].decode())
        converted.append((first, n))
        place = end
    return converted
