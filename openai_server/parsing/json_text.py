"""Converts JSON as models write it to valid JSON, piece by piece.

PURE. Valid JSON is passed on unchanged. Frequent mistakes of models, and Python's notation, are corrected: raw line
breaks and invalid escapes in strings, 'single quotes', True, False and None, a comma before the closing bracket.
Anything else fails at the first invalid character, which is not consumed.
"""

import re
from typing import Final

import orjson

from openai_server.parsing.reader import Emit, Output, Reader, Steps

_VALUE: Final = 0
_ITEM: Final = 1  # a value, or the end of the list
_KEY: Final = 2  # a key, or the end of the object
_COLON: Final = 3
_NEXT: Final = 4  # a comma, or the end of the enclosing value

_SPACES = re.compile(r"[ \t\r\n]+")
_PLAIN = {'"': re.compile(r'[^"\\\x00-\x1f]+'), "'": re.compile(r"[^'\"\\\x00-\x1f]+")}
_WORD = re.compile(r"[-+.0-9A-Za-z]+")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_NUMBER_BEGUN = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][-+]?[0-9]*)?)?")
_NAMES = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
_HEX_DIGITS = {"u": 4, "x": 2}
_MAX_WORD = 400
"""Characters of a number or a name."""
_MAX_SPACES = 64
"""Characters of a comma with the whitespace after it that are kept."""


class JsonScanner:
    """Scans one JSON value. It doesn't recurse, so text may nest arbitrarily deeply."""

    def __init__(self) -> None:
        self.done = False
        self.failed = False
        self._expects = _VALUE
        self._closers: list[str] = []
        self._quote = ""  # of the open string; empty outside strings
        self._escape = ""  # the part of an escape read so far
        self._word = ""  # the part of a number or name read so far
        self._comma = ""  # a pending comma and the whitespace after it
        self._out: list[str] = []

    def push(self, text: str, at: int) -> tuple[int, str]:
        end = len(text)
        while at < end and not (self.done or self.failed):
            if self._quote:
                at = self._in_escape(text, at) if self._escape else self._in_string(text, at)
            elif match := _WORD.match(text, at):
                if self._expects in (_VALUE, _ITEM) and len(self._word) + len(match[0]) <= _MAX_WORD:
                    self._word += match[0]
                    at = match.end()
                else:
                    self.failed = True
            elif self._word:
                self._end_word()
            elif match := _SPACES.match(text, at):
                at = match.end()
                self._space(match[0])
            elif self._structure(text[at]):
                at += 1
            else:
                self.failed = True
        return at, self._taken()

    def end(self) -> str:
        if self._word and not self.failed:
            self._end_word()
            if self.failed and _begins(self._word):
                self.failed = False
                if self._word[0].isupper():
                    self._word = ""  # JSON writes it differently
        rest = self._taken() + self._comma + self._escape + self._word
        self._comma = self._escape = self._word = ""
        return rest

    def _taken(self) -> str:
        text, self._out = "".join(self._out), []
        return text

    def _structure(self, character: str) -> bool:
        closer = self._closers[-1] if self._closers else ""
        if character in ("{", "[") and self._expects in (_VALUE, _ITEM):
            self._put(character)
            self._closers.append("}" if character == "{" else "]")
            self._expects = _KEY if character == "{" else _ITEM
        elif character in ('"', "'") and self._expects in (_VALUE, _ITEM, _KEY):
            self._put('"')
            self._quote = character
        elif character == closer and self._expects in (_NEXT, _ITEM, _KEY):
            self._comma = ""
            self._put(self._closers.pop())
            self._end_value()
        elif character == "," and closer and self._expects == _NEXT:
            self._comma = ","
            self._expects = _KEY if closer == "}" else _ITEM
        elif character == ":" and self._expects == _COLON:
            self._put(":")
            self._expects = _VALUE
        else:
            return False
        return True

    def _put(self, text: str) -> None:
        if self._comma:
            self._out.append(self._comma)
            self._comma = ""
        self._out.append(text)

    def _space(self, spaces: str) -> None:
        if not self._comma:
            self._out.append(spaces)
        elif len(self._comma) + len(spaces) <= _MAX_SPACES:
            self._comma += spaces

    def _end_value(self) -> None:
        self._expects = _NEXT
        self.done = not self._closers

    def _end_word(self) -> None:
        word = _NAMES.get(self._word) or (self._word if _NUMBER.fullmatch(self._word) else "")
        if word:
            self._put(word)
            self._word = ""
            self._end_value()
        else:
            self.failed = True

    # ---- Strings

    def _in_string(self, text: str, at: int) -> int:
        if match := _PLAIN[self._quote].match(text, at):
            self._out.append(match[0])
            return match.end()
        character = text[at]
        if character == self._quote:
            self._out.append('"')
            self._quote = ""
            if self._expects == _KEY:
                self._expects = _COLON
            else:
                self._end_value()
        elif character == "\\":
            self._escape = character
        else:
            self._out.append(in_string(character))
        return at + 1

    def _in_escape(self, text: str, at: int) -> int:
        character = text[at]
        kind = self._escape[1:2] or character
        if len(self._escape) == 1:
            if kind in _HEX_DIGITS:
                self._escape += kind
                return at + 1
            self._escape = ""
            if kind == "'":
                self._out.append(kind)
            elif kind in '"\\/bfnrt':
                self._out.append("\\" + kind)
            else:  # such as \d: the backslash is meant literally
                self._out.append("\\\\")
                return at
            return at + 1
        if character not in "0123456789abcdefABCDEF":
            self._out.append("\\" + self._escape)
            self._escape = ""
            return at
        self._escape += character
        if len(self._escape) == 2 + _HEX_DIGITS[kind]:
            self._out.append("\\u" + self._escape[2:].rjust(4, "0"))
            self._escape = ""
        return at + 1


