"""`python -m openai_server.extraction.helper FD`: reads one file for the process that started it, and exits.

FD is its end of a socket, from which it reads its limits and the file, and to which it writes the text. A file that
takes too much processor time or memory ends the process.
"""

import os
import resource
import signal
import traceback

from openai_server.extraction.errors import MissingPackage, Unreadable
from openai_server.extraction.extract import extracted
from openai_server.extraction.frames import FAILED, JOB, MISSING, RESULT, TEXT, UNREADABLE, Limits
from openai_server.processes.helper import connected, limit_memory

NO_MEMORY = 9
"""Exit status for a file that needs more memory than the limit."""
_FRAMES = 8
"""Number of the innermost calls that are reported of an unexpected error."""


def main() -> None:
    stream = connected()
    seconds, memory, max_text, n_name, n_data = JOB.unpack(stream.read(JOB.size))
    _limit(Limits(seconds, memory, max_text))
    name, data = stream.read(n_name).decode(), stream.read(n_data)
    outcome, text = _result(data, name, max_text)
    encoded = text.encode()
    stream.write(RESULT.pack(outcome, len(encoded)))
    stream.write(encoded)
    stream.flush()


def _limit(limits: Limits) -> None:
    limit_memory(limits.memory)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    signal.setitimer(signal.ITIMER_PROF, limits.seconds)  # ends the process


def _result(data: bytes, name: str, max_text: int) -> tuple[bytes, str]:
    try:
        return TEXT, extracted(data, name, max_text)
    except Unreadable as error:
        return UNREADABLE, error.reason
    except MissingPackage as error:
        return MISSING, str(error)
    except MemoryError:
        raise
    except Exception as error:  # the file's text may be in its message, so that is left out
        return FAILED, f"{type(error).__name__}\n" + "".join(traceback.format_tb(error.__traceback__)[-_FRAMES:])


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, ConnectionResetError):  # the parent process is gone
        os._exit(1)
    except MemoryError:
        os._exit(NO_MEMORY)
