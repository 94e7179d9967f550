"""Locks what the images install: one file in requirements/ for each, every package with its version and hashes.

    python -m scripts.lock [--upgrade]

Without --upgrade only what pyproject.toml no longer allows is changed. Resolved for the Python of the images and for
every platform, so that it doesn't matter where it runs.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from scripts.errors import Fail, run_main

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
LLAMA = "llama-cpp-python"

LOCKS = {
    "sidecar": (),
    # llama-cpp-python is a wheel that the build makes, so no lock can know its hash.
    "worker": ("--extra", "worker", "--no-emit-package", LLAMA),
    "cuda": ("--group", "cuda"),
    "build": ("--group", "build"),
    # By itself, and its sources alone: what it needs is in the worker's.
    LLAMA: ("--group", LLAMA, "--no-deps", "--no-binary", LLAMA),
    "sbom": ("--group", "sbom"),
}
"""Name of a file, and what uv is told to put in it."""


def python_version() -> str:
    """Of the images."""
    found = re.search(r"^FROM python:(\d+\.\d+)-", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert found
    return found[1]


def command(name: str, *more: str) -> list[str]:
    words = [
        *("uv", "pip", "compile", "--quiet", "--universal", "--python-version", python_version()),
        *("--generate-hashes", "--no-emit-index-url", "--no-annotate" if name == LLAMA else "--annotate"),
        *("--custom-compile-command", "make lock", "--output-file", f"requirements/{name}.txt"),
        *LOCKS[name],
    ]
    # A group alone doesn't bring the project's own requirements.
    return [*words, *more] if "--group" in words else [*words, *more, "pyproject.toml"]


def main() -> int:
    FOLDER.mkdir(exist_ok=True)
    for name in LOCKS:
        uv, *arguments = command(name, *sys.argv[1:])
        result = subprocess.run([Path(sys.executable).with_name(uv), *arguments], cwd=ROOT, check=False)
        if result.returncode:
            raise Fail(f"requirements/{name}.txt could not be made, see above")
    return 0


if __name__ == "__main__":
    run_main(main)
