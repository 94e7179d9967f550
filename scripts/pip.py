"""Runs pip with its whole output in a log and one line of progress for the user."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path

from scripts import children
from scripts.errors import Fail
from scripts.progress import REDRAW_S, PipActivity, ProgressLine

LINES_SHOWN = 15


class Pip:
    """The pip of one Python. Appends its output to `log`."""

    def __init__(self, python: Path, log: Path) -> None:
        self._command = [str(python), "-m", "pip"]
        self._log = log

    def __call__(self, *arguments: str, **env: str) -> None:
        activity = PipActivity()
        tail: deque[str] = deque(maxlen=LINES_SHOWN)
        progress = ProgressLine(sys.stdout, activity)
        command = [*self._command, *arguments, "--verbose", "--progress-bar", "off"]
        pip = children.start(command, env={**_environment(), **env}, output=subprocess.PIPE)

        def read() -> None:
            assert pip.stdout
            with self._log.open("a") as log:
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
            raise Fail(f"the installation failed, see the lines above and {os.path.relpath(self._log)}")

    def succeeds(self, *arguments: str) -> bool:
        command = [*self._command, *arguments]
        return subprocess.run(command, env=_environment(), capture_output=True, check=False).returncode == 0


def _environment() -> dict[str, str]:
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore", "PIP_NO_INPUT": "1"}
    return {**os.environ, **quiet, "PYTHONUNBUFFERED": "1"}
