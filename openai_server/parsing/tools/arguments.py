"""Converts arguments that a model writes as plain text, each with its name, to one JSON object.

PURE. The tool's schema determines the type of a value. A string is emitted as it arrives. Any other value is emitted at
its end, since only then is it clear whether it is JSON, and dropped if the text ends first. A value that is not JSON
becomes a string, whatever its type in the schema.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from openai_server.core.tools import Tool
from openai_server.parsing import json_text
from openai_server.parsing.reader import Emit, Output, Reader, Steps
from openai_server.parsing.tools import schema

_STRING = frozenset({"string"})
_KINDS = {"{": "object", "[": "array", '"': "string", "t": "boolean", "f": "boolean", "n": "null"}


def parameters_of(tools: Sequence[Tool]) -> dict[str, Mapping[str, Any]]:
    """The schema of the arguments, by name of the tool."""
    return {tool.function.name: schema.parameters(tool.function) for tool in tools}


class TextArguments:
    """The arguments of one call. Passes the text of the JSON object to `emit`."""

    def __init__(self, parameters: Mapping[str, Any] | None, emit: Emit) -> None:
        self._parameters = parameters or {}
        self._emit = emit
        self._empty = True

    def read(self, reader: Reader, key: str, ends: tuple[str, ...], is_string: bool | None = None) -> Steps[bool]:
        """Reads one value, up to one of `ends`. Returns whether the text has such an end. `is_string` overrides the
        schema's type; None keeps it."""
        types = schema.types(schema.properties(self._parameters).get(key), self._parameters)
        if is_string is not None:
            types = _STRING if is_string else None
        self._emit(f"{'{' if self._empty else ', '}{orjson.dumps(key).decode()}: ")
        self._empty = False
        if types == _STRING:
            self._emit('"')
            end = yield from reader.until(ends, lambda text: self._emit(json_text.in_string(text)), drop_beginning=True)
            if end:
                self._emit('"')
            return bool(end)
        pieces: list[str] = []
        end = yield from reader.until(ends, pieces.append)
        text = "".join(pieces)
        if end:
            self._emit(as_json(text, types))
        return bool(end)

    def close(self) -> None:
        self._emit("{}" if self._empty else "}")


class Key(NamedTuple):
    """The key of an argument."""

    name: str
    is_string: bool | None = None
    """Whether the format marks the value as a string; None if it doesn't mark the type."""


@dataclass(frozen=True, slots=True)
class Elements:
    """How a format writes arguments: one element each, with a key and a value."""

    begin: str
    """Text before a key."""
    ends: tuple[str, ...]
    """Texts after the last element."""
    read_key: Callable[[Reader], Steps[Key | None]]
    """Reads a key, up to the beginning of its value. Returns None if the text is not a key."""
    value_ends: tuple[str, ...]
    before_value: str = ""
    """Optional text before a value."""

    def read(self, reader: Reader, out: Output, name: str, parameters: Mapping[str, Any] | None) -> Steps[bool]:
        """Reads the arguments of the function `name`. Returns whether they were complete.

        The call begins with its first argument.
        """
        arguments = TextArguments(parameters, out.arguments)
        begun = False
        while True:
            yield from reader.spaces()
            tag = yield from reader.literal(self.begin, *self.ends)
            key = (yield from self.read_key(reader)) if tag == self.begin else None
            if not tag or (tag == self.begin and not key):
                return False
            reader.forget()
            if not begun:
                begun = True
                out.begin(name)
            if not key:
                arguments.close()
                return True
            if self.before_value:
                yield from reader.literal(self.before_value)
            if not (yield from arguments.read(reader, key.name, self.value_ends, key.is_string)):
                return False
            reader.keep()


def as_json(text: str, types: frozenset[str] | None) -> str:
    """The value of `text` as JSON. `types` are the types that the schema allows; None allows all."""
    json = json_text.valid(text.strip())
    if json is not None:
        kind = _KINDS.get(json[0], "number")
        # The format has no quotes, so quotes around a string are part of the text.
        if kind != "string" and (types is None or "string" not in types or kind in types):
            return json
        if kind == "number" and types is not None and "integer" in types:
            return json
    return orjson.dumps(text).decode()
