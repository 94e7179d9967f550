"""Reads mapping files: the built-in ones, and those of the operator. PURE apart from reading them."""

import math
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from openai_server.backends.dialects.mapping.conversions import (
    NUMBER,
    TEXT,
    encoded,
    is_whole,
    kind_of,
    kind_of_value,
)
from openai_server.backends.dialects.mapping.dialect import INPUTS
from openai_server.backends.dialects.mapping.schema import EndMark, MappingFile, Messages, Output, Outputs, Place
from protos import contract
from protos.tensors import BYTES

BUILTIN = Path(__file__).parent.parent / "builtin"
_LAST = "text_input"
"""The file that also fits models for which there is a better one."""


class BadMapping(ValueError):
    """A mapping file that can't be used. The message is the end of a sentence that begins with its path."""


@cache
def builtin_files() -> Mapping[str, MappingFile]:
    """The built-in files by name, in the order in which they are tried."""
    paths = sorted(BUILTIN.glob("*.toml"), key=lambda path: (path.stem == _LAST, path.stem))
    return {path.stem: load(path) for path in paths}


def load(path: Path) -> MappingFile:
    """Raises BadMapping."""
    file = parse(_read(path), path.stem)
    if file.model.chat_template is not None:
        template = path.parent / file.model.chat_template
        try:
            source = template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadMapping(f"has a chat template that can't be read, {str(template)!r}: {_reason(error)}") from error
        file = replace(file, model=replace(file.model, chat_template=source))
    return file


def parse(tables: dict[str, Any], name: str) -> MappingFile:
    """`name` is used if the file has none. Raises BadMapping."""
    if (base := tables.pop("extends", None)) is not None:
        tables = _merged(_base(base), tables)
    try:
        file = msgspec.convert(tables, MappingFile)
    except msgspec.ValidationError as error:
        raise BadMapping(f"is invalid: {error}") from error
    _check(file)
    return replace(file, name=file.name or name)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadMapping(f"can't be read: {_reason(error)}") from error
    except tomllib.TOMLDecodeError as error:
        raise BadMapping(f"is not valid TOML: {error}") from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _base(name: object) -> dict[str, Any]:
    """The tables of the built-in file that another file extends, without its name and its rules of recognition."""
    path = BUILTIN / f"{name}.toml"
    if not isinstance(name, str) or path.parent != BUILTIN or not path.is_file():
        known = ", ".join(sorted(path.stem for path in BUILTIN.glob("*.toml")))
        raise BadMapping(f"extends {name!r}; it can extend one of: {known}")
    tables = _read(path)
    if (base := tables.pop("extends", None)) is not None:
        tables = _merged(_base(base), tables)
    return {key: value for key, value in tables.items() if key not in ("name", "description", "recognize")}


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`changes` replace the base's values; tables are merged, but not the places in them."""
    merged = {**base, **changes}
    for key in (
        "inputs",
        "always",
        "when_streaming",
        "when_whole",
        "outputs",
        "errors",
        "model",
        "request_parameters",
        "json",
        "address",
    ):
        if isinstance(base.get(key), dict) and isinstance(changes.get(key), dict):
            merged[key] = {**base[key], **changes[key]}
    return merged


def _check(file: MappingFile) -> None:
    for name, names in file.inputs.items():
        if name not in INPUTS:
            raise BadMapping(f"has an unknown input {name!r}; the inputs are: {', '.join(INPUTS)}")
        place = names if isinstance(names, Place) else Place(tensor=names)
        if sum(where is not None for where in (place.tensor, place.key, place.parameter)) != 1:
            raise BadMapping(f"must give one of `tensor`, `key` and `parameter` for the input {name!r}")
        if place.key is not None and file.json is None:
            raise BadMapping(f"has a `key` for the input {name!r}, but no table `json` with its tensor")
        if place.inside is not None and place.as_ != "json":
            raise BadMapping(f'has `inside` for the input {name!r}, which needs `as = "json"`')
        _check_numbers(name, place)
        _check_type(name, place)
    if "prompt" not in file.inputs and file.messages is None:
        raise BadMapping("must have an input `prompt`, or `messages`")
    _check_keys(file)
    _check_texts(file)


