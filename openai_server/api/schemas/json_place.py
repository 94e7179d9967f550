"""Which field a place in JSON belongs to, for an error of the decoder's. PURE."""

import re

import orjson

MAX_LENGTH = 262_144
"""Characters in front of the place that are read."""
MAX_TOKENS = 16_384
"""Strings and punctuation among them. The two limits together take about 5 ms."""
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\],:]')
_NUMBER = re.compile(r"-?(?:[0-9]|NaN|Infinity)")


def field_of(error: orjson.JSONDecodeError) -> str | None:
    """The field whose value is no number that can be read, or nests too deeply; None for another error, or if it is
    unknown."""
    if error.pos > MAX_LENGTH:
        return None
    path = _path(error.doc[: error.pos])
    if error.msg.startswith("depth limit"):
        return str(path[0]) if path else None
    if not _NUMBER.match(error.doc, error.pos) or not path:
        return None
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


def _path(text: str) -> list[str | int]:
    """Keys and indexes of the value that begins behind `text`, which is the beginning of a JSON text. Empty if that has
    too many tokens."""
    path: list[str | int] = []
    last = ""
    for n_before, match in enumerate(_TOKEN.finditer(text)):
        if n_before == MAX_TOKENS:
            return []
        token = match[0]
        if token == "{":
            path.append("")
        elif token == "[":
            path.append(0)
        elif token in "}]" and path:
            path.pop()
        elif token == "," and path and isinstance(path[-1], int):
            path[-1] += 1
        elif token == ":" and path:
            path[-1] = last
        last = token[1:-1]
    return path
