"""Loads llama.cpp once, in the environment that it needs. No other file imports llama_cpp.

The import raises LoadError if llama_cpp differs from `constants.py`. llama.cpp's log lines go to our log at debug
level, its errors into our messages.
"""

import ctypes
import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Rounds that a waiting thread spins before it sleeps. With as many processors as threads, libgomp's default is seconds,
# which starves all threads as soon as one processor is taken away. libgomp reads the variable when it is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import llama_cpp as llama

from anyserve_worker.llama import constants

__all__ = ["ggml", "library", "llama", "without_folder"]

log = logging.getLogger(__name__)

_AbortCallback = ctypes.CFUNCTYPE(None, ctypes.c_char_p)
_ggml = llama.llama_cpp._lib
"""libllama. Functions of the libraries that it links are found through it, too."""
_ggml.ggml_type_name.restype = ctypes.c_char_p
constants.check(llama, _ggml.ggml_type_name)


class ggml:  # A namespace like `llama`.
    """Functions of ggml that llama_cpp doesn't declare."""

    class InitParams(ctypes.Structure):
        """`struct ggml_init_params`."""

        _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))

    ggml_init = _ggml.ggml_init
    ggml_init.argtypes, ggml_init.restype = (InitParams,), ctypes.c_void_p
    ggml_free = _ggml.ggml_free
    ggml_free.argtypes, ggml_free.restype = (ctypes.c_void_p,), None
    ggml_get_no_alloc = _ggml.ggml_get_no_alloc
    ggml_get_no_alloc.argtypes, ggml_get_no_alloc.restype = (ctypes.c_void_p,), ctypes.c_bool
    ggml_set_no_alloc = _ggml.ggml_set_no_alloc
    ggml_set_no_alloc.argtypes, ggml_set_no_alloc.restype = (ctypes.c_void_p, ctypes.c_bool), None


class _Library:
    """llama.cpp's state of the whole process."""

    def __init__(self) -> None:
        self.first_error = ""
        """First error of the current load: the cause, which the last error only sums up."""
        self.last_error = ""
        self._callback: object = None

    def start(self) -> None:
        """Prepares loading a model. The callback must live as long as the library."""
        self.first_error = self.last_error = ""
        if self._callback is None:
            self._callback = llama.llama_log_callback(self._receive)
            llama.llama_log_set(self._callback, ctypes.c_void_p(0))
            # Builds with a library per kind of processor choose theirs here.
            llama.llama_backend_init()

    @contextmanager
    def ends_in_one_line(self, subject: str) -> Iterator[None]:
        """Makes a failed assertion of llama.cpp end the process with status 1 and a line about `subject`."""

        first = threading.Lock()

        def end(message: bytes) -> None:
            first.acquire()  # Never released: all computing threads may fail the same assertion.
            reason = without_folder(message.decode(errors="replace"))
            os.write(2, f"Error: {subject}: llama.cpp crashes on this model: {reason}\n".encode())
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
    """Removes the path with which an assertion begins: that of the source file on the build machine."""
    return re.sub(r"^/\S*/", "", message)


library = _Library()
