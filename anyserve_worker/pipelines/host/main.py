"""The entry point of a pipeline's process."""

import asyncio
import ctypes
import faulthandler
import io
import os
import signal
import socket
import sys
from contextlib import suppress
from typing import TextIO

from anyserve_worker.pipelines.host.host import serve
from anyserve_worker.pipelines.host.log_lines import HostLogger

log = HostLogger("anyserve_worker.pipelines.host")

DUMP_SIGNAL = signal.SIGUSR1
"""Makes the process write the stacks of its threads to stderr, also while its event loop is blocked."""
OOM_SCORE = "800"
"""Makes Linux kill a pipeline before the worker when memory runs out."""
_PR_SET_PDEATHSIG = 1


def main(fd: int) -> None:
    """Serves the worker on this socket, and ends the process afterwards."""
    _end_with_worker()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker handles Ctrl-C
    faulthandler.enable()
    faulthandler.register(DUMP_SIGNAL, all_threads=True)
    for stream in (sys.stdout, sys.stderr):
        _write_whole_lines(stream)
    os.set_inheritable(fd, False)
    status = 1
    try:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        status = loop.run_until_complete(serve(socket.socket(fileno=fd)))
    except BaseException:  # such as SystemExit of a task that the pipeline has started
        log.critical("the event loop has ended", exc_info=True)
    finally:
        with suppress(Exception):  # the pipeline may have closed or replaced them
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)  # threads of the pipeline must not keep the process


def _end_with_worker() -> None:
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write(OOM_SCORE)


def _write_whole_lines(stream: TextIO) -> None:
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
