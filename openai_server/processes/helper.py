"""The beginning of a helper process."""

import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from typing import Any

NICENESS = 10
"""The event loop has priority over helper processes if there are few processors."""
OOM_SCORE = "1000"
"""If memory runs out, Linux kills a helper process rather than the server."""


def connected() -> Any:
    """The stream to the server, which ends this process: Ctrl-C doesn't."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write(OOM_SCORE)
    return socket.socket(fileno=int(sys.argv[1])).makefile("rwb")


def limit_memory(n_bytes: int) -> None:
    """Limits the address space, and writes no core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))
