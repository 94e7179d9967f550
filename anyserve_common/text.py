"""Text that a client or a file made up, as it stands in messages and log lines. PURE."""

import json
import re

import orjson

MAX_QUOTED = 100
"""Characters of a name or value that a message quotes."""
_ENDS_IN_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\\Z")
_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def shortened(text: str, most: int = MAX_QUOTED) -> str:
    """The text, without its middle if it has more than `most` characters."""
    if len(text) <= most:
        return text
    half = (most - 1) // 2
    return f"{text[: most - 1 - half]}…{text[len(text) - half :]}"


def printable(text: str) -> str:
    """The text with JSON's escape for each unprintable character. A JSON object keeps its meaning."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in text)


def as_json(value: object) -> str:
    """The value as JSON; what JSON doesn't have becomes text."""
    try:
        return orjson.dumps(value, default=str).decode()
    except TypeError:  # half of a surrogate pair, as names of files may have, or a number of more than 64 bits
        return json.dumps(value, default=str)


def ends_in_escape(pattern: str) -> bool:
    """Whether a regular expression ends with a backslash that escapes nothing."""
    return _ENDS_IN_ESCAPE.search(pattern) is not None


def _escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return _ESCAPES.get(character) or "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))
