"""Child processes of a measurement. They end with this process; /proc has their processor time and memory."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from scripts import children
from scripts.errors import Fail

TICKS = os.sysconf("SC_CLK_TCK")
POLL_S = 0.005
LINES_SHOWN = 15

# Runs in the child before its command. Not a preexec_fn, which would fork a process that may have threads. Exits if the
# parent was killed while the child started.
_GUARD = """
import ctypes, os, signal, sys
parent, cgroup, cores, *command = sys.argv[1:]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != int(parent):
        sys.exit(1)
if cgroup:
    with open(os.path.join(cgroup, "cgroup.procs"), "w") as file:
        file.write(str(os.getpid()))
if cores:
    os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
os.execvp(command[0], command)
"""


class Process:
    """A child with its output in a file. It ends on `end`, or when this process ends in any way."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cgroup: Path | None = None,
        cores: Sequence[int] = (),
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | None = None,
    ) -> None:
        """`cgroup`: the folder of a group that the child joins; `cores`: the only ones it may run on, empty for any."""
        self.command = list(command)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        guard = [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid())]
        self.popen = subprocess.Popen(
            [*guard, str(cgroup or ""), ",".join(map(str, cores)), *command],
            env={**os.environ, **(env or {})},
            stdin=stdin,
            stdout=self._log if stdout is None else stdout,
            stderr=self._log,
            process_group=0,
        )

    @property
    def output(self) -> str:
        # Without seeking: the child shares the file's position, and writes there.
        log = self._log.fileno()
        return os.pread(log, os.fstat(log).st_size, 0).decode(errors="replace")

    def wait_for(self, pattern: str, timeout_s: float) -> re.Match[str]:
        """Waits until the output matches. Raises Fail if the child ends before, or takes longer."""
        deadline = time.monotonic() + timeout_s
        while not (match := re.search(pattern, self.output)):
            self.require_alive()
            if time.monotonic() > deadline:
                raise Fail(f"{self.name} did not print {pattern!r} within {timeout_s:.0f} s:\n{self.tail()}")
            time.sleep(POLL_S)
        return match

    def require_alive(self) -> None:
        if self.popen.poll() is not None:
            raise Fail(f"{self.name} ended with exit code {self.popen.returncode}:\n{self.tail()}")

    @property
    def name(self) -> str:
        return " ".join(self.command[:4])

    def tail(self) -> str:
        return "\n".join(self.output.splitlines()[-LINES_SHOWN:])

    def cpu_seconds(self) -> float:
        """User and system time of the child and all its descendants, including ended ones."""
        return sum(_cpu_seconds(pid) for pid in tree(self.popen.pid))

    def resident_bytes(self) -> int:
        return sum(_resident(pid) for pid in tree(self.popen.pid))

    def end(self, grace_s: float = 3.0) -> None:
        """Sends SIGTERM to the whole group, and kills what is left of it after `grace_s` seconds."""
        children.end([self.popen], grace_s)
        if self.popen.stdout:
            self.popen.stdout.close()
        self._log.close()


class Job(Process):
    """A child that reads its orders from stdin, writes an answer to stdout, and ends."""

    def __init__(self, command: Sequence[str], orders: bytes) -> None:
        with tempfile.TemporaryFile() as file:
            file.write(orders)
            file.seek(0)
            super().__init__(command, stdin=file, stdout=subprocess.PIPE)

    def answer(self, timeout_s: float) -> bytes:
        """Waits for the answer. Raises Fail if the child fails or takes longer."""
        try:
            answer, _ = self.popen.communicate(timeout=timeout_s)
            if self.popen.returncode:
                raise Fail(f"{self.name} ended with exit code {self.popen.returncode}:\n{self.tail()}")
            return bytes(answer)
        except subprocess.TimeoutExpired:
            raise Fail(f"{self.name} was not done after {timeout_s:.0f} s:\n{self.tail()}") from None
        finally:
            self.end(grace_s=0.0)


def tree(pid: int) -> list[int]:
    """Ids of a process and all its descendants."""
    found = [pid]
    for parent in found:
        for listed in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, listed.read_text().split())
    return found


def _cpu_seconds(pid: int) -> float:
    """Processor time of a process and its ended children. A burst takes tenths of a second: /proc would round it."""
    try:
        # proc(5): after the name in parentheses come the state and, from field 16, cutime and cstime.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # The clock that clock_getcpuclockid(3) returns, which Python lacks.
        own = time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0
    return own + sum(map(int, fields[13:15])) / TICKS


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError):
        if match := re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE):
            return int(match[1]) * 1024
    return 0
