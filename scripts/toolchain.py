"""Checks what must be on the machine before an installation: Python, and compilers and git for llama.cpp.

Runs under any `python3`, so this file uses only syntax that an older Python can read.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts.errors import Fail

MINIMUM_PYTHON = (3, 11)
NEWER_PYTHONS = ("python3.14", "python3.13", "python3.12", "python3.11")
# The names that CMake tries after $CC and $CXX, in its order.
C_COMPILERS = ("cc", "gcc", "clang")
CXX_COMPILERS = ("c++", "g++", "clang++")
C_PROGRAM = "#include <stdio.h>\nint main(void) { return 0; }\n"
CXX_PROGRAM = "#include <string>\nint main() { return 0; }\n"
HOW_TO_INSTALL = (
    "Debian, Ubuntu: apt install build-essential; Fedora: dnf install gcc-c++; macOS: xcode-select --install"
)


def require_python() -> None:
    """Restarts the script in a newer Python on PATH if this one is too old. Raises Fail if there is none."""
    if sys.version_info[:2] < MINIMUM_PYTHON:
        for name in NEWER_PYTHONS:
            newer = shutil.which(name)
            if newer:
                os.execv(newer, [newer, *sys.argv])
        version = ".".join(map(str, sys.version_info[:3]))
        raise Fail(f"Python 3.11 or newer is needed, python3 is {version} (choose another: make PYTHON=/path/python3)")


def require_venv() -> None:
    if not importlib.util.find_spec("venv") or not importlib.util.find_spec("ensurepip"):
        raise Fail("Python's venv and ensurepip modules are missing (Debian, Ubuntu: apt install python3-venv)")


def require_compilers() -> None:
    """Raises Fail unless the compilers that CMake will find can compile a program; headers may be missing."""
    for language, variable, names, suffix, program in (
        ("C", "CC", C_COMPILERS, ".c", C_PROGRAM),
        ("C++", "CXX", CXX_COMPILERS, ".cc", CXX_PROGRAM),
    ):
        chosen = os.environ.get(variable)
        # $CC may contain options ("gcc -m64"); CMake takes the first word as the program.
        found = [path for name in ([chosen.split()[0]] if chosen else names) if (path := shutil.which(name))]
        if not found:
            raise Fail(f"no {language} compiler found, which is needed to compile llama.cpp ({HOW_TO_INSTALL})")
        if not _compiles(found[0], suffix, program):
            raise Fail(f"{found[0]} can't compile a small {language} program: headers missing? ({HOW_TO_INSTALL})")


def require_git() -> None:
    """Raises Fail without git, which merges our changes into llama.cpp's source (native/apply.py)."""
    if not shutil.which("git"):
        raise Fail("git is needed to compile llama.cpp, and is not on PATH (Debian, Ubuntu: apt install git)")


def _compiles(compiler: str, suffix: str, program: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, f"probe{suffix}")
        source.write_text(program)
        command = [compiler, str(source), "-o", str(Path(folder, "probe"))]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
