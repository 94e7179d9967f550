"""Sums the metrics of several processes: prometheus_client keeps the values in files that all of them share.

The parent process sets the directory of these files in the environment before it starts the others.
"""

import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client's environment variable; read when it is imported."""
_MEMORY = "/dev/shm"
"""Folder for the files: it is writable even if the root file system is read-only."""
_PREFIX, _LOCK = "openai_server-", "lock"


@contextmanager
def shared(root: str | None = None) -> Iterator[None]:
    """Processes that are started inside this block share their metrics. `root`: folder for the files, for tests."""
    if root is None:
        root = _MEMORY if os.path.isdir(_MEMORY) and os.access(_MEMORY, os.W_OK) else tempfile.gettempdir()
    _sweep(root)
    directory = tempfile.mkdtemp(prefix=_PREFIX, dir=root)
    with open(os.path.join(directory, _LOCK), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.environ[DIRECTORY] = directory
        try:
            yield
        finally:
            del os.environ[DIRECTORY]
            shutil.rmtree(directory, ignore_errors=True)


def _sweep(root: str) -> None:
    """Removes the directories of parent processes that were killed: no process holds their locks."""
    for path in glob.glob(os.path.join(glob.escape(root), f"{_PREFIX}*", _LOCK)):
        try:
            with open(path) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(os.path.dirname(path), ignore_errors=True)
        except OSError:
            continue  # in use, owned by another user, or removed just now


def forget(pid: int) -> None:
    """Removes the gauges of a process that has ended; its counters stay."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid, os.environ[DIRECTORY])  # type: ignore[no-untyped-call]


def processes() -> list[int]:
    """The ids of the running processes: `forget` has removed the gauges of the others."""
    files = glob.glob("gauge_live*_*.db", root_dir=os.environ[DIRECTORY])
    return sorted({int(os.path.splitext(name)[0].rpartition("_")[2]) for name in files})


def is_shared() -> bool:
    return DIRECTORY in os.environ
