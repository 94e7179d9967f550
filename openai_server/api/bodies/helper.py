"""`python -m openai_server.api.bodies.helper FD`: decodes and validates bodies for the process that started it.

FD is its end of a socket, from which it reads its limits and then jobs. It answers the jobs in order, and exits when
the socket is closed. A job that takes too much processor time or memory ends the process too.
"""

import os
import pickle
import signal
import sys
import traceback
from typing import Any

from openai_server.access.caps import Caps
from openai_server.api.bodies.frames import JOB, READY, RESULT, Limits, Refusal
from openai_server.api.bodies.parsers import compact, named
from openai_server.core.errors import InvalidRequest
from openai_server.processes.helper import connected, limit_memory

RECURSION = 10_000
"""Python's recursion limit, for pickle, which makes several calls for each of the up to 1024 levels of decoded JSON."""


def main() -> None:
    sys.setrecursionlimit(RECURSION)
    stream = connected()
    limits: Limits = pickle.loads(_frame(stream))
    limit_memory(limits.memory)
    stream.write(READY)
    stream.flush()
    while header := stream.read(JOB.size):
        n_name, n_body = JOB.unpack(header)
        name, body = stream.read(n_name).decode(), stream.read(n_body)
        signal.setitimer(signal.ITIMER_PROF, limits.seconds)  # ends the process
        result = pickle.dumps(_result(name, body, limits.caps), protocol=5)
        signal.setitimer(signal.ITIMER_PROF, 0)
        stream.write(RESULT.pack(len(result)))
        stream.write(result)
        stream.flush()
        del body, result


def _frame(stream: Any) -> bytes:
    (size,) = RESULT.unpack(stream.read(RESULT.size))
    return bytes(stream.read(size))


def _result(name: str, body: bytes, caps: Caps) -> Any:
    try:
        return compact(named(name)(body, caps))
    except InvalidRequest as error:
        return Refusal(error.status, error.message, error.param, error.code)
    except (MemoryError, SystemError):  # orjson raises SystemError when it runs out of memory
        raise
    except Exception:
        return Refusal(500, traceback.format_exc(), None, None)  # the parent process logs it


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, ConnectionResetError):  # the parent process is gone
        sys.exit(1)
    except (MemoryError, SystemError):  # orjson raises SystemError when it runs out of memory
        os._exit(1)
