"""A control group with a CPU quota, below this process's own; version 1 or 2, whichever is mounted."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from anyserve_worker.threads.processors import cgroup_directories

PERIOD_US = 100_000
REMOVE_S = 5.0


@contextlib.contextmanager
def quota(processors: float) -> Iterator[Path | None]:
    """The folder of a group that may use this many processors; None if none can be created."""
    candidates = (_make(parent, processors) for parent in cgroup_directories(Path("/")))
    folder = next(filter(None, candidates), None)
    try:
        yield folder
    finally:
        if folder:
            _remove(folder)


def _make(parent: Path, processors: float) -> Path | None:
    folder = parent / f"anyserve-bench-{os.getpid()}"
    quota_us = round(processors * PERIOD_US)
    try:
        folder.mkdir()
        if (folder / "cpu.cfs_quota_us").exists():
            (folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (folder / "cpu.cfs_quota_us").write_text(str(quota_us))
        elif (folder / "cpu.max").exists():
            (folder / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
        else:
            raise OSError(f"no cpu controller in {folder}")
    except OSError:
        _remove(folder)
        return None
    return folder


def _remove(folder: Path) -> None:
    """Removes the folder once its processes have ended; gives up after REMOVE_S seconds."""
    deadline = time.monotonic() + REMOVE_S
    while folder.exists():
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                return
            time.sleep(0.05)