def _check_numbers(name: str, place: Place) -> None:
    datatype = INPUTS[name].datatype
    settings = {
        "min": place.min,
        "max": place.max,
        "factor": place.factor,
        "zero": place.zero,
        "at_zero": place.at_zero,
    }
    used = [key for key, value in settings.items() if value is not None]
    if used and kind_of(datatype) != NUMBER:
        raise BadMapping(f"has `{used[0]}` for the input {name!r}, which is not a number")
    if place.factor is not None and not math.isfinite(place.factor):
        raise BadMapping(f"has a `factor` for the input {name!r} that is not finite")
    if place.zero is not None and is_whole(datatype) and not place.zero.is_integer():
        raise BadMapping(f"has a `zero` for the input {name!r} that is not a whole number")


def _check_type(name: str, place: Place) -> None:
    spec = INPUTS[name]
    is_text = kind_of(spec.datatype) == TEXT
    if place.type not in (None, BYTES) and (is_text or place.as_ or place.join is not None):
        raise BadMapping(f"has the type {place.type} for the input {name!r}, which is sent as text")
    if place.default is None:
        return
    if isinstance(place.default, list) and (not is_text or spec.shape == (1,)):
        raise BadMapping(f"has a list as `default` of the input {name!r}, which is a single value")
    defaults: list[Any] = place.default if isinstance(place.default, list) else [place.default]
    try:
        elements = encoded(defaults, spec.datatype)
    except ValueError as error:
        raise BadMapping(f"has a wrong `default` for the input {name!r}: {error}") from error
    if any(kind_of_value(value) != kind_of(spec.datatype) for value in defaults):
        raise BadMapping(f"has a wrong `default` for the input {name!r}, which is a {kind_of(spec.datatype)}")
    low, high = (-math.inf if place.min is None else place.min), (math.inf if place.max is None else place.max)
    if kind_of(spec.datatype) == NUMBER and not low <= elements[0] <= high:
        raise BadMapping(f"has a `default` for the input {name!r} that is not between its `min` and its `max`")


def _check_keys(file: MappingFile) -> None:
    """A key or a parameter has one value, and a key with a value has no keys inside."""
    keys = [(path, "always") for path in _leaves(file.json.always)] if file.json else []
    parameters = [(name, "request_parameters") for name in file.request_parameters]
    for name, place in file.inputs.items():
        if isinstance(place, Place):
            keys += [(place.key, name)] if place.key is not None else []
            parameters += [(place.parameter, name)] if place.parameter is not None else []
    for (key, use), (other_key, other_use) in combinations(keys, 2):
        if _overlap(key, other_key) and use != other_use and not {use, other_use} <= _GUIDES:
            raise BadMapping(f"has the key {key!r} for `{use}`, and {other_key!r} for `{other_use}`")
    for (key, use), (other_key, other_use) in combinations(parameters, 2):
        if key == other_key and not {use, other_use} <= _GUIDES:
            raise BadMapping(f"has the parameter {key!r} for `{use}` and for `{other_use}`")


_GUIDES = frozenset(spec.name for spec in contract.GUIDES)
"""A request has at most one of them, so that they may have the same place."""


def _leaves(values: dict[str, Any], path: str = "") -> Iterator[str]:
    """The paths of the values that are no objects."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}"


def _overlap(key: str, other: str) -> bool:
    """Whether both paths are the same, or one is inside the other."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def _check_texts(file: MappingFile) -> None:
    """Outputs have a tensor, and texts that are sent have the type of texts."""
    for name in Outputs.__struct_fields__:
        place = getattr(file.outputs, name)
        if isinstance(place, Output) and place.tensor is None:
            raise BadMapping(f"must give the `tensor` of the output `{name}`")
    if isinstance(end := file.outputs.end, EndMark) and end.tensor is None and end.text is None:
        raise BadMapping("must give a `tensor` or a `text` for `end`")
    messages = file.messages if isinstance(file.messages, Messages) else None
    for title, table in (("json", file.json), ("messages", messages)):
        if table is not None and table.type not in (None, BYTES):
            raise BadMapping(f"has the type {table.type} for `{title}`, which is sent as text")
    if messages is None:
        return
    if messages.as_ != "json" and messages.rank == 0:
        raise BadMapping("has the rank 0 for `messages`, which are a list")
    if (messages.as_ == "columns") != (messages.role is not None) or (
        messages.kind is not None and messages.role is None
    ):
        raise BadMapping('must have `role` and `kind` in `messages` only with `as = "columns"`, which needs `role`')
