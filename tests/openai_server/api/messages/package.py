"""The types of the `anthropic` package: their variants and keys, and a strict validation of objects."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, TypeAdapter

OPTIONAL = frozenset({"diagnostics", "speed", "toolset_name"})
"""Fields of answers that are absent unless the request uses a feature that this server lacks."""


def variants(typed: Any) -> Iterator[Any]:
    """Yields the members of a union, however deep."""
    if get_origin(typed) is Annotated:
        yield from variants(get_args(typed)[0])
    elif get_origin(typed) is Union:
        for option in get_args(typed):
            yield from variants(option)
    else:
        yield typed


def keys(typed: Any) -> set[str]:
    if isinstance(typed, type) and issubclass(typed, BaseModel):
        return {field.alias or name for name, field in typed.model_fields.items()}
    return set(get_type_hints(typed))


def tags(typed: Any, tag: str = "type") -> set[str]:
    """Returns the values that the tag field may have."""
    hint = (
        typed.model_fields[tag].annotation
        if isinstance(typed, type) and issubclass(typed, BaseModel)
        else get_type_hints(typed)[tag]
    )
    return {value for option in variants(hint) if get_origin(option) is Literal for value in get_args(option)}


def check(typed: Any, value: Any) -> None:
    """Validates an object strictly: its types, no unknown key, and no absent one."""
    _complete(TypeAdapter(typed).validate_python(value, strict=True), value)


def _complete(parsed: Any, value: Any) -> None:
    if isinstance(parsed, BaseModel):
        assert not parsed.model_extra, parsed
        absent = keys(type(parsed)) - value.keys() - OPTIONAL
        assert not absent, (type(parsed).__name__, absent)
        for name in value:
            _complete(getattr(parsed, name), value[name])
    elif isinstance(parsed, list):
        for item, raw in zip(parsed, value, strict=True):
            _complete(item, raw)
