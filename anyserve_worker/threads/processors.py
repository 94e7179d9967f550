"""Finds the number of processors that this process may use.

It is never the host's core count: a pod with a CPU limit is paused for the rest of each period once its threads have
used up the quota. llama.cpp's threads, which spin while they wait for each other, use it up fastest.
"""

import math
import os
from pathlib import Path


def usable_cpus(affinity: int, quota: float | None) -> int:
    """Returns the most threads that may help, for the processors of the affinity mask and of the quota (None: no
    quota).

    With a quota of 1.5, two threads that are paused at times may be best; `chooser.py` tries it.
    """
    return max(1, affinity if quota is None else min(affinity, math.ceil(quota)))


def detect_cpus(root: Path = Path("/")) -> int:
    # macOS has no affinity masks.
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return usable_cpus(affinity, cgroup_quota(root))


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """Returns the lowest CPU quota, in processors, of this process's cgroup and its ancestors; None if there is none.

    Formats: Linux Documentation/admin-guide/cgroup-v2.rst (`cpu.max`: "quota period", or "max period") and
    scheduler/sched-bwc.rst (version 1: `cpu.cfs_quota_us`, -1 for none, `cpu.cfs_period_us`).
    """
    quotas = [quota for directory in cgroup_directories(root) if (quota := _quota(directory)) is not None]
    return min(quotas, default=None)


def cgroup_directories(root: Path) -> list[Path]:
    """Returns the directories of this process's CPU cgroups and their ancestors, nearest first; some may not exist."""
    directories = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mount = root / "sys/fs/cgroup"
        elif "cpu" in controllers.split(","):
            mount = root / "sys/fs/cgroup/cpu"
        else:
            continue
        # In a container, the path may be the host's and not mounted. Then the mount's root is our group.
        relative = Path(path.lstrip("/"))
        directories += [mount / part for part in (relative, *relative.parents)]
    return directories


def _quota(directory: Path) -> float | None:
    fields = _read(directory / "cpu.max").split()
    if not fields:
        fields = (_read(directory / "cpu.cfs_quota_us") + " " + _read(directory / "cpu.cfs_period_us")).split()
    if len(fields) != 2 or fields[0] in ("max", "-1"):
        return None
    return int(fields[0]) / int(fields[1])


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


class IdleMeter:
    """Counts idle processors among those that this process may run on. Linux only."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._stat = root / "proc/stat"
        self._cpus = {f"cpu{cpu}" for cpu in os.sched_getaffinity(0)} if hasattr(os, "sched_getaffinity") else set()
        self._last = self._times()

    def __call__(self) -> float | None:
        """Returns the average number of idle processors since the last call; None if unknown or too early."""
        last, self._last = self._last, self._times()
        total = self._last[1] - last[1]
        return len(self._cpus) * (self._last[0] - last[0]) / total if total > 0 else None

    def _times(self) -> tuple[int, int]:
        """Returns idle and total time of all processors, in clock ticks. Format: proc(5), /proc/stat."""
        idle = total = 0
        for line in _read(self._stat).splitlines():
            name, *times = line.split()
            if name in self._cpus:
                ticks = [int(ticks) for ticks in times[:8]]  # user nice system idle iowait irq softirq steal
                idle += ticks[3] + ticks[4]
                total += sum(ticks)
        return idle, total
