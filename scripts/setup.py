"""Creates .venv and installs the project into it, editable. Does nothing if that has been done.

    python3 -m scripts.setup worker [test]

Needs only Python's standard library. A stamp in .venv records what is installed; the log is .cache/setup.log.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

from scripts import children, llama_wheel, stamp, toolchain
from scripts.errors import Fail, run_main
from scripts.locks import locked
from scripts.pip import Pip
from scripts.stamp import Stamp

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
STAMP = VENV / "anyserve-stamp.json"
PYPROJECT = ROOT / "pyproject.toml"
CACHE = ROOT / ".cache"
LOG = CACHE / "setup.log"


def main() -> int:
    children.stop_on_signals()
    ensure_venv(set(sys.argv[1:]))
    return 0


def ensure_venv(extras: set[str]) -> None:
    toolchain.require_python()
    with locked(CACHE):
        have = stamp.read(STAMP)
        if have.root not in ("", str(ROOT)) or not _venv_works():
            have = Stamp()
            _make_venv()
        want = have.wanted(ROOT, PYPROJECT.read_bytes(), extras, os.environ)
        if "worker" in want.extras:
            want = dataclasses.replace(want, llama_wheel=llama_wheel.key(llama_requirement(), want.cmake_args))
        if want != have:
            _install(have, want)


def _venv_works() -> bool:
    try:
        return subprocess.run([VENV_PYTHON, "-c", "import pip"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _make_venv() -> None:
    toolchain.require_venv()
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = (result.stderr or result.stdout).strip().splitlines()
        raise Fail(f"could not create {VENV}: {reason[-1] if reason else 'no reason given'}")


def _install(have: Stamp, want: Stamp) -> None:
    log = LOG.relative_to(ROOT)
    print(f"installing into {VENV.name} ({', '.join(want.extras) or 'sidecar only'}); the log is {log}", flush=True)
    started = time.monotonic()
    LOG.unlink(missing_ok=True)
    pip = Pip(VENV_PYTHON, LOG)
    wheel = llama_wheel.get(pip, llama_requirement(), want.cmake_args) if want.llama_wheel else None
    STAMP.unlink(missing_ok=True)
    if wheel and want.llama_wheel != have.llama_wheel:
        # Forced: the installed wheel may have the same version, built with other options.
        pip("install", "--force-reinstall", "--no-deps", str(wheel))
    pip("install", "--editable", f"{ROOT}[{','.join(want.extras)}]" if want.extras else str(ROOT))
    stamp.write(STAMP, want)
    print(f"installed in {time.monotonic() - started:.0f} s", flush=True)


def llama_requirement() -> str:
    import tomllib  # not at the top: an older Python lacks it, and must get as far as reporting that it is too old

    project = tomllib.loads(PYPROJECT.read_text())["project"]
    requirements: list[str] = project["optional-dependencies"]["worker"]
    return next(requirement for requirement in requirements if requirement.startswith("llama-cpp-python"))


if __name__ == "__main__":
    run_main(main)
