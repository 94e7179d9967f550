"""Splits a prompt with plain spans into pieces that llama.cpp tokenizes with or without special tokens. PURE.

llama.cpp recognizes special tokens in a whole text or not at all. So a prompt is split at the special tokens to
recognize, and the text between two of them is tokenized as plain text if it has a plain span. The choice of tokens
follows llama.cpp (`tokenizer_st_partition`): the longest tokens take precedence, and a token may strip the whitespace
beside it.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from anyserve_worker.core.spans import Spans
from protos.literals import occurrences, pattern_of

_SPACE = " \t\n\v\f\r"
"""Whitespace according to C's `isspace`."""
_TAKEN, _PLAIN = 1, 2


@dataclass(frozen=True, slots=True)
class SpecialToken:
    text: str
    user_defined: bool = False
    """llama.cpp recognizes it in plain text too. The others are control tokens and the unknown token."""
    strips_left: bool = False
    """It removes whitespace before it, and `strips_right` after it."""
    strips_right: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a prompt that is tokenized on its own."""

    text: str
    parse_special: bool
    continues: bool = False
    """It continues the previous piece, so SentencePiece must not add a space before it."""


class SpecialTexts:
    """The special tokens of a vocabulary, except those of whitespace only, which aren't markup."""

    def __init__(self, tokens: Iterable[SpecialToken]) -> None:
        self._by_text = {token.text: token for token in tokens if token.text.strip()}
        self._pattern = pattern_of(self._by_text)
        self._shorter = {text: [text[:n] for n in range(1, len(text)) if text[:n] in self._by_text] for text in self}
        self.control = tuple(text for text in self if not self._by_text[text].user_defined)
        self.user_defined = tuple(text for text in self if self._by_text[text].user_defined)

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_text)

    def pieces(self, text: str, plain: Spans) -> list[Piece]:
        """Splits the prompt into pieces, whose tokens in order are those of the prompt.

        A special token that touches a span is not recognized. Spans may extend beyond the end of the text.
        """
        plain = [(start, min(end, len(text))) for start, end in plain if start < len(text)]
        places = self._places(text)
        cuts = deque(self._cuts(places, plain))
        pieces: list[Piece] = []
        done = 0  # end of the text that is in `pieces`
        edge, strip = 0, False  # end of the last control token; whether it strips whitespace after it
        spans = iter(plain)
        span = next(spans, None)
        for start, end, token in (*self._read(text, places, plain), (len(text), len(text), None)):
            broken = False
            while span and span[0] < start:
                broken, span = True, next(spans, None)
            if broken:
                if edge > done:
                    pieces.append(Piece(text[done:edge], True))
                first, last = edge, start
                while strip and first < last and text[first] in _SPACE:
                    first += 1
                while token and token.strips_left and first < last and text[last - 1] in _SPACE:
                    last -= 1
                pieces += _cut(text, first, last, cuts)
                done = start
            edge, strip = end, token is not None and token.strips_right
        if done < len(text):
            pieces.append(Piece(text[done:], True))
        return pieces

    def inside(self, text: str, fields: Spans, markup: str) -> list[tuple[int, int]]:
        """Returns the spans to mark as plain: control tokens, and special tokens in `markup`, that touch a field."""
        mask = _mask(text, fields, _PLAIN)
        spans: list[tuple[int, int]] = []
        for start, end, token in self._places(text):
            if any(mask[start:end]) and not (token.user_defined and token.text not in markup):
                if spans and start <= spans[-1][1]:
                    spans[-1] = spans[-1][0], max(end, spans[-1][1])
                else:
                    spans.append((start, end))
        return spans

    # ---- Inside

    def _places(self, text: str) -> list[tuple[int, int, SpecialToken]]:
        """Returns (start, end, token) of every occurrence of a special token, by start."""
        return [
            (match.start(), match.start() + len(special), self._by_text[special])
            for match in occurrences(self._pattern, text)
            for special in (*self._shorter[match[0]], match[0])
        ]

    def _read(
        self, text: str, places: list[tuple[int, int, SpecialToken]], plain: Spans
    ) -> list[tuple[int, int, SpecialToken]]:
        """Returns (start, end, token) of the control tokens to recognize, by start."""
        mask = _mask(text, plain, _PLAIN)
        read = []
        for start, end, token in sorted(places, key=lambda place: (-len(place[2].text.encode()), place[0])):
            if not any(mask[start:end]):
                mask[start:end] = bytes([_TAKEN]) * (end - start)
                if not token.user_defined:
                    read.append((start, end, token))
        return sorted(read, key=lambda place: place[0])

    def _cuts(self, places: list[tuple[int, int, SpecialToken]], spans: Spans) -> list[int]:
        """Returns ascending positions inside user-defined tokens that touch a span.

        Cutting there prevents llama.cpp from recognizing them, which it does in any text.
        """
        cuts = []
        ahead = iter(spans)
        span = next(ahead, None)
        for start, end, token in places:
            while span and span[1] <= start:
                span = next(ahead, None)
            if span is None:
                break
            if token.user_defined and span[0] < end and end - start > 1:
                cuts.append(start + 1)
        return cuts


def _cut(text: str, start: int, end: int, cuts: deque[int]) -> Iterator[Piece]:
    """Yields the pieces of `text[start:end]`, and removes the cuts before `end`."""
    first = start
    while cuts and cuts[0] < end:
        cut = cuts.popleft()
        if start < cut:
            yield Piece(text[start:cut], False, continues=start > first)
            start = cut
    if start < end:
        yield Piece(text[start:end], False, continues=start > first)


def _mask(text: str, spans: Spans, value: int) -> bytearray:
    """Returns one byte per character: `value` in the spans, 0 elsewhere."""
    mask = bytearray(len(text))
    for start, end in spans:
        end = min(end, len(text))
        if start < end:
            mask[start:end] = bytes([value]) * (end - start)
    return mask
