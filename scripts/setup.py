"""Makes .venv and installs the project into it, editable; does nothing when that is done already.

    python3 -m scripts.setup worker [test]

Needs nothing but Python's standard library. The stamp in .venv says what was installed; the log is .cache/setup.log.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from scripts import children, stamp, toolchain
from scripts.errors import Fail, run_main
from scripts.progress import REDRAW_S, PipActivity, ProgressLine

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
STAMP = VENV / "anyserve-stamp.json"
CACHE = ROOT / ".cache"
LOG = CACHE / "setup.log"
LOG_LINES_SHOWN = 15


def main() -> int:
    children.stop_on_signals()
    ensure_venv(set(sys.argv[1:]))
    return 0


def ensure_venv(extras: set[str]) -> None:
    toolchain.require_python()
    CACHE.mkdir(exist_ok=True)
    with _lock(CACHE / "setup.lock"):
        have = stamp.read(STAMP)
        if have.root not in ("", str(ROOT)) or not _venv_works():
            have = stamp.Stamp()
            _make_venv()
        want = have.wanted(ROOT, (ROOT / "pyproject.toml").read_bytes(), extras, os.environ)
        if want != have:
            STAMP.unlink(missing_ok=True)
            _install(want.extras, rebuild_llama=want.cmake_args != have.cmake_args)
            stamp.write(STAMP, want)


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
        raise Fail(f"could not make {VENV}: {reason[-1] if reason else 'no reason given'}")


def _install(extras: tuple[str, ...], rebuild_llama: bool) -> None:
    if "worker" in extras:
        try:
            toolchain.require_compilers()
        except Fail:
            if rebuild_llama or not _llama_wheel_at_hand():
                raise
    env = _pip_environment()
    print(
        f"installing into {VENV.name} ({', '.join(extras) or 'sidecar only'}); the log is {LOG.relative_to(ROOT)}",
        flush=True,
    )
    started = time.monotonic()
    with LOG.open("w") as log:
        if rebuild_llama:
            # pip's cache knows a wheel by its version alone, and would hand out one built with other options.
            _pip(["--no-cache-dir", "--force-reinstall", "--no-deps", _llama_requirement()], env, log)
        target = f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT)
        _pip(["--editable", target], env, log)
    print(f"installed in {time.monotonic() - started:.0f} s", flush=True)


def _pip_environment() -> dict[str, str]:
    include = shlex.quote(f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={ROOT / 'scripts' / 'llama_cpp.cmake'}")
    return {
        **os.environ,
        "CMAKE_ARGS": f"{include} {os.environ.get('CMAKE_ARGS', '')}".strip(),
        "CMAKE_BUILD_PARALLEL_LEVEL": os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(toolchain.usable_cores())),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "PIP_NO_INPUT": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _pip(arguments: list[str], env: dict[str, str], log: IO[str]) -> None:
    """Runs `pip install`, with all its words in the log and one line of progress for the user."""
    activity = PipActivity()
    tail: deque[str] = deque(maxlen=LOG_LINES_SHOWN)
    progress = ProgressLine(sys.stdout, activity)
    command = [str(VENV_PYTHON), "-m", "pip", "install", "--verbose", "--progress-bar", "off", *arguments]
    pip = children.start(command, env=env, output=subprocess.PIPE)

    def read() -> None:
        assert pip.stdout
        for line in pip.stdout:
            log.write(line)
            log.flush()
            tail.append(line.rstrip())
            activity.feed(line)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        while reader.is_alive():
            reader.join(REDRAW_S)
            progress.tick()
        status = pip.wait()
    finally:
        children.end([pip])
        progress.clear()
    if status:
        print("\n".join(tail), file=sys.stderr)
        raise Fail(f"the installation failed, see the lines above and {LOG.relative_to(ROOT)}")


def _llama_requirement() -> str:
    import tomllib  # not at the top: an older Python must get as far as saying that it is too old

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements: list[str] = project["optional-dependencies"]["worker"]
    return next(requirement for requirement in requirements if requirement.startswith("llama-cpp-python"))


def _llama_wheel_at_hand() -> bool:
    """Whether llama-cpp-python is installed already, or pip can get it without compiling."""
    version = _llama_requirement().partition("==")[2]
    if any(VENV.glob(f"lib/python*/site-packages/llama_cpp_python-{version}.dist-info")):
        return True
    pip = [str(VENV_PYTHON), "-m", "pip", "--disable-pip-version-check"]
    built = subprocess.run([*pip, "cache", "list", "llama_cpp_python"], capture_output=True, text=True, check=False)
    if f"llama_cpp_python-{version}-" in built.stdout:
        return True
    prebuilt = [*pip, "install", "--dry-run", "--quiet", "--no-deps", "--only-binary", ":all:", _llama_requirement()]
    return subprocess.run(prebuilt, capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Two makes at once (run and test, say) take turns."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    run_main(main)
