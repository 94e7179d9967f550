"""Resources of a process: file descriptors, memory, threads."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Census:
    fds: int
    threads: int
    resident_bytes: int
    """Anonymous memory; the mapped model is not included."""

    @property
    def resident(self) -> int:
        """The same in MiB."""
        return self.resident_bytes >> 20


def census(pid: int) -> Census:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return Census(
        fds=len(os.listdir(f"/proc/{pid}/fd")),
        threads=int(status["Threads"]),
        resident_bytes=int(status["RssAnon"].split()[0]) << 10,
    )
