"""What a process holds: file descriptors, memory, threads."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Census:
    fds: int
    threads: int
    resident: int
    """MiB that are its own: anonymous memory, not the mapped model."""


def census(pid: int) -> Census:
    told = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return Census(
        fds=len(os.listdir(f"/proc/{pid}/fd")),
        threads=int(told["Threads"]),
        resident=int(told["RssAnon"].split()[0]) >> 10,
    )
