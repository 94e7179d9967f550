"""llama.cpp, loaded once and in the environment that it needs: the only file that imports llama_cpp.

The import raises LoadError if llama_cpp is not as `constants.py` has it.

What it logs goes to our log at debug level, its errors into our messages.
"""

import ctypes
import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# A thread that waits for its siblings spins for this many rounds before it sleeps. libgomp's default is seconds when
# it sees as many processors as threads, which starves everybody as soon as one of them is taken away. Read at load.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import llama_cpp as llama

from anyserve_worker.llama import constants

__all__ = ["library", "llama", "without_folder"]

log = logging.getLogger(__name__)

_AbortCallback = ctypes.CFUNCTYPE(None, ctypes.c_char_p)
_ggml = llama.llama_cpp._lib
"""libllama, through which the functions of the libraries that it needs are found, too."""
_ggml.ggml_type_name.restype = ctypes.c_char_p
constants.check(llama, _ggml.ggml_type_name)


class _Library:
    """What it needs once a process."""

    def __init__(self) -> None:
        self.first_error = ""
        """Of this load: the cause, which the last one only sums up."""
        self.last_error = ""
        self._callback: object = None

    def start(self) -> None:
        """Before the first model. The callback must live as long as the library."""
        self.first_error = self.last_error = ""
        if self._callback is None:
            self._callback = llama.llama_log_callback(self._receive)
            llama.llama_log_set(self._callback, ctypes.c_void_p(0))
            # Builds that carry a library for each kind of processor choose theirs here.
            llama.llama_backend_init()

    @contextmanager
    def ends_in_one_line(self, what: str) -> Iterator[None]:
        """Where llama.cpp gives up the process because of an assertion, it ends with status 1 and a line on `what`."""

        first = threading.Lock()

        def end(message: bytes) -> None:
            first.acquire()  # Never released: the threads that compute may all find the same.
            reason = without_folder(message.decode(errors="replace"))
            os.write(2, f"Error: {what}: llama.cpp crashes on this model: {reason}\n".encode())
            os._exit(1)

        set_callback = _ggml.ggml_set_abort_callback
        callback = _AbortCallback(end)
        set_callback(callback)
        try:
            yield
        finally:
            set_callback(_AbortCallback(0))

    def _receive(self, level: int, text: bytes, _: ctypes.c_void_p) -> None:
        line = text.decode(errors="replace").strip()
        if line.strip("."):
            if level == constants.LOG_LEVEL_ERROR:
                self.last_error = line
                self.first_error = self.first_error or line
            log.debug("%s", line)


def without_folder(message: str) -> str:
    """An assertion begins with the path of the source file on the machine that built llama.cpp."""
    return re.sub(r"^/\S*/", "", message)


library = _Library()
