"""A loaded model: its weights, metadata, vocabulary and tasks."""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anyserve_worker.core.errors import LoadError
from anyserve_worker.core.options import ModelOptions
from anyserve_worker.llama.constants import LOAD_MODES
from anyserve_worker.llama.native import library, llama
from anyserve_worker.llama.vocabulary import Vocabulary
from protos import contract

_POOLINGS = {
    llama.LLAMA_POOLING_TYPE_MEAN: contract.POOLING_MEAN,
    llama.LLAMA_POOLING_TYPE_CLS: contract.POOLING_CLS,
    llama.LLAMA_POOLING_TYPE_LAST: contract.POOLING_LAST,
}


def metadata(handle: Any, key: str) -> str:
    """Returns a scalar of a model's GGUF metadata as text; empty if absent."""
    length = llama.llama_model_meta_val_str(handle, key.encode(), ctypes.create_string_buffer(1), 1)
    if length < 0:
        return ""
    buffer = ctypes.create_string_buffer(length + 1)
    llama.llama_model_meta_val_str(handle, key.encode(), buffer, length + 1)
    return buffer.raw[:length].decode(errors="replace")


def attention(handle: Any) -> tuple[bool, int]:
    """Returns (is causal, `enum llama_pooling_type`) of a model. Raises ValueError for a bad number.

    A model whose attention isn't causal is an encoder: its tokens attend to later ones, so it can't generate.
    """
    architecture = metadata(handle, "general.architecture")
    is_causal = metadata(handle, f"{architecture}.attention.causal") != "false"
    return is_causal, int(metadata(handle, f"{architecture}.pooling_type") or llama.LLAMA_POOLING_TYPE_NONE)


class Model:
    """A loaded GGUF file. Raises LoadError if it can't be loaded, or supports none of our tasks."""

    def __init__(self, path: Path, options: ModelOptions, on_progress: Callable[[float], bool]) -> None:
        """`on_progress` gets the loaded fraction, 0 to 1, many times. If it returns False, loading raises LoadError."""
        if not path.is_file():
            raise LoadError(f"{path}: no such file")
        library.start()
        params = llama.llama_model_default_params()
        params.n_gpu_layers = options.n_gpu_layers
        params.load_mode = LOAD_MODES[options.mmap, options.mlock]

        def progress(fraction: float, _: ctypes.c_void_p) -> bool:
            return on_progress(fraction)

        params.progress_callback = llama.llama_progress_callback(progress)
        handle = llama.llama_model_load_from_file(os.fsencode(path), params)
        if not handle:
            raise LoadError(f"{path}: {library.first_error or 'llama.cpp cannot load it'}")
        self.handle = handle
        if llama.llama_model_has_encoder(handle) or llama.llama_model_is_diffusion(handle):
            raise LoadError(f"{path}: {self.metadata('general.architecture')} models are not supported")
        self.n_ctx_train = max(0, llama.llama_model_n_ctx_train(handle))
        self.n_swa = llama.llama_model_n_swa(handle)
        self.is_recurrent = llama.llama_model_is_recurrent(handle) or llama.llama_model_is_hybrid(handle)
        self.is_causal, self.pooling_type = attention(handle)
        self.vocabulary = Vocabulary(handle)
        if contract.TASK_GENERATE in self.tasks:
            self.vocabulary.start_guides()

    @property
    def pooling(self) -> str:
        """The model's pooling, one of contract.POOLINGS; the mean if the file sets none."""
        return _POOLINGS.get(self.pooling_type, contract.POOLING_MEAN)

    @property
    def ranks(self) -> bool:
        return self.pooling_type == llama.LLAMA_POOLING_TYPE_RANK

    @property
    def tasks(self) -> tuple[str, ...]:
        texts = (contract.TASK_TOKENIZE, contract.TASK_DETOKENIZE)
        if self.ranks:
            return (contract.TASK_RANK, *texts)
        return (*((contract.TASK_GENERATE,) if self.is_causal else ()), contract.TASK_EMBED, *texts)

    def metadata(self, key: str) -> str:
        return metadata(self.handle, key)

    def chat_template(self, name: str = "") -> str:
        """Returns the default chat template, or the one with this name; empty if absent."""
        return self.metadata(f"tokenizer.chat_template.{name}" if name else "tokenizer.chat_template")

    @property
    def description(self) -> str:
        buffer = ctypes.create_string_buffer(256)
        llama.llama_model_desc(self.handle, buffer, len(buffer))
        return buffer.value.decode(errors="replace")

    @property
    def n_parameters(self) -> int:
        return int(llama.llama_model_n_params(self.handle))

    @property
    def size(self) -> int:
        """Size of the weights in bytes."""
        return int(llama.llama_model_size(self.handle))

    def free(self) -> None:
        self.vocabulary.stop_compiling()
        llama.llama_model_free(self.handle)
