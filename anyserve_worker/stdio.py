"""Standard output and error that can't end the worker.

A full disk, a reader that is gone or a closed descriptor costs the lines that were written meanwhile, and nothing else.
"""

import io
import os
import sys
from contextlib import suppress


def make_lossy() -> None:
    """Before the process opens files: a socket that got the number of a closed descriptor would get what is written."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # The lowest number that is free: this one.
    sys.stdout, sys.stderr = Lossy(1), Lossy(2)


class Lossy(io.TextIOWrapper):
    """Writes at once, and forgets what can't be written: nothing gathers, and nothing is left to flush at the end."""

    def __init__(self, descriptor: int) -> None:
        raw = io.FileIO(descriptor, "w", closefd=False)
        super().__init__(raw, encoding="utf-8", errors="backslashreplace", write_through=True)

    def write(self, text: str) -> int:
        with suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()
