"""Formats untrusted text for messages and log lines. PURE."""

import json
import re

import orjson

MAX_QUOTED = 100
"""Most characters of a name or value that a message quotes."""
_ENDS_IN_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\\Z")
_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def shortened(text: str, max_length: int = MAX_QUOTED) -> str:
    """Returns the text, without its middle if it has more than `max_length` characters."""
    if len(text) <= max_length:
        return text
    half = (max_length - 1) // 2
    return f"{text[: max_length - 1 - half]}…{text[len(text) - half :]}"


def printable(text: str) -> str:
    """Returns the text with unprintable characters as JSON escapes. A JSON object keeps its meaning."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in text)


def as_json(value: object) -> str:
    """Returns the value as JSON, with types that JSON lacks as strings."""
    try:
        return orjson.dumps(value, default=str).decode()
    except TypeError:  # an unpaired surrogate, as in file names, or a number of more than 64 bits
        return json.dumps(value, default=str)


def ends_in_escape(pattern: str) -> bool:
    """Returns whether a regular expression ends with a backslash that escapes nothing."""
    return _ENDS_IN_ESCAPE.search(pattern) is not None


def _escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return _ESCAPES.get(character) or "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))
