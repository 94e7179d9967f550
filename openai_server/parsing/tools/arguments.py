"""Arguments that a model writes as plain text under their names, to one JSON object.

PURE. The tool's schema says what the text stands for. A string is passed on as it comes; anything else waits for its
end, since only then is it known to be JSON, and is left out if that does not come. What is not JSON is a string,
whatever the schema says.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from openai_server.core.tools import Tool
from openai_server.parsing import json_text
from openai_server.parsing.reader import Emit, Reader, Steps
from openai_server.parsing.tools import schema

_STRING = frozenset({"string"})
_KINDS = {"{": "object", "[": "array", '"': "string", "t": "boolean", "f": "boolean", "n": "null"}


def parameters_of(tools: Sequence[Tool]) -> dict[str, Mapping[str, Any]]:
    """The schemas of the arguments, by name of the tool."""
    return {tool.function.name: schema.parameters(tool.function) for tool in tools}


class TextArguments:
    """The arguments of one call. Writes the object's text to `emit`."""

    def __init__(self, parameters: Mapping[str, Any] | None, emit: Emit) -> None:
        self._parameters = parameters or {}
        self._emit = emit
        self._empty = True

    def read(self, reader: Reader, key: str, ends: tuple[str, ...], is_string: bool | None = None) -> Steps[bool]:
        """Reads the text up to one of `ends`; whether one came. `is_string` is known where the format says it."""
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


def as_json(text: str, types: frozenset[str] | None) -> str:
    """The value that `text` stands for; `types` are those that the schema allows."""
    json = json_text.valid(text.strip())
    if json is not None:
        kind = _KINDS.get(json[0], "number")
        # Quotes that a model writes around a string of its own accord are part of the text.
        if kind != "string" and (types is None or "string" not in types or kind in types):
            return json
        if kind == "number" and types is not None and "integer" in types:
            return json
    return orjson.dumps(text).decode()
