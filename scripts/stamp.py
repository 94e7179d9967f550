"""Stamp of a .venv: a small file in it that records what is installed. PURE except for `read` and `write`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Stamp:
    root: str = ""  # the checkout; an editable install and the scripts in bin/ break when it moves
    pyproject: str = ""  # its SHA-256
    extras: tuple[str, ...] = ()
    cmake_args: str = ""  # the user's own, for llama.cpp
    llama_wheel: str = ""  # its key, see llama_wheel.py

    def wanted(self, root: Path, pyproject: bytes, extras: set[str], env: Mapping[str, str]) -> Stamp:
        """The stamp to install in place of this one, without the wheel's key, which follows from the rest."""
        return Stamp(
            root=str(root),
            pyproject=hashlib.sha256(pyproject).hexdigest(),
            # Extras of earlier runs stay: `make run` after `make test` removes nothing.
            extras=tuple(sorted(extras.union(self.extras))),
            # Unset keeps the installed build, so that a user sets CUDA's options only once.
            cmake_args=env.get("CMAKE_ARGS", self.cmake_args),
        )


def read(path: Path) -> Stamp:
    try:
        fields = json.loads(path.read_text())
        return Stamp(**{**fields, "extras": tuple(fields["extras"])})
    except (OSError, ValueError, TypeError, KeyError):
        return Stamp()


def write(path: Path, stamp: Stamp) -> None:
    path.write_text(json.dumps(dataclasses.asdict(stamp)))