def _begins(word: str) -> bool:
    """Whether more text may complete the word to a name or number."""
    return _NUMBER_BEGUN.fullmatch(word) is not None or any(name.startswith(word) for name in _NAMES)


def in_string(text: str) -> str:
    """The text as written between the quotes of a JSON string."""
    return orjson.dumps(text).decode()[1:-1]


def valid(text: str) -> str | None:
    """The text as valid JSON; None if it is not exactly one value."""
    scanner = JsonScanner()
    at, out = scanner.push(text, 0)
    out += scanner.end()
    return out if scanner.done and at == len(text) else None


# ---- For parsers


def value(reader: Reader, emit: Emit) -> Steps[bool]:
    """Reads one value and passes its text to `emit`. Returns whether the value was complete."""
    return (yield from reader.scan(JsonScanner(), emit))


def string(reader: Reader) -> Steps[str | None]:
    """Reads a string; None if there is no complete string."""
    if (yield from reader.peek()) not in ('"', "'"):
        return None
    pieces: list[str] = []
    if not (yield from value(reader, pieces.append)):
        return None
    try:
        return str(orjson.loads("".join(pieces)))
    except orjson.JSONDecodeError:  # half a surrogate pair
        return None


def arguments(reader: Reader, emit: Emit) -> Steps[bool]:
    """Reads the arguments of a call. An object goes to `emit` piece by piece, other values at once when complete.

    Returns whether the value was complete.
    """
    if (yield from reader.peek()) == "{":
        return (yield from value(reader, emit))
    pieces: list[str] = []
    complete = yield from value(reader, pieces.append)
    if complete:
        emit(_as_object("".join(pieces)))
    return complete


def _as_object(text: str) -> str:
    """Converts values that models write in place of an object: null, an empty text or list, or JSON in a string."""
    inner: str | None = text
    if text.startswith('"'):
        try:
            content = str(orjson.loads(text)).strip()
        except orjson.JSONDecodeError:
            return text
        inner = valid(content) if content else "null"
    if inner == "null" or (text.startswith("[") and not text[1:-1].strip()):
        return "{}"
    return inner if inner is not None and inner.startswith("{") else text


def arguments_of(reader: Reader, out: Output, name: str, id: str | None, ends: tuple[str, ...]) -> Steps[bool]:
    """Reads the arguments of a call, and begins the call. Returns whether the arguments were complete.

    If one of `ends` comes next, the model has omitted the arguments.
    """
    if (yield from reader.peek()) == "{":
        reader.forget()
        out.begin(name, id)
        return (yield from value(reader, out.arguments))
    pieces: list[str] = []
    omitted = yield from reader.next_of(*ends)
    if not omitted and not (yield from arguments(reader, pieces.append)):
        return False
    text = "".join(pieces) or "{}"
    if not text.startswith("{"):
        return False
    reader.forget()
    out.begin(name, id)
    out.arguments(text)
    return True
