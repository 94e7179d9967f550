"""Reads mapping files: the built-in ones, and those of the operator. PURE apart from reading them."""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from openai_server.backends.dialects.mapping.dialect import INPUTS
from openai_server.backends.dialects.mapping.schema import MappingFile, Place

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
    for key in ("inputs", "always", "when_streaming", "when_whole", "outputs", "errors", "model", "request_parameters"):
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
    if "prompt" not in file.inputs and file.messages is None:
        raise BadMapping("must have an input `prompt`, or `messages`")
