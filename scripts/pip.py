"""Runs pip and uv with their whole output in a log and one line of progress for the user."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path

from scripts import children
from scripts.errors import Fail
from scripts.progress import REDRAW_S, Activity, ProgressLine

LINES_SHOWN = 15
UV_VARIABLES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "no-index": "UV_NO_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
}
"""uv's variable for each of pip's options about the package index, since uv does not read pip's configuration."""


class Pip:
    """The pip of one Python, and the uv that pip has installed beside it. Appends their output to `log`."""

    def __init__(self, python: Path, log: Path) -> None:
        self._python = python
        self._log = log

    def __call__(self, *arguments: str, **env: str) -> None:
        quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore", "PIP_NO_INPUT": "1"}
        command = [str(self._python), "-m", "pip", *arguments, "--verbose", "--progress-bar", "off"]
        self._run(command, {**os.environ, **quiet, "PYTHONUNBUFFERED": "1", **env})

    def uv_install(self, *arguments: str, python: Path | None = None) -> None:
        """Installs into the environment of another `python` if it is given."""
        target = str(python or self._python)
        command = [str(self._python.with_name("uv")), "pip", "install", "--python", target, *arguments]
        self._run(command, {**uv_environment(self._python), "UV_PYTHON_DOWNLOADS": "never"})

    def _run(self, command: list[str], env: dict[str, str]) -> None:
        activity = Activity()
        tail: deque[str] = deque(maxlen=LINES_SHOWN)
        progress = ProgressLine(sys.stdout, activity)
        process = children.start(command, env=env, output=subprocess.PIPE)

        def read() -> None:
            assert process.stdout
            with process.stdout, self._log.open("a") as log:
                for line in process.stdout:
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
            status = process.wait()
        finally:
            children.end([process])
            progress.clear()
        if status:
            print("\n".join(tail), file=sys.stderr)
            raise Fail(f"the installation failed, see the lines above and {os.path.relpath(self._log)}")


def uv_environment(python: Path) -> dict[str, str]:
    """This process's environment, with the package index of `python`'s pip unless uv's own variables are set."""
    command = [str(python), "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return {**uv_variables(listed), **os.environ}


def uv_variables(pip_config: str) -> dict[str, str]:
    """uv's variables for the output of `pip config list`. PURE."""
    # pip takes a file from any of its indexes. The locked hashes decide which file is the right one.
    variables = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    for section in ("global", "install", ":env:"):  # the last takes precedence
        for line in pip_config.splitlines():
            name, _, value = line.partition("=")
            variable = UV_VARIABLES.get(name.removeprefix(f"{section}."))
            if variable:
                variables[variable] = ("," if variable == "UV_FIND_LINKS" else " ").join(
                    ast.literal_eval(value).split()
                )
    return {name: value for name, value in variables.items() if value}
