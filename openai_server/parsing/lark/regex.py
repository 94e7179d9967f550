"""Rewrites a regular expression of a grammar so that it matches the JSON-escaped form of the same texts.

PURE. The dialect is that of Rust's `regex` crate. Only the parts that may match a character with an escape change: such
characters themselves, `.`, classes, and escapes for classes. Everything else is copied. A character matches in the form
that JSON encoders write: the short escape if there is one, `\\u001b` for other control characters, itself otherwise.
"""

import re
from collections.abc import Set
from typing import NamedTuple

from openai_server.parsing.lark.characters import (
    ASCII,
    CLASSES,
    ESCAPED,
    POSIX,
    POSIX_CLASS,
    SHORT_ESCAPES,
    Refused,
    with_property,
)

PLAIN_CLASS = r'[^"\\\x00-\x1f]'
_BETWEEN_CHECKS = 256
"""Pieces of a rewritten expression between two checks of its length."""
_FLAGS = frozenset("imsux")
_FLAG_GROUP = re.compile(r"\?([a-zA-Z]*)(?:-([a-zA-Z]+))?([:)])")
_NAMED_GROUP = re.compile(r"\?P?<[A-Za-z_][A-Za-z0-9_.\[\]]*>")
_CHARACTER_ESCAPE = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|[xuU]\{([0-9a-fA-F]{1,8})\})"
)
_PROPERTY = re.compile(r"\\([pP])(?:([A-Za-z])|\{(\^?)([^{}]*)\})")
_GROUPED = re.compile(r"\((?:\?:)?([^()]*)\)")
_CLOSED = re.compile(r"""(?P<end>\\?["'`%@~,;:=<>!&])(?P<body>.+)(?<!\\)(?P=end)""", re.DOTALL)
"""An expression that begins and ends with the same punctuation character."""
_CONTROL_ESCAPES = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_PUNCTUATION = frozenset("\\.+*?()|[]{}^$#&-~/\"'`!%,:;<=>@_ ")
"""Characters that a backslash makes literal."""
MAX_LENGTH = 1 << 18
"""Characters of a rewritten expression or grammar: workers accept no longer one, and a short expression may grow to a
hundred times its length."""
_MAX_NESTING = 50
"""Classes within classes."""


def too_long() -> Refused:
    return Refused(f"it would have more than {MAX_LENGTH} characters")


def escaped_regex(regex: str, flags: str = "") -> str:
    """The expression for the JSON-escaped texts. `flags` are those after the closing slash. Raises Refused."""
    rewriting = _Rewriting(regex, flags)
    return (f"(?{flags})" if flags else "") + rewriting.text()


class Run(NamedTuple):
    """An expression for characters of one class."""

    plain: str
    """The expression for one that isn't escaped."""
    escapes: str
    """The expression for one that is escaped."""
    quantifier: str
    """`+`, `*`, `?` or empty."""


def run_of(regex: str, flags: str) -> Run | None:
    """The expression as a run; None if it is more than that, or has no escaped characters. Raises Refused."""
    if match := _GROUPED.fullmatch(regex):
        regex = match[1]
    rewriting = _Rewriting(regex, flags)
    atom = rewriting.atom()
    if atom is None or atom[2] not in ("", "+", "*", "?"):
        return None
    prefix = f"(?{flags})" if flags else ""
    source, members, quantifier = atom
    escaped = members & ESCAPED
    return Run(prefix + _plain_of(source), _of_characters("", escaped), quantifier) if escaped else None


def is_closed(regex: str, flags: str) -> bool:
    """Whether the expression begins and ends with a character that occurs nowhere else in its texts, so that a text
    can't go on after its end. Raises Refused."""
    match = _CLOSED.fullmatch(regex)
    if match is None or "|" in regex:
        return False
    return match["end"][-1] not in characters_of(match["body"], flags)


def characters_of(regex: str, flags: str) -> Set[str]:
    """The ASCII characters that classes and literals of the expression match. Raises Refused."""
    rewriting = _Rewriting(regex, flags)
    rewriting.text()
    return rewriting.seen


def range_of(first: str, last: str) -> str:
    """The class of the characters from `first` to `last`."""
    return f"[{_in_class(first)}-{_in_class(last)}]"


def literal_text(text: str, *, ignore_case: bool = False) -> str:
    """The expression for a text, JSON-escaped."""
    pieces = [_escape_of(character) or _quoted(character) for character in text]
    return f"(?i:{''.join(pieces)})" if ignore_case else "".join(pieces)


def any_text() -> str:
    """The expression for any JSON-escaped text."""
    return f"({_of_characters(PLAIN_CLASS, ESCAPED)})*"


