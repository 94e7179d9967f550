"""Runs the project's own commands as a user does, in separate processes."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str, env: Mapping[str, str] = {}, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs a command with `env` added to this process's environment. Raises TimeoutExpired after a minute."""
    # Without the variables of the make that runs these tests: a make in a test would take it for its parent.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        command, env={**environment, **env}, cwd=cwd, capture_output=True, text=True, check=False, timeout=60
    )


def script(
    name: str, *arguments: str, env: Mapping[str, str] = {}, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", f"scripts.{name}", *arguments, env=env, cwd=cwd)


def copy_of_checkout(folder: Path) -> Path:
    """A checkout that is not set up, with the files that the scripts read."""
    folder.mkdir(exist_ok=True)
    for name in ("scripts", "native", "requirements"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


def only_line(result: subprocess.CompletedProcess[str]) -> str:
    """The error message of a command that failed, which must be a single line."""
    assert result.returncode != 0
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]
