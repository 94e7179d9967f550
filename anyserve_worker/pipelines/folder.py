"""Finds the pipelines in a folder."""

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anyserve_worker.pipelines.core.errors import SetupError
from anyserve_worker.pipelines.core.names import name_problem
from anyserve_worker.pipelines.environment import read_environment
from anyserve_worker.pipelines.limits import Limits
from anyserve_worker.pipelines.options import PipelineOptions
from anyserve_worker.pipelines.settings import FILE, WRAPPER, WRAPPER_FILE, read_settings

log = logging.getLogger(__name__)

MAX_FILES = 10_000
"""Files of a pipeline that are compared to see whether it has changed."""
_IGNORED = ("__pycache__", "node_modules")

Fingerprint = tuple[tuple[str, int, int], ...]
"""Name, time of change in nanoseconds, and size of each file."""


@dataclass(frozen=True, slots=True)
class Definition:
    """A pipeline as its folder defines it."""

    name: str
    path: Path
    fingerprint: Fingerprint
    kind: str = WRAPPER
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The table of its kind in pipeline.toml."""
    limits: Limits = field(default_factory=Limits)
    python: str = sys.executable
    python_path: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The environment of its process."""
    log_level: str = "info"
    problem: str = ""
    """Why the pipeline can't be served, in one line for the log; empty: it can be tried."""


def find_pipelines(options: PipelineOptions) -> dict[str, Definition]:
    """Reads the folder. Returns the pipelines by name, in alphabetical order. Raises SetupError if the folder can't be
    read. It blocks while files are read."""
    try:
        paths = sorted(path for path in options.folder.iterdir() if _is_pipeline(path))
    except OSError as error:
        raise SetupError(f"{options.folder}: {error.strerror}") from error
    definitions = (_definition(path, options) for path in paths)
    return {definition.name: definition for definition in definitions}


def _is_pipeline(path: Path) -> bool:
    if path.name.startswith((".", "_")) or not path.is_dir():
        return False
    return (path / FILE).is_file() or (path / WRAPPER_FILE).is_file()


def _definition(path: Path, options: PipelineOptions) -> Definition:
    name = os.fsencode(path.name).decode("utf-8", "backslashreplace")  # messages can't have other bytes
    common_env = options.folder / ".env"
    fingerprint: Fingerprint = ()
    try:
        fingerprint = (*_files(path), *_entries([common_env]))
        _check_name(path)
        settings = read_settings(path, options.limits)
        # The folder's own .env overrides the common one, and the real environment both.
        environment = {
            "HAYSTACK_TELEMETRY_ENABLED": "False",
            **read_environment(common_env),
            **read_environment(path / ".env"),
            **os.environ,
        }
    except SetupError as error:
        return Definition(name, path, fingerprint, problem=str(error))
    except Exception as error:  # the files of one pipeline must not end the worker
        log.error("%s can't be read", path, exc_info=True)
        return Definition(name, path, fingerprint, problem=f"{path}: {type(error).__name__} while its files were read")
    python = (settings.python or options.python) if settings.kind == WRAPPER else sys.executable
    return Definition(
        name,
        path,
        fingerprint,
        settings.kind,
        settings.table,
        settings.limits,
        python,
        settings.python_path,
        environment,
        options.log_level,
    )


def _check_name(path: Path) -> None:
    if problem := name_problem(path.name):
        raise SetupError(f"{path if path.name.isprintable() else repr(str(path))}: {problem}")


def _files(path: Path) -> Fingerprint:
    def files() -> Iterator[Path]:
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(name for name in folders if name not in _IGNORED and not name.startswith("."))
            for name in sorted(names):
                yield Path(folder, name)

    return _entries(files())


def _entries(paths: Iterator[Path] | list[Path]) -> Fingerprint:
    entries = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            continue
        entries.append((str(path), status.st_mtime_ns, status.st_size))
        if len(entries) == MAX_FILES:
            break
    return tuple(entries)
