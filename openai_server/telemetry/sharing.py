"""Metrics of several processes together: prometheus_client keeps the values in files that all of them share.

The parent names the directory in the environment before it starts any of them. It needs nothing else of all this.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client's environment variable; read when it is imported."""
_MEMORY = "/dev/shm"
"""There also where the root file system is read-only."""


@contextmanager
def shared() -> Iterator[None]:
    """Processes that are started from here on count together."""
    usable = os.path.isdir(_MEMORY) and os.access(_MEMORY, os.W_OK)
    directory = tempfile.mkdtemp(prefix="openai_server-", dir=_MEMORY if usable else None)
    os.environ[DIRECTORY] = directory
    try:
        yield
    finally:
        del os.environ[DIRECTORY]
        shutil.rmtree(directory, ignore_errors=True)


def forget(pid: int) -> None:
    """What a process that has ended was doing then; what it has counted stays."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid, os.environ[DIRECTORY])  # type: ignore[no-untyped-call]


def is_shared() -> bool:
    return DIRECTORY in os.environ