def _quoted(character: str) -> str:
    return (
        "\\" + character if not character.isalnum() and character.isascii() and character.isprintable() else character
    )


def _in_class(character: str) -> str:
    return f"\\x{{{ord(character):x}}}"


def _escape_of(character: str) -> str:
    """The expression for the escape of a character; empty if it has none."""
    return _of_characters("", {character}) if character in ESCAPED else ""


def _of_characters(plain: str, characters: Set[str]) -> str:
    """The expression for a class `plain`, if there is one, or the escape of one of `characters`."""
    short = "".join(sorted(SHORT_ESCAPES[character] for character in characters & SHORT_ESCAPES.keys()))
    escapes = []
    if short:
        escapes.append(f"\\\\[{re.escape(short)}]".replace('\\"', '"'))
    for high in "01":
        low = [f"{ord(c) & 15:x}" for c in characters - SHORT_ESCAPES.keys() if c < " " and ord(c) >> 4 == int(high)]
        if low:
            digits = "".join(sorted({*low, *(digit.upper() for digit in low)}))
            escapes.append(f"\\\\u00{high}[{digits}]")
    choices = [plain] if plain else []
    if escapes:
        choices.append(f"(?-i:{'|'.join(escapes)})")
    return choices[0] if len(choices) == 1 else f"(?:{'|'.join(choices)})"


_DOT = "."


def _plain_of(source: str) -> str:
    """The expression for one character of a class that isn't escaped."""
    return PLAIN_CLASS if source == _DOT else f"[{source}&&{PLAIN_CLASS}]"


