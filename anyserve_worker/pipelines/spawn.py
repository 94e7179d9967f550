"""Starts the process of a pipeline."""

import asyncio
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from anyserve_worker.pipelines.folder import Definition

_ROOT = str(Path(__file__).parents[2])
BOOT = """
import sys
from importlib.machinery import PathFinder
root, fd = sys.argv[1:]
del sys.argv[1:]
if sys.path and not sys.path[0]:
    del sys.path[0]
class Finder:
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, [root]) if name in ("anyserve_worker", "protos") else None
sys.meta_path.insert(0, Finder)
from anyserve_worker.pipelines.host.main import main
main(int(fd))
"""
"""Runs the host of this version. Only these packages are found in the worker's environment, so that the interpreter of
another one imports nothing else from it."""


class Child:
    """A process that was started, until it is waited for."""

    def __init__(self, popen: "subprocess.Popen[bytes]") -> None:
        self.pid = popen.pid
        self.status: int | None = None
        """Exit status, negative for a signal; None: it runs."""
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        # Not a thread of the default pool: that has too few for threads that wait.
        threading.Thread(target=self._wait, args=(popen,), name="pipeline", daemon=True).start()

    async def wait(self) -> int:
        """Returns the exit status."""
        await self._ended.wait()
        assert self.status is not None
        return self.status

    def signal(self, number: int, *, group: bool = False) -> None:
        """Sends a signal to the process, or to all processes of its group. No effect if it has ended."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number) if group else os.kill(self.pid, number)

    def _wait(self, popen: "subprocess.Popen[bytes]") -> None:
        status = popen.wait()
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._end, status)

    def _end(self, status: int) -> None:
        self.status = status
        self._ended.set()


async def spawn(
    definition: Definition,
    connection: Callable[[], asyncio.Protocol],
    output: Callable[[], asyncio.Protocol],
) -> Child:
    """Starts the process, in a process group of its own. `connection` gets a stream socket to it, `output` what it
    writes to stdout and stderr. Raises OSError."""
    loop = asyncio.get_running_loop()
    own_end, other_end = socket.socketpair()
    output_reader, output_writer = os.pipe()
    try:
        # uvloop's own function forks, which runs gRPC's fork handlers; this one doesn't. It takes a few milliseconds.
        # In this thread, since the process ends with the thread that has started it, see `host/main.py`.
        popen = subprocess.Popen(  # noqa: ASYNC220
            [definition.python, "-c", BOOT, _ROOT, str(other_end.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=output_writer,
            stderr=subprocess.STDOUT,
            pass_fds=[other_end.fileno()],
            env=definition.environment,
            start_new_session=True,
        )
    except BaseException:
        own_end.close()
        os.close(output_reader)
        raise
    finally:
        other_end.close()
        os.close(output_writer)
    child = Child(popen)
    own_end.setblocking(False)
    try:
        await loop.connect_read_pipe(output, os.fdopen(output_reader, "rb", 0))
        await loop.create_connection(connection, sock=own_end)
    except BaseException:
        child.signal(signal.SIGKILL, group=True)
        own_end.close()
        raise
    return child
