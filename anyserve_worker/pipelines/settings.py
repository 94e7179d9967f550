"""Reads the `pipeline.toml` of a pipeline."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from anyserve_worker.pipelines.core.errors import SetupError
from anyserve_worker.pipelines.limits import Limits
from anyserve_worker.pipelines.toml_errors import explained

FILE = "pipeline.toml"
WRAPPER_FILE = "pipeline_wrapper.py"
WRAPPER = "wrapper"

Kind = Literal["wrapper", "openai", "http"]
_Count = Annotated[int, Meta(ge=1)]
_Seconds = Annotated[float, Meta(ge=0.1)]


class _Limits(Struct, forbid_unknown_fields=True, frozen=True):
    concurrency: _Count | UnsetType = UNSET
    queue: Annotated[int, Meta(ge=0)] | UnsetType = UNSET
    timeout: _Seconds | UnsetType = UNSET
    idle_timeout: _Seconds | UnsetType = UNSET
    stall_timeout: _Seconds | UnsetType = UNSET
    memory: _Count | UnsetType = UNSET


class _File(Struct, forbid_unknown_fields=True):
    kind: Kind | UnsetType = UNSET
    python: str | UnsetType = UNSET
    python_path: list[str] = []
    limits: _Limits = _Limits()
    wrapper: dict[str, Any] | UnsetType = UNSET
    openai: dict[str, Any] | UnsetType = UNSET
    http: dict[str, Any] | UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class Settings:
    kind: str
    table: Mapping[str, Any]
    """The table named like the kind."""
    limits: Limits
    python: str
    """Interpreter of a wrapper; empty: the default."""
    python_path: tuple[str, ...]
    """Absolute paths of folders."""


def read_settings(folder: Path, defaults: Limits) -> Settings:
    """Reads the settings of the pipeline in this folder. Raises SetupError, which names the file and the key."""
    path = folder / FILE
    is_wrapper = (folder / WRAPPER_FILE).is_file()
    file = _read(path)
    kind = (WRAPPER if is_wrapper else "") if file.kind is UNSET else file.kind
    if not kind:
        raise SetupError(f"{path}: `kind` is missing, since the folder has no {WRAPPER_FILE}")
    if kind == WRAPPER and not is_wrapper:
        raise SetupError(f"{path}: `kind` is `{WRAPPER}`, but the folder has no {WRAPPER_FILE}")
    tables = {name: getattr(file, name) for name in ("wrapper", "openai", "http")}
    for name, table in tables.items():
        if table is not UNSET and name != kind:
            raise SetupError(f"{path}: the table `{name}` is for pipelines of that kind, and `kind` is `{kind}`")
    if kind != WRAPPER and file.python is not UNSET:
        raise SetupError(f"{path}: `python` is for wrappers, and `kind` is `{kind}`")
    table = {} if tables[kind] is UNSET else msgspec.to_builtins(tables[kind])
    limits = {name: value for name, value in msgspec.structs.asdict(file.limits).items() if value is not UNSET}
    if kind != WRAPPER:  # an upstream has time limits of its own, and its whole answers are a single event
        limits.setdefault("idle_timeout", None)
    return Settings(
        kind,
        table,
        replace(defaults, **limits),
        _interpreter(path, "" if file.python is UNSET else file.python),
        tuple(str((folder / entry).resolve()) for entry in file.python_path),
    )


def _interpreter(path: Path, python: str) -> str:
    """The path of the interpreter, which may be relative to the folder. It isn't resolved: that would leave a virtual
    environment."""
    if not python:
        return ""
    interpreter = path.parent.absolute() / Path(python).expanduser()
    if not interpreter.is_file():
        raise SetupError(f"{path}: `python`: there is no file {interpreter}")
    return str(interpreter)


def _read(path: Path) -> _File:
    """The file's contents; empty if it doesn't exist."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=_File)
    except FileNotFoundError:
        return _File()
    except OSError as error:
        raise SetupError(f"{path}: {error.strerror}") from error
    except msgspec.ValidationError as error:
        raise SetupError(f"{path}: {explained(error, _File)}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SetupError(f"{path}: {error}") from error
    except RecursionError:
        raise SetupError(f"{path}: its values are nested too deeply") from None
