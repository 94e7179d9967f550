"""Locks what the images install: files in requirements/ that list every package with its version and hashes.

    python -m scripts.lock [--upgrade]

Without --upgrade, only versions that pyproject.toml no longer allows change. Versions are resolved for the Python of
the images and for every platform, so that the result is the same on every machine.
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
    # Without llama-cpp-python: the image's build compiles its wheel, whose hash can't be locked.
    "worker": ("--extra", "worker", "--no-emit-package", LLAMA),
    "cuda": ("--group", "cuda"),
    "build": ("--group", "build"),
    # Only its sources: its dependencies are in the worker's lock.
    LLAMA: ("--group", LLAMA, "--no-deps", "--no-binary", LLAMA),
    "sbom": ("--group", "sbom"),
}
"""uv's options for each file, by the file's name without `.txt`."""


def python_version() -> str:
    """The images' Python, such as 3.12."""
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
    # A group alone leaves out the project's own requirements.
    return [*words, *more] if "--group" in words else [*words, *more, "pyproject.toml"]


def main() -> int:
    FOLDER.mkdir(exist_ok=True)
    for name in LOCKS:
        uv, *arguments = command(name, *sys.argv[1:])
        result = subprocess.run([Path(sys.executable).with_name(uv), *arguments], cwd=ROOT, check=False)
        if result.returncode:
            raise Fail(f"requirements/{name}.txt could not be written: uv failed, see the lines above")
    return 0


if __name__ == "__main__":
    run_main(main)
