"""Problems of settings, with what is allowed instead. PURE."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec.inspect import DictType, Field, ListType, LiteralType, StructType, UnionType, type_info

_PLACE = re.compile(r" - at (?P<key>`key` in )?`\$(?P<path>[^`]*)`$")
_STEP = re.compile(r"\.([^.\[]+)|\[[^\]]*\]")


def explained(error: msgspec.ValidationError, type: Any) -> str:
    """The error's text, with the allowed keys or values where it is about one of them. `type`: that of all settings."""
    text = str(error)
    place = _PLACE.search(text)
    types = list(_alternatives([type_info(type)]))
    for name, *_ in map(re.Match.groups, _STEP.finditer(place["path"] if place else "")):
        types = list(_alternatives(_inner(types, name)))
    if place and place["key"]:
        types = [found.key_type for found in types if isinstance(found, DictType)]
    if "unknown field" in text:
        allowed = [field.encode_name for found in types for field in _fields(found)]
    elif "Invalid enum value" in text:
        allowed = [repr(value) for found in types if isinstance(found, LiteralType) for value in found.values]
    else:
        allowed = []
    return f"{text}; allowed: {', '.join(allowed)}" if allowed else text


def _alternatives(types: Iterable[Any]) -> Iterator[Any]:
    for found in types:
        yield from found.types if isinstance(found, UnionType) else (found,)


def _fields(found: Any) -> tuple[Field, ...]:
    return found.fields if isinstance(found, StructType) else ()


def _inner(types: Iterable[Any], name: str | None) -> Iterator[Any]:
    """Types of the values in those of `types`. `name`: that of the field; None: of an element."""
    for found in types:
        yield from (field.type for field in _fields(found) if field.encode_name == name)
        if name is None and isinstance(found, DictType):
            yield found.value_type
        if name is None and isinstance(found, ListType):
            yield found.item_type