class _Rewriting:
    """The way through one expression. `seen`: the ASCII characters that its classes and literals match."""

    def __init__(self, regex: str, flags: str) -> None:
        self._regex = regex
        self._at = 0
        self._flags = _changed(frozenset(), flags, "")
        self.seen: set[str] = set()

    def text(self) -> str:
        out: list[str] = []
        groups: list[frozenset[str]] = []
        regex, n_checked, length = self._regex, 0, 0
        while self._at < len(regex):
            if len(out) - n_checked == _BETWEEN_CHECKS:
                length += sum(map(len, out[n_checked:]))
                n_checked = len(out)
                if length > MAX_LENGTH:
                    raise too_long()
            character = regex[self._at]
            if character == "(":
                groups.append(self._flags)
                begin, is_group = self._group()
                if not is_group:
                    groups.pop()
                out.append(begin)
            elif character == ")":
                if not groups:
                    raise Refused("a regular expression with an unopened group")
                self._flags = groups.pop()
                out.append(self._take(1))
            elif character == "[":
                at = self._at
                members = self._class(0)
                out.append(self._matching(regex[at : self._at], members))
            elif character == ".":
                self._at += 1
                out.append(self._matching(_DOT, self._dot()))
            elif character == "\\":
                out.append(self._escape())
            elif "x" in self._flags and (character.isspace() or character == "#"):
                self._skip_comment()
            elif character in "*+?{}|^$":
                out.append(self._take(1))
            else:
                self._at += 1
                out.append(self._literal(character, character))
        if groups:
            raise Refused("a regular expression with an unclosed group")
        return "".join(out)

    def _take(self, n: int) -> str:
        self._at += n
        return self._regex[self._at - n : self._at]

    def _literal(self, character: str, source: str) -> str:
        self.seen.add(character)
        return _escape_of(character) or source

    def _matching(self, source: str, members: frozenset[str]) -> str:
        """The expression for one character of a class. `members` are its ASCII characters."""
        self.seen |= members
        source = source.replace("\n", "" if "x" in self._flags else r"\n")
        return _of_characters(_plain_of(source), members & ESCAPED)

    def atom(self) -> tuple[str, frozenset[str], str] | None:
        """The class that the expression begins with, its ASCII characters, and the rest of the expression. None: it
        begins with something else."""
        regex = self._regex
        if regex[:1] == "[":
            members = self._class(0)
        elif regex[:1] == ".":
            return _DOT, self._dot(), regex[1:]
        elif (found := self._class_escape()) is not None:
            members = found
        else:
            return None
        return regex[: self._at], members, regex[self._at :]

    def _dot(self) -> frozenset[str]:
        return ASCII if "s" in self._flags else ASCII - {"\n"}

    def _skip_comment(self) -> None:
        if self._regex[self._at] == "#":
            end = self._regex.find("\n", self._at)
            self._at = len(self._regex) if end < 0 else end
        else:
            self._at += 1

    def _group(self) -> tuple[str, bool]:
        """The beginning of a group, and whether it has an end: flags alone have none."""
        after = self._at + 1
        if match := _FLAG_GROUP.match(self._regex, after):
            on, off, end = match[1], match[2] or "", match[3]
            self._flags = _changed(self._flags, on, off)
            return self._take(match.end() - self._at), end == ":"
        if match := _NAMED_GROUP.match(self._regex, after):
            self._take(match.end() - self._at)
            return "(?:", True
        if self._regex.startswith("?", after):
            raise Refused(f"'{self._regex[self._at : self._at + 4]}' in a regular expression")
        return self._take(1), True

    def _escape(self) -> str:
        """A backslash and what follows it, outside of a class."""
        begin = self._at
        kind = self._regex[begin + 1 : begin + 2]
        if kind in ("A", "z"):
            return self._take(2)
        members = self._class_escape()
        if members is not None:
            return self._matching(self._regex[begin : self._at], members)
        character = self._character()
        return self._literal(character, self._regex[begin : self._at])

    def _class_escape(self) -> frozenset[str] | None:
        """Reads an escape for a class, and returns its ASCII characters. None, and nothing is read, for another one."""
        kind = self._regex[self._at + 1 : self._at + 2]
        if kind.lower() in CLASSES:
            self._at += 2
            members = CLASSES[kind.lower()]
            return members if kind.islower() else ASCII - members
        if match := _PROPERTY.match(self._regex, self._at):
            self._at = match.end()
            members = with_property(match[2] or match[4])
            return members if (match[1] == "p") != bool(match[3]) else ASCII - members
        return None

    def _character(self) -> str:
        """Reads a character, which may be an escape."""
        if self._regex[self._at] != "\\":
            return self._take(1)
        if match := _CHARACTER_ESCAPE.match(self._regex, self._at):
            self._at = match.end()
            code = int(next(filter(None, match.groups())), 16)
            if code > 0x10FFFF or 0xD800 <= code < 0xE000:
                raise Refused(f"'{match[0]}' in a regular expression")
            return chr(code)
        kind = self._regex[self._at + 1 : self._at + 2]
        if kind in _CONTROL_ESCAPES:
            self._at += 2
            return _CONTROL_ESCAPES[kind]
        if not kind or kind not in _PUNCTUATION:
            raise Refused(f"'\\{kind}' in a regular expression")
        self._at += 2
        return kind

    # ---- Classes: `[…]` with ranges, nested classes and the operators `&&`, `--` and `~~`

    def _class(self, level: int) -> frozenset[str]:
        """Reads a class, and returns its ASCII characters."""
        if level > _MAX_NESTING:
            raise Refused("deeply nested classes in a regular expression")
        regex = self._regex
        self._at += 1
        negated = regex.startswith("^", self._at)
        self._at += negated
        result: frozenset[str] | None = None
        operator, items, first = "", set[str](), True
        while True:
            if "x" in self._flags:
                while self._at < len(regex) and regex[self._at].isspace():
                    self._at += 1
                if regex.startswith("#", self._at):
                    raise Refused("a comment in a class of a regular expression")
            if self._at >= len(regex):
                raise Refused("a regular expression with an unclosed class")
            two = regex[self._at : self._at + 2]
            if regex[self._at] == "]" and not first:
                self._at += 1
                members = _combined(result, operator, items)
                return ASCII - members if negated else members
            if two in ("&&", "--", "~~") and not first:
                result = _combined(result, operator, items)
                operator, items = two, set()
                self._at += 2
                continue
            items |= self._item(level)
            first = False

    def _item(self, level: int) -> Set[str]:
        regex = self._regex
        if match := POSIX_CLASS.match(regex, self._at):
            self._at = match.end()
            if match[2] not in POSIX:
                raise Refused(f"'{match[0]}' in a regular expression")
            members = POSIX[match[2]]
            return ASCII - members if match[1] else members
        if regex[self._at] == "[":
            return self._class(level + 1)
        if regex[self._at] == "\\" and (found := self._class_escape()) is not None:
            return found
        first = self._character()
        if regex.startswith("-", self._at) and regex[self._at + 1 : self._at + 2] not in ("]", "-", ""):
            self._at += 1
            last = self._character()
            if last < first:
                raise Refused("a range in the wrong order in a regular expression")
            return {character for character in ASCII if first <= character <= last}
        return {first}


def _combined(left: frozenset[str] | None, operator: str, right: Set[str]) -> frozenset[str]:
    if left is None:
        return frozenset(right) & ASCII
    match operator:
        case "&&":
            return left & right
        case "--":
            return left - right
    return (left ^ right) & ASCII


def _changed(flags: frozenset[str], on: str, off: str) -> frozenset[str]:
    for flag in on + off:
        if flag not in _FLAGS or (flag == "u" and flag in off):
            raise Refused(f"the flag '{flag}' of a regular expression")
    return (flags | frozenset(on)) - frozenset(off)
