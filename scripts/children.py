"""Child processes that end with this one.

Each has its own process group: Ctrl-C in a terminal signals the whole foreground group, and a child that this process
ends itself would otherwise be signalled twice.
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
    """Ctrl-C, SIGTERM or SIGHUP arrived."""


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
    """Sends SIGTERM to this process when its parent dies, even if killed. (Linux, prctl(2): PR_SET_PDEATHSIG.)"""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def end(children: Iterable[subprocess.Popen[Any]], grace_s: float = 15.0) -> None:
    """Sends SIGTERM to all, waits up to `grace_s` seconds, then sends SIGKILL. A second `Stopped` ends the wait."""
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
    # Signals the group even if its leader has ended: the leader's children may live on (pip's compilers).
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)
