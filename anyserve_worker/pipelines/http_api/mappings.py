"""Reads mappings: the built-in ones, files, and tables in the settings. PURE apart from reading files."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from anyserve_worker.pipelines.core.request import Json
from anyserve_worker.pipelines.http_api.api_errors import ErrorForm
from anyserve_worker.pipelines.http_api.paths import named
from anyserve_worker.pipelines.http_api.reader import AnswerForm
from anyserve_worker.pipelines.http_api.requests import RequestForm, merged
from anyserve_worker.pipelines.http_api.schema import Answer, Mapping
from anyserve_worker.pipelines.toml_errors import explained
from anyserve_worker.pipelines.upstream.settings import read_headers

BUILTIN = Path(__file__).parent / "builtin"


class BadMapping(ValueError):
    """A mapping that can't be used. The message names the file, if there is one, and the key."""


@dataclass(frozen=True, slots=True)
class Api:
    """A mapping, checked."""

    mapping: Mapping
    requests: RequestForm
    whole: AnswerForm
    stream: AnswerForm
    errors: ErrorForm


def builtin_names() -> list[str]:
    return sorted(path.stem for path in BUILTIN.glob("*.toml"))


def read_api(use: str, file: Path | None, changes: Json) -> Api:
    """`use`: name of a built-in mapping, or empty; `file`: path of a mapping, or None; `changes`: tables that are
    merged into it. Raises BadMapping."""
    tables: Json = {}
    if use:
        if use not in builtin_names():
            raise BadMapping(f"use: there is no mapping {use!r}; there are: {', '.join(builtin_names())}")
        tables = read_tables(BUILTIN / f"{use}.toml")
    elif file is not None:
        tables = read_tables(file)
    where = f"the mapping {use!r}" if use else str(file) if file is not None else "mapping"
    try:
        return _api(merged(tables, changes))
    except msgspec.ValidationError as error:
        raise BadMapping(f"{where}: {explained(error, Mapping)}") from None
    except ValueError as error:
        raise BadMapping(f"{where}: {error}") from None


def read_tables(path: Path) -> Json:
    """Raises BadMapping."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadMapping(f"{path} can't be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    except tomllib.TOMLDecodeError as error:
        raise BadMapping(f"{path} is not valid TOML: {error}") from None


def _api(tables: Json) -> Api:
    answer, stream = tables.get("answer"), tables.get("stream", {})
    if isinstance(answer, dict) and isinstance(stream, dict):
        tables = {**tables, "stream": merged(answer, stream)}
    mapping = msgspec.convert(tables, Mapping)
    for name, part in (("answer", mapping.answer), ("stream", mapping.stream)):
        if not part.text:
            raise ValueError(f"{name}.text is required")
        _check_end(name, part)
    read_headers(mapping.request.headers, {})
    if not mapping.check_path.startswith("/"):
        raise ValueError("check_path must begin with /")
    with named("errors"):
        errors = ErrorForm(mapping.errors)
    return Api(
        mapping,
        RequestForm(mapping),
        AnswerForm(mapping.answer, errors, "answer"),
        AnswerForm(mapping.stream, errors, "stream"),
        errors,
    )


def _check_end(name: str, answer: Answer) -> None:
    """Raises ValueError for a form whose answers would all be errors."""
    finish, end = answer.finish, answer.end
    if not finish.absent and not (finish.path and finish.map):
        raise ValueError(f"{name}.finish: it must have path and map, or absent")
    if answer.framing != "json" and not (finish.path or end.mark or end.where or end.eof):
        raise ValueError(f"{name}.end: one of mark, where and eof, or finish.path, is required for a stream")
