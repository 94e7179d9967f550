"""Creates .venv and installs the project into it, editable. Does nothing if that has been done.

    python3 -m scripts.setup run|dev

Needs only Python's standard library. pip installs uv, and uv installs a file of requirements/: run.txt, or dev.txt,
which has the packages for tests and lint as well. A stamp in .venv records what is installed; the log is
.cache/setup.log.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from scripts import children, llama_wheel, toolchain
from scripts.errors import Fail, run_main
from scripts.locks import locked
from scripts.pip import Pip

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
STAMP = VENV / "anyserve-stamp.json"
PYPROJECT = ROOT / "pyproject.toml"
LOCKS = ROOT / "requirements"
CACHE = ROOT / ".cache"
LOG = CACHE / "setup.log"


def main() -> int:
    children.stop_on_signals()
    ensure_venv(sys.argv[1])
    return 0


def ensure_venv(packages: str) -> None:
    """Installs `packages`, "run" or "dev". Packages of an earlier "dev" stay."""
    toolchain.require_python()
    with locked(CACHE):
        have = read_stamp()
        want = wanted(have, packages)
        if want == have and _venv_works():
            return
        llama_wheel.require_tools(want["llama_wheel"])
        # Without a stamp, an earlier setup was interrupted, and its packages may lack files. Moving the checkout breaks
        # the editable install and the scripts in bin/.
        if have.get("root") != want["root"] or not _venv_works():
            have = {}
            _make_venv()
        _install(have, want)


def read_stamp() -> dict[str, str]:
    """Returns the stamp of the last complete installation; an empty one if there is none or it can't be read."""
    try:
        return dict(json.loads(STAMP.read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def wanted(have: dict[str, str], packages: str) -> dict[str, str]:
    """The stamp of a complete installation."""
    # `make run` after `make test` removes nothing.
    packages = "dev" if have.get("packages") == "dev" else packages
    sources = [path.read_bytes() for path in (PYPROJECT, LOCKS / "uv.txt", LOCKS / f"{packages}.txt")]
    # Unset keeps the installed build, so that a user sets CUDA's options only once.
    cmake_args = os.environ.get("CMAKE_ARGS", have.get("cmake_args", ""))
    return {
        "root": str(ROOT),
        "packages": packages,
        "sources": hashlib.sha256(b"\0".join(sources)).hexdigest(),
        "cmake_args": cmake_args,
        "llama_wheel": llama_wheel.key(llama_requirement(), cmake_args),
    }


def _venv_works() -> bool:
    try:
        return subprocess.run([VENV_PYTHON, "-c", "import pip"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _make_venv() -> None:
    if VENV.is_symlink():
        raise Fail(
            f"{VENV} is a symbolic link, and a new environment would empty the folder behind it: remove the link"
        )
    toolchain.require_venv()
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = (result.stderr or result.stdout).strip().splitlines()
        raise Fail(f"could not create {VENV}: {reason[-1] if reason else 'no reason given'}")


def _install(have: dict[str, str], want: dict[str, str]) -> None:
    print(f"installing into {VENV.name} ({want['packages']}); the log is {LOG.relative_to(ROOT)}", flush=True)
    started = time.monotonic()
    LOG.unlink(missing_ok=True)
    STAMP.unlink(missing_ok=True)
    pip = Pip(VENV_PYTHON, LOG)
    pip("install", "--require-hashes", "--only-binary", ":all:", "-r", str(LOCKS / "uv.txt"))
    wheel = llama_wheel.get(pip, llama_requirement(), want["cmake_args"])
    pip.uv_install("--require-hashes", "-r", str(LOCKS / f"{want['packages']}.txt"))
    # The installed wheel may have the same version, built with other options.
    again = ["--reinstall-package", "llama-cpp-python"] if want["llama_wheel"] != have.get("llama_wheel") else []
    build = ["--build-constraints", str(LOCKS / "build.txt")]
    pip.uv_install("--no-deps", *again, *build, str(wheel), "--editable", str(ROOT))
    STAMP.write_text(json.dumps(want))
    print(f"installed in {time.monotonic() - started:.0f} s", flush=True)


def llama_requirement() -> str:
    import tomllib  # not at the top: an older Python lacks it, and must get as far as reporting that it is too old

    project = tomllib.loads(PYPROJECT.read_text())["project"]
    requirements: list[str] = project["optional-dependencies"]["worker"]
    return next(requirement for requirement in requirements if requirement.startswith("llama-cpp-python"))


if __name__ == "__main__":
    run_main(main)
