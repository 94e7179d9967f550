"""Converts floats without a fraction where a type has an integer. PURE.

JSON Schema, and so the OpenAPI document, counts `2.0` as an integer, and some clients write integers that way. msgspec
refuses such a value; `convert` calls this module only then, so that other requests pay nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from msgspec import Struct, inspect

_LIMIT = 2.0**63
"""Floats of this size are too large for every field. orjson decodes integers that don't fit into 64 bits to them."""


@dataclass(slots=True)
class _Places:
    """The places in a type that hold integers."""

    is_integer: bool = False
    """Whether the value itself is an integer."""
    items: "_Places | None" = None
    """Places in the items of a list."""
    values: "_Places | None" = None
    """Places in the values of an object with arbitrary keys."""
    structs: "list[_Struct]" = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.is_integer or self.items or self.values or self.structs)


@dataclass(slots=True)
class _Struct:
    tag_field: str | None
    tag: str | int | None
    fields: Mapping[str, _Places]

    def matches(self, value: Mapping[str, Any]) -> bool:
        return self.tag_field is None or value.get(self.tag_field) == self.tag


def with_integers(value: Any, struct: type[Struct]) -> Any:
    """The decoded JSON of a `struct`, with floats for integer fields converted. Changes objects in place."""
    return _changed(value, _places_of(struct))


def _changed(value: Any, places: _Places) -> Any:
    if isinstance(value, float):
        return int(value) if places.is_integer and value.is_integer() and -_LIMIT < value < _LIMIT else value
    if isinstance(value, list):
        return value if places.items is None else [_changed(item, places.items) for item in value]
    if isinstance(value, dict):
        for struct in places.structs:
            if struct.matches(value):
                for key, of_key in struct.fields.items():
                    if key in value:
                        value[key] = _changed(value[key], of_key)
        if places.values is not None:
            for key, item in value.items():
                value[key] = _changed(item, places.values)
    return value


@cache
def _places_of(struct: type[Struct]) -> _Places:
    return _places([inspect.type_info(struct)])


def _places(types: Iterable[inspect.Type]) -> _Places:
    """The places of integers in a union of `types`."""
    places = _Places()
    is_number = False
    for kind in types:
        match kind:
            case inspect.Metadata(type=inner):
                places = _merged(places, _places([inner]))
            case inspect.UnionType(types=options):
                places = _merged(places, _places(options))
            case inspect.IntType():
                places.is_integer = True
            case inspect.LiteralType(values=values):
                places.is_integer |= any(isinstance(value, int) for value in values)
            case inspect.FloatType():
                is_number = True
            case inspect.ListType(item_type=item):
                places.items = _places([item]) or None
            case inspect.DictType(value_type=item):
                places.values = _places([item]) or None
            case inspect.StructType(fields=fields, tag_field=tag_field, tag=tag):
                by_key = {field.encode_name: of_field for field in fields if (of_field := _places([field.type]))}
                if by_key:
                    places.structs.append(_Struct(tag_field, tag, by_key))
    if is_number:
        places.is_integer = False
    return places


def _merged(left: _Places, right: _Places) -> _Places:
    return _Places(
        left.is_integer or right.is_integer,
        left.items or right.items,
        left.values or right.values,
        [*left.structs, *right.structs],
    )
