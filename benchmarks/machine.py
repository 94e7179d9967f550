"""Describes the machine and the versions of a measurement, for the stamp beside every result."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from scripts.toolchain import usable_cores

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "llama-cpp-python",
    "grpcio",
    "protobuf",
    "uvicorn",
    "uvloop",
    "httptools",
    "starlette",
    "orjson",
    "msgspec",
)


def stamp() -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": _commit(),
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": usable_cores(),
        "memory_gib": round(int((_field("/proc/meminfo", "MemTotal") or "0").split()[0]) / 2**20, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "load_before": round(os.getloadavg()[0], 2),
        "wake_up_us": round(_wake_up_s() * 1e6),
    }


def _wake_up_s(count: int = 1000) -> float:
    """Seconds to wake a process on another core and be woken by it, as streams do often; slow in virtual machines."""
    cores = sorted(os.sched_getaffinity(0))
    echo = f"import os\nos.sched_setaffinity(0, [{cores[-1]}])\nwhile byte := os.read(0, 1): os.write(1, byte)"
    command = [sys.executable, "-c", echo]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        os.sched_setaffinity(0, cores[:1])
        began = 0.0
        for number in range(-1, count):
            if number == 0:
                began = time.perf_counter()  # the child has started
            child.stdin.write(b".")
            child.stdout.read(1)
        os.sched_setaffinity(0, cores)
        return (time.perf_counter() - began) / count


def _commit() -> str:
    def git(*arguments: str) -> str:
        try:
            return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            return ""

    # Results of an earlier part don't change what is measured.
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    commit = git("rev-parse", "--short=12", "HEAD").strip() or "unknown"
    return f"{commit}, with local changes" if changed.strip() else commit


def _field(path: str, name: str) -> str:
    try:
        match = re.search(rf"^{name}\s*:\s*(.*)$", Path(path).read_text(), re.MULTILINE)
    except OSError:
        return ""
    return match[1].strip() if match else ""


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"
