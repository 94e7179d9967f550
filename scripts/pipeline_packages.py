"""Installs what pipelines need, into an environment of their own below .cache/pipelines/.

A folder of pipelines lists its packages in requirements.txt: its own, those of its pipelines, or both. All of them go
into one environment. One that is complete has a stamp, and is not installed again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from scripts import setup
from scripts.errors import Fail
from scripts.locks import locked
from scripts.pip import Pip

ENVIRONMENTS = setup.CACHE / "pipelines"
LOG = setup.CACHE / "pipelines.log"
STAMP = "installed.txt"


def requirements(pipelines: Path) -> list[Path]:
    """Returns the files that list packages for this folder of pipelines."""
    return [
        path
        for path in (pipelines / "requirements.txt", *sorted(pipelines.glob("*/requirements.txt")))
        if path.is_file()
    ]


def ensure(pipelines: Path) -> Path | None:
    """Returns the Python of the folder's environment, after installing what is missing. None: it needs no packages.

    Raises Fail.
    """
    files = requirements(pipelines)
    if not files:
        return None
    with locked(ENVIRONMENTS):
        folder = ENVIRONMENTS / hashlib.sha256(str(pipelines.resolve()).encode()).hexdigest()[:16]
        python, stamp = folder / "bin" / "python", folder / STAMP
        want = "\n".join([sys.version, str(setup.ROOT), *(path.read_text() for path in files)])
        if not stamp.is_file() or stamp.read_text() != want:
            _install(folder, files)
            stamp.write_text(want)
    return python


def _install(folder: Path, files: list[Path]) -> None:
    print(f"installing what the pipelines need; the log is {os.path.relpath(LOG)}", flush=True)
    started = time.monotonic()
    LOG.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    uv = setup.VENV_PYTHON.with_name("uv")
    result = subprocess.run(
        [uv, "venv", "--python", setup.VENV_PYTHON, folder], capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise Fail(f"could not create {folder}: {result.stderr.strip()}")
    Pip(setup.VENV_PYTHON, LOG).uv_install(
        *(word for path in files for word in ("-r", str(path))), python=folder / "bin" / "python"
    )
    print(f"installed in {time.monotonic() - started:.0f} s", flush=True)
