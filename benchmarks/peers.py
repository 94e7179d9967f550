"""Sets up the peers from the source package of the llama-cpp-python that the worker uses.

llama-server is compiled from the llama.cpp in it, with the same processor flags as the worker's wheel. The two Python
servers get a separate virtual environment with that wheel, since they need another version of Starlette. Everything is
kept in the cache that checkouts share; an interrupted setup continues where it stopped.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from scripts import children, llama_wheel, setup, toolchain
from scripts.errors import Fail
from scripts.locks import locked, shared_cache
from scripts.pip import Pip

# CMake reads it after each project(): flags that the wheel and llama-server must share to be comparable.
SHARED_FLAGS = llama_wheel.CMAKE / "processor.cmake"
CMAKE_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",  # else CMake downloads it
)
# llama-cpp-python's extra `server`, and the requirements at the top of examples/server/server.py.
PACKAGES = (
    *("uvicorn>=0.22", "fastapi>=0.100", "pydantic-settings>=2.0.1", "sse-starlette>=1.6.1"),
    *("starlette-context>=0.3.6,<0.4", "PyYAML>=5.1"),
    *("jinja2", "numpy", "openai", "pydantic", "safetensors", "websockets"),
    *("diskcache", "typing-extensions"),
    *("cmake>=3.21", "ninja"),
)
DONE = "done"
LINES_SHOWN = 15


@dataclass(frozen=True)
class Peers:
    llama_server: Path
    python: Path
    """Python of an environment with `llama_cpp.server` and the requirements of the example server."""
    example_server: Path


def ensure(llama_server: Path | None = None) -> Peers:
    """Sets up missing peers, which takes minutes the first time. `llama_server`: a compiled one; None: compile it."""
    requirement = setup.llama_requirement()
    # The user's options, if any, as for the worker's wheel.
    cmake_args = os.environ.get("CMAKE_ARGS", setup.read_stamp().get("cmake_args", ""))
    wheel_key = llama_wheel.key(requirement, cmake_args)
    cache = shared_cache("bench")
    with locked(cache):
        python = _venv(cache / f"venv-{_key(wheel_key, *PACKAGES)}", requirement, cmake_args)
        source = _source(cache / f"source-{_key(requirement)}", requirement, python)
        if llama_server is None:
            build = cache / f"build-{_key(wheel_key, *CMAKE_OPTIONS)}"  # the wheel's key covers the shared flags
            llama_server = _llama_server(build, source, python.parent, cmake_args)
    return Peers(llama_server, python, source / "examples" / "server" / "server.py")


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _venv(folder: Path, requirement: str, cmake_args: str) -> Path:
    python = folder / "bin" / "python"
    if not (folder / DONE).exists():
        toolchain.require_venv()
        print("installing the Python peers into their own environment", flush=True)
        _run([sys.executable, "-m", "venv", "--clear", str(folder)], folder.with_suffix(".log"))
        pip = Pip(python, folder.with_suffix(".log"))
        wheel = llama_wheel.get(Pip(setup.VENV_PYTHON, folder.with_suffix(".log")), requirement, cmake_args)
        pip("install", "--no-deps", str(wheel))
        pip("install", *PACKAGES)
        (folder / DONE).touch()
    return python


def _source(folder: Path, requirement: str, python: Path) -> Path:
    """The folder of the unpacked source package, which contains llama.cpp."""
    if not folder.is_dir():
        print(f"downloading the source of {requirement}", flush=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as new:
            name = requirement.partition("=")[0]
            Pip(python, folder.with_suffix(".log"))(
                *("download", "--no-deps", "--no-binary", name, "--no-cache-dir", "--dest", new, requirement)
            )
            with tarfile.open(next(Path(new).glob("*.tar.gz"))) as archive:
                archive.extractall(Path(new, "unpacked"), filter="data")
            next(Path(new, "unpacked").iterdir()).rename(folder)
    return folder


def _llama_server(folder: Path, source: Path, tools: Path, cmake_args: str) -> Path:
    server = folder / "bin" / "llama-server"
    if not (folder / DONE).exists():
        toolchain.require_compilers()
        print("compiling llama-server: about ten minutes on two cores", flush=True)
        shared = f"-DCMAKE_PROJECT_INCLUDE={SHARED_FLAGS}"
        cmake, log = str(tools / "cmake"), folder.with_suffix(".log")
        where = ["-S", str(source / "vendor" / "llama.cpp"), "-B", str(folder)]
        ninja = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}"]
        _run([cmake, *where, *ninja, *CMAKE_OPTIONS, shared, *cmake_args.split()], log)
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(toolchain.usable_cores()))
        _run([cmake, "--build", str(folder), "--target", "llama-server", "--parallel", jobs], log)
        (folder / DONE).touch()
    return server


def _run(command: list[str], log: Path) -> None:
    with log.open("w") as file:
        child = children.start(command, output=file.fileno())
        try:
            status = child.wait()
        finally:
            children.end([child])
    if status:
        print("\n".join(log.read_text(errors="replace").splitlines()[-LINES_SHOWN:]), file=sys.stderr)
        raise Fail(f"the setup of the peers failed, see the lines above and {log}")
