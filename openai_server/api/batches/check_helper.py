"""`python -m openai_server.api.batches.check_helper FD`: checks one input file for the process that started it.

FD is its end of a socket, from which it reads its limits and the file, and to which it writes the result as it comes.
Too much processor time or memory ends it.
"""

import os
import signal
import sys
from typing import Any

import msgspec

from openai_server.api.batches.check_frames import OUT_OF_MEMORY, SIZE, Limits
from openai_server.api.batches.checking import Checked, Checker
from openai_server.processes.helper import connected, limit_memory


def main() -> None:
    stream = connected()
    limits = msgspec.msgpack.decode(_message(stream), type=Limits)
    limit_memory(limits.memory)
    signal.setitimer(signal.ITIMER_PROF, limits.seconds)  # ends the process
    checker = Checker(limits.endpoint, max_line_bytes=limits.max_line_bytes, max_lines=limits.max_lines)
    while not checker.is_done and (piece := _message(stream)):
        for checked in checker.feed(piece):
            _send(stream, checked)
    _send(stream, checker.end())


def _message(stream: Any) -> bytes:
    header = stream.read(SIZE.size)
    if len(header) < SIZE.size:
        raise ConnectionResetError
    (n_bytes,) = SIZE.unpack(header)
    message = bytes(stream.read(n_bytes))
    if len(message) < n_bytes:
        raise ConnectionResetError
    return message


def _send(stream: Any, checked: Checked) -> None:
    message = msgspec.msgpack.encode(checked)
    stream.write(SIZE.pack(len(message)))
    stream.write(message)
    stream.flush()


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, ConnectionResetError):  # the parent process is gone
        sys.exit(1)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
