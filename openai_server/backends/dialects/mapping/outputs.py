"""The tensors of a response of any backend, by name. PURE."""

from collections.abc import Sequence
from typing import Any

import orjson

from openai_server.backends.dialects.mapping.schema import Count, Output
from openai_server.backends.dialects.response_tensors import ResponseTensors, malformed


class Outputs(ResponseTensors):
    """The tensors of one response, by the places of a mapping file."""

    def elements(self, name: str) -> Sequence[Any]:
        """Empty if the response lacks the tensor. Raises BackendError."""
        output, raw = self._tensors.get(name, (None, None))
        return () if output is None else self._decoded(output, raw)

    def first_of(self, names: str | list[str] | None) -> str | None:
        alternatives = [names] if isinstance(names, str) else names or []
        return next((name for name in alternatives if name in self._tensors), None)

    def numbers(self, place: Count) -> list[int]:
        """Counts of tokens; empty if the response has none. Raises BackendError."""
        numbers = []
        for value in values_of(self, place) or ():
            try:
                number = int(value)
            except (TypeError, ValueError, OverflowError):
                raise malformed(f"{value!r} as a number of tokens") from None
            if number < 0:
                raise malformed(f"{number} as a number of tokens")
            numbers.append(number)
        return numbers


def values_of(outputs: Outputs, place: Output, mark: bytes = b"") -> list[Any] | None:
    """The values at the place, each None if it is absent from the JSON; None if the response lacks the tensor. An
    element that is `mark` is a value itself. Raises BackendError."""
    if (name := outputs.first_of(place.tensor)) is None:
        return None
    elements = list(outputs.elements(name))
    if place.json is None:
        return elements
    return [mark if mark and element == mark else _at(element, place.json) for element in elements]


def texts_of(outputs: Outputs, place: Output, mark: bytes = b"") -> list[bytes | None] | None:
    """The same as UTF-8 texts."""
    values = values_of(outputs, place, mark)
    return None if values is None else [None if value is None else _bytes(value) for value in values]


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else orjson.dumps(value)


def _at(element: Any, path: str) -> Any:
    """The value at the path in a JSON text; None if it is absent. Raises BackendError."""
    try:
        value = orjson.loads(element)
    except (orjson.JSONDecodeError, TypeError) as error:
        raise malformed("text that is not JSON") from error
    for part in path.split("."):
        if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, dict) and part in value:
            value = value[part]
        else:
            return None
    return value
