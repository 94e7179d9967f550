"""Where special tokens are read in a prompt, if parts of it are plain text. PURE.

llama.cpp reads special tokens in a whole text or nowhere. So a prompt is cut at the special tokens that are read, and
what lies between two of them is tokenized as text if a plain span is in it. Which ones are read follows llama.cpp
(`tokenizer_st_partition`): the longest take their places first, and a token may strip the whitespace beside it.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from anyserve_worker.core.spans import Spans
from protos.literals import occurrences, pattern_of

_SPACE = " \t\n\v\f\r"
"""What C's `isspace` takes for whitespace."""
_TAKEN, _PLAIN = 1, 2


@dataclass(frozen=True, slots=True)
class SpecialToken:
    text: str
    user_defined: bool = False
    """llama.cpp reads it in plain text, too. The others are the control tokens, and the unknown one."""
    strips_left: bool = False
    strips_right: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a prompt, to be tokenized by itself."""

    text: str
    parse_special: bool
    continues: bool = False
    """It continues the piece before it: SentencePiece must not put a space in front of it."""


class SpecialTexts:
    """The special tokens of a vocabulary. Those of whitespace alone are no markup, and stay what they are."""

    def __init__(self, tokens: Iterable[SpecialToken]) -> None:
        self._by_text = {token.text: token for token in tokens if token.text.strip()}
        self._pattern = pattern_of(self._by_text)
        self._shorter = {text: [text[:n] for n in range(1, len(text)) if text[:n] in self._by_text] for text in self}
        self.control = tuple(text for text in self if not self._by_text[text].user_defined)
        self.user_defined = tuple(text for text in self if self._by_text[text].user_defined)

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_text)

    def pieces(self, text: str, plain: Spans) -> list[Piece]:
        """The prompt in parts: their tokens, one after the other, are those of the prompt.

        A special token that touches a span is not read. Spans may go on behind the end of the text.
        """
        plain = [(start, min(end, len(text))) for start, end in plain if start < len(text)]
        found = self._found(text)
        cuts = deque(self._cuts(found, plain))
        pieces: list[Piece] = []
        done = 0  # up to here there are pieces
        edge, strip = 0, False  # where the last control token ends, and whether it strips what follows
        spans = iter(plain)
        span = next(spans, None)
        for start, end, token in (*self._read(text, found, plain), (len(text), len(text), None)):
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
        """The spans that keep these fields text: control tokens and `markup` that touch one."""
        mask = _mask(text, fields, _PLAIN)
        spans: list[tuple[int, int]] = []
        for start, end, token in self._found(text):
            if any(mask[start:end]) and not (token.user_defined and token.text not in markup):
                if spans and start <= spans[-1][1]:
                    spans[-1] = spans[-1][0], max(end, spans[-1][1])
                else:
                    spans.append((start, end))
        return spans

    # ---- Inside

    def _found(self, text: str) -> list[tuple[int, int, SpecialToken]]:
        """Every place of every special token, by their beginnings."""
        return [
            (match.start(), match.start() + len(each), self._by_text[each])
            for match in occurrences(self._pattern, text)
            for each in (*self._shorter[match[0]], match[0])
        ]

    def _read(
        self, text: str, found: list[tuple[int, int, SpecialToken]], plain: Spans
    ) -> list[tuple[int, int, SpecialToken]]:
        """The control tokens that are read, in order."""
        mask = _mask(text, plain, _PLAIN)
        read = []
        for start, end, token in sorted(found, key=lambda place: (-len(place[2].text.encode()), place[0])):
            if not any(mask[start:end]):
                mask[start:end] = bytes([_TAKEN]) * (end - start)
                if not token.user_defined:
                    read.append((start, end, token))
        return sorted(read, key=lambda place: place[0])

    def _cuts(self, found: list[tuple[int, int, SpecialToken]], spans: Spans) -> list[int]:
        """Where to cut the user-defined tokens that touch a span: llama.cpp would read them in any text. Ascending."""
        cuts = []
        ahead = iter(spans)
        span = next(ahead, None)
        for start, end, token in found:
            while span and span[1] <= start:
                span = next(ahead, None)
            if span is None:
                break
            if token.user_defined and span[0] < end and end - start > 1:
                cuts.append(start + 1)
        return cuts


def _cut(text: str, start: int, end: int, cuts: deque[int]) -> Iterator[Piece]:
    """The pieces of `text[start:end]`. Takes the cuts until there."""
    first = start
    while cuts and cuts[0] < end:
        cut = cuts.popleft()
        if start < cut:
            yield Piece(text[start:cut], False, continues=start > first)
            start = cut
    if start < end:
        yield Piece(text[start:end], False, continues=start > first)


def _mask(text: str, spans: Spans, value: int) -> bytearray:
    """One byte a character."""
    mask = bytearray(len(text))
    for start, end in spans:
        end = min(end, len(text))
        if start < end:
            mask[start:end] = bytes([value]) * (end - start)
    return mask
