"""Child processes that end when we do.

Each gets a process group of its own: Ctrl-C in a terminal goes to the whole foreground group, and a child that we end
ourselves would otherwise be told twice.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from types import FrameType
from typing import Any


class Stopped(KeyboardInterrupt):
    """We were told to end, by Ctrl-C or by another signal."""


def stop_on_signals() -> None:
    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise Stopped

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def start(
    command: Sequence[str], env: Mapping[str, str] | None = None, output: int | None = None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        env=env,
        process_group=0,
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        # A background group that reads from the terminal would be suspended.
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def _end_with_parent() -> None:
    """Not even a parent that is killed leaves them behind. (Linux, prctl(2): PR_SET_PDEATHSIG.)"""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def end(children: Iterable[subprocess.Popen[Any]], grace_s: float = 15.0) -> None:
    """Asks all to end, waits, and kills what is left; being told to stop a second time cuts the waiting short."""
    children = list(children)
    try:
        for child in children:
            _signal_group(child, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        for child in children:
            child.wait(max(0.0, deadline - time.monotonic()))
    except (subprocess.TimeoutExpired, Stopped):
        pass
    finally:
        for child in children:
            _signal_group(child, signal.SIGKILL)
            child.wait()


def _signal_group(child: subprocess.Popen[Any], number: int) -> None:
    # The leader may be gone while its own children live on (pip's compilers), so this doesn't ask whether it is.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)
