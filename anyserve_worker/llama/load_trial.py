"""Loads each model file in a separate process first, because a bad file may end that process.

With a damaged or forged file, llama.cpp may fail an assertion, divide by zero or follow a bad pointer. In the trial
process that is a reason not to load the file; in the worker it would end the process without a message. The trial reads
metadata and vocabulary and plans the computation, but reads no weights: 0.1 s, and 0.4 s for a vocabulary of 262,144
tokens. It ignores files that llama.cpp refuses, because the real load has the better message.
"""

import ctypes
import io
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from anyserve_worker.core.errors import LoadError
from anyserve_worker.core.options import ModelOptions
from anyserve_worker.llama.constants import LOAD_MODES
from anyserve_worker.llama.embedding_runner import embedding_params
from anyserve_worker.llama.model import attention
from anyserve_worker.llama.model_runner import context_params
from anyserve_worker.llama.native import llama, without_folder

PASSED = b"\0"
"""The trial process writes it after each model. All other output is from llama.cpp and the C++ runtime."""
STEP = "\1"
"""The trial process writes it before each line with the name of a step."""
CRASHES = {-signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL, -signal.SIGSEGV}
"""Exit statuses that the file causes. Other signals come from outside."""
OOM_SCORE = "1000"
"""Makes Linux kill the trial before the worker when memory runs out."""
CELLS = 512
"""KV cells of the planned computation. More cells would not change its shape."""
_CHARACTERS = (*range(0x800), *range(0x800, 0xD800, 0x800), 0xE000, 0xF000, *range(0x10000, 0x110000, 0x10000))
SAMPLE = "".join(map(chr, _CHARACTERS))
"""Text with every byte that occurs in UTF-8. With some vocabularies, llama.cpp crashes on a byte without a token."""


class LoadTrials:
    """Tries models one after the other, in the order in which they are loaded afterwards."""

    def __init__(self, paths: Iterable[Path], options: ModelOptions) -> None:
        """Forks, so create it before the process has threads and connections."""
        reader, writer = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            try:
                os.close(reader)
                _try_all(paths, options, writer)
            finally:
                os._exit(0)
        os.close(writer)
        self._output = io.FileIO(reader, "rb")
        self._lock = threading.Lock()
        self._status: int | None = None
        """Exit status of the trial process; None until it has been waited for."""

    def check(self, path: Path) -> None:
        """Waits for the next model's trial. Raises LoadError if the model crashed it."""
        output = b""
        while not output.endswith(PASSED):
            part = self._output.read(1)
            output += part
            if not part:
                if (status := self._wait()) in CRASHES and STEP.encode() in output:
                    raise LoadError(f"{path}: {_reason(output.decode(errors='replace'), -status)}")
                return

    def close(self) -> None:
        """Kills a running trial. Thread-safe."""
        with self._lock:
            if self._status is None:
                os.kill(self._pid, signal.SIGKILL)
        self._wait()

    def _wait(self) -> int:
        with self._lock:
            if self._status is None:
                self._status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
            return self._status


def _reason(output: str, number: int) -> str:
    """Returns a message with the step that crashed, and the last line of output."""
    step, *lines = [line.strip() for line in output.rpartition(STEP)[2].splitlines() if line.strip()]
    last = lines[-1].removeprefix("what():").strip() if lines else str(signal.strsignal(number)).lower()
    return f"llama.cpp crashes when it {step}: {without_folder(last)}"


# ---- In the trial process


def _try_all(paths: Iterable[Path], options: ModelOptions, output: int) -> None:
    def begin(step: str) -> None:
        os.write(output, f"{STEP}{step}\n".encode())

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write(OOM_SCORE)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.environ["GGML_NO_BACKTRACE"] = "1"  # ggml would start a debugger for it.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    silent = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(silent, ctypes.c_void_p(0))
    llama.llama_backend_init()
    for path in paths:
        _try(path, options, begin)
        os.write(output, PASSED)


def _try(path: Path, options: ModelOptions, begin: Callable[[str], None]) -> None:
    begin("reads this file")
    params = llama.llama_model_default_params()
    params.n_gpu_layers = 0
    params.load_mode = LOAD_MODES[False, False]
    params.no_alloc = True
    model = llama.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        return
    begin("tokenizes all characters with this vocabulary")
    _use_vocabulary(llama.llama_model_get_vocab(model))
    begin("plans how to compute this model")
    if not llama.llama_model_has_encoder(model):
        for params in _contexts(model, options):
            if context := llama.llama_init_from_model(model, params):
                llama.llama_free(context)
    llama.llama_model_free(model)


def _contexts(model: Any, options: ModelOptions) -> Iterator[Any]:
    """Yields the parameters of the contexts that the worker would create; none if it would refuse the metadata."""
    try:
        is_causal, pooling_type = attention(model)
    except ValueError:
        return
    ranks = pooling_type == llama.LLAMA_POOLING_TYPE_RANK
    if is_causal and not ranks:
        yield context_params(options, CELLS, n_sequences=1, n_outputs=1)
    yield embedding_params(options, CELLS, CELLS, n_sequences=1, ranks=ranks)


def _use_vocabulary(vocabulary: Any) -> None:
    text, n = SAMPLE.encode(), llama.llama_vocab_n_tokens(vocabulary)
    tokens = (llama.llama_token * (len(text) + 8))()
    llama.llama_tokenize(vocabulary, text, len(text), tokens, len(tokens), True, True)
    all_tokens = (llama.llama_token * n)(*range(n))
    llama.llama_detokenize(vocabulary, all_tokens, n, None, 0, False, True)
