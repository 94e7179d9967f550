"""The ASCII characters of the classes that regular expressions name, and those that JSON escapes. PURE."""

import re
import unicodedata

SHORT_ESCAPES = {'"': '"', "\\": "\\", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
ASCII = frozenset(map(chr, range(128)))
"""The characters for which classes are evaluated. None but these has an escape."""
ESCAPED = frozenset(map(chr, range(32))) | {'"', "\\"}
"""Characters that JSON escapes."""
_DIGITS = frozenset("0123456789")
_UPPER, _LOWER = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), frozenset("abcdefghijklmnopqrstuvwxyz")
_LETTERS = _UPPER | _LOWER
_SPACES = frozenset("\t\n\v\f\r ")
CLASSES = {"d": _DIGITS, "s": _SPACES, "w": _LETTERS | _DIGITS | {"_"}}
_GRAPHIC = frozenset(map(chr, range(33, 127)))
POSIX = {
    "alnum": _LETTERS | _DIGITS,
    "alpha": _LETTERS,
    "ascii": ASCII,
    "blank": frozenset("\t "),
    "cntrl": frozenset(map(chr, range(32))) | {"\x7f"},
    "digit": _DIGITS,
    "graph": _GRAPHIC,
    "lower": _LOWER,
    "print": _GRAPHIC | {" "},
    "punct": _GRAPHIC - _LETTERS - _DIGITS,
    "space": _SPACES,
    "upper": _UPPER,
    "word": _LETTERS | _DIGITS | {"_"},
    "xdigit": _DIGITS | frozenset("abcdefABCDEF"),
}
POSIX_CLASS = re.compile(r"\[:(\^?)([a-z]+):\]")
_PROPERTIES = {
    "alphabetic": _LETTERS,
    "any": ASCII,
    "ascii": ASCII,
    "lowercase": _LOWER,
    "uppercase": _UPPER,
    "whitespace": _SPACES,
    "letter": _LETTERS,
    "han": frozenset[str](),
    "latin": _LETTERS,
    "greek": frozenset[str](),
    "cyrillic": frozenset[str](),
    "hiragana": frozenset[str](),
    "katakana": frozenset[str](),
    "emoji": frozenset("#*") | _DIGITS,
}
"""ASCII characters of frequent properties, beside the one- and two-letter categories."""


class Refused(Exception):
    """The grammar has a construct that can't be enforced here. The message names it."""


def with_property(name: str) -> frozenset[str]:
    """The ASCII characters with a Unicode property."""
    if len(name) <= 2 and name[:1].upper() in "LMNPSZC" and name[:1]:
        category = name[0].upper() + name[1:].lower()
        return frozenset(c for c in ASCII if unicodedata.category(c).startswith(category))
    key = re.sub(r"[\s_-]", "", name.rpartition("=")[2]).lower()
    if key not in _PROPERTIES:
        raise Refused(f"the property '{name}' in a regular expression")
    return _PROPERTIES[key]
