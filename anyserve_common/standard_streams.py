"""Makes the standard streams unable to fail, so that a server keeps running when its log can't be written.

A closed stream is opened on /dev/null; otherwise the first socket would get its number, and a client the log. Output
that can't be written, because the disk is full or the reader of a pipe is gone, is dropped.
"""

import io
import os
import sys
from contextlib import suppress
from typing import Any


def secure() -> None:
    """Call this before anything else opens a file."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number is fd
    sys.stdout, sys.stderr = _writer(1), _writer(2)


class _Lossy(io.FileIO):
    def write(self, data: Any, /) -> int:
        rest = memoryview(data).cast("B")
        n_bytes = len(rest)
        with suppress(OSError):
            while rest:
                rest = rest[super().write(rest) or n_bytes :]
        return n_bytes


def _writer(fd: int) -> io.TextIOWrapper:
    # Unbuffered: a signal handler can't use a buffer that is being written to.
    raw: Any = _Lossy(fd, "wb", closefd=False)
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", write_through=True)
