"""A flag in native memory that makes llama.cpp end a running step.

llama.cpp calls a function between the operations of a step on the CPU, and ends the step if it returns true. A Python
function would wait for the interpreter hundreds of times a step. ggml has one that reads a flag: `ggml_get_no_alloc`
returns a field of a `ggml_context`, which `ggml_set_no_alloc` sets from any thread. Its signature is that of the
callback, but for the type of the pointer. The context is used for nothing else.
"""

import ctypes
from typing import Any

from anyserve_worker.llama.native import ggml, llama

_MIN_MEMORY = 1024
"""Bytes. ggml doesn't create a context without memory."""


class InterruptFlag:
    """The flag of one llama.cpp context, and must live as long."""

    def __init__(self, ctx: Any) -> None:
        self._flag = ggml.ggml_init(ggml.InitParams(_MIN_MEMORY, None, False))
        self._callback = ctypes.cast(ggml.ggml_get_no_alloc, llama.ggml_abort_callback)
        llama.llama_set_abort_callback(ctx, self._callback, self._flag)

    def set(self, value: bool) -> None:
        """May be called from any thread."""
        ggml.ggml_set_no_alloc(self._flag, value)

    def free(self) -> None:
        """Call this after the context is freed."""
        ggml.ggml_free(self._flag)
