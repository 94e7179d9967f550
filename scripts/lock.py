"""Writes requirements/: files that list every package of the images and of `make setup` with its version and hashes.

    python -m scripts.lock [--upgrade]

Without --upgrade, only versions that pyproject.toml no longer allows change. Versions are resolved for every platform
and for every Python that pyproject.toml allows, so that the result is the same on every machine.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from scripts.errors import Fail, run_main
from scripts.pip import uv_environment
from scripts.toolchain import MINIMUM_PYTHON

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
LLAMA = "llama-cpp-python"

LOCKS = {
    "sidecar": ("--extra", "postgres", "--extra", "files"),
    # Without llama-cpp-python: each build compiles its wheel, whose hash can't be locked.
    "worker": ("--extra", "worker", "--extra", "pipelines", "--no-emit-package", LLAMA),
    # For `make run`, which starts both programs.
    "run": (
        *("--extra", "worker", "--extra", "pipelines", "--extra", "postgres", "--extra", "files"),
        *("--no-emit-package", LLAMA),
    ),
    # For `make test` and everything else but `make run`. Some tests need older packages than the images have.
    "dev": ("--extra", "worker", "--extra", "test", "--extra", "audit", "--no-emit-package", LLAMA),
    "uv": ("--group", "uv"),
    "cuda": ("--group", "cuda"),
    "build": ("--group", "build"),
    # Only its sources: its dependencies are in the worker's lock.
    LLAMA: ("--group", LLAMA, "--no-deps", "--no-binary", LLAMA),
    "sbom": ("--group", "sbom"),
}
"""uv's options for each file, by the file's name without `.txt`."""


def command(name: str, *more: str) -> list[str]:
    words = [
        *("uv", "pip", "compile", "--quiet", "--universal"),
        *("--python-version", ".".join(map(str, MINIMUM_PYTHON))),
        *("--generate-hashes", "--no-emit-index-url", "--no-annotate" if name == LLAMA else "--annotate"),
        *("--custom-compile-command", "make lock", "--output-file", f"requirements/{name}.txt"),
        *LOCKS[name],
    ]
    # A group alone leaves out the project's own requirements.
    return [*words, *more] if "--group" in words else [*words, *more, "pyproject.toml"]


def main() -> int:
    FOLDER.mkdir(exist_ok=True)
    env = uv_environment(Path(sys.executable))
    # Places that add a few packages to the index don't have all files of a package, whose hashes the lock lists.
    for variable in ("UV_INDEX", "UV_FIND_LINKS"):
        env.pop(variable, None)
    for name in LOCKS:
        uv, *arguments = command(name, *sys.argv[1:])
        path = str(Path(sys.executable).with_name(uv))
        result = subprocess.run([path, *arguments], cwd=ROOT, env=env, check=False)
        if result.returncode:
            raise Fail(f"requirements/{name}.txt could not be written: uv failed, see the lines above")
    return 0


if __name__ == "__main__":
    run_main(main)
