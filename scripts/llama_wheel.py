"""The wheel of llama-cpp-python, compiled once for this machine and these options, and shared by all checkouts.

pip's own cache doesn't suffice: its only key is the version, so that it would return a wheel that was compiled with
other options or, in a home folder that several machines share, for another processor.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import tempfile
from pathlib import Path

from scripts import toolchain
from scripts.locks import locked, shared_cache
from scripts.pip import Pip

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ROOT / "native"
LOCKS = ROOT / "requirements"
CMAKE = NATIVE / "cmake"
COMPILED_WITH = ("apply.py", "cmake", "kernels", "patches")
"""The files and folders of native/ that a build depends on."""


def key(requirement: str, cmake_args: str) -> str:
    """A hash of all that a build depends on. Wheels with the same key are interchangeable."""
    machine = [platform.system(), platform.machine(), *platform.libc_ver(), _processor()]
    parts = [requirement, cmake_args, *machine]
    for file in sorted(file for name in COMPILED_WITH for file in _files(NATIVE / name)):
        parts += file.name, file.read_text()
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def require_tools(wheel_key: str) -> None:
    """Raises Fail if the wheel must be compiled and can't be."""
    if not (shared_cache("wheels") / wheel_key).is_dir():
        toolchain.require_compilers()
        toolchain.require_git()


def get(pip: Pip, requirement: str, cmake_args: str) -> Path:
    wheels = shared_cache("wheels")
    folder = wheels / key(requirement, cmake_args)
    with locked(wheels):
        if not folder.is_dir():
            _build(pip, cmake_args, folder)
    return next(folder.glob("*.whl"))


def _build(pip: Pip, cmake_args: str, folder: Path) -> None:
    """Compiles the locked sources with the locked build system, as the Dockerfile does."""
    require_tools(folder.name)
    include = shlex.quote(f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={CMAKE / 'wheel.cmake'}")
    cores = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(toolchain.usable_cores()))
    with tempfile.TemporaryDirectory(dir=folder.parent) as new:
        build_system, wheel_folder = Path(new, "build-system"), Path(new, "wheel")
        pip.uv_install("--require-hashes", "--target", str(build_system), "-r", str(LOCKS / "build.txt"))
        pip(
            *("wheel", "--require-hashes", "--no-deps", "--no-build-isolation", "--no-binary", "llama-cpp-python"),
            *("--no-cache-dir", "--wheel-dir", str(wheel_folder), "-r", str(LOCKS / "llama-cpp-python.txt")),
            PYTHONPATH=str(build_system),
            CMAKE_ARGS=f"{include} {cmake_args}",
            CMAKE_BUILD_PARALLEL_LEVEL=cores,
        )
        wheel_folder.rename(folder)


def _files(path: Path) -> list[Path]:
    """The file, or the files in the folder."""
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]


def _processor() -> str:
    """The processor's features, which -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
