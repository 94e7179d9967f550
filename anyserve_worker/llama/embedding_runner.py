"""Computes embeddings and scores with llama.cpp.

The context for generation returns no embeddings, so this is a second one on the same weights. It is created at the
first request, because most models that generate are used for nothing else. It doesn't pool
(`scheduling/embedding_queue.py` does), so each request can choose the pooling, and a long prompt is read in chunks.
llama.cpp computes only the scores of rerankers itself.
"""

import ctypes
from collections.abc import Sequence as Items
from typing import Any

import numpy as np

from anyserve_worker.core.errors import LoadError
from anyserve_worker.core.options import DEFAULT_MAX_CONTEXT, SHORT_PROMPT, ModelOptions
from anyserve_worker.llama.constants import FLASH_ATTENTION_TYPES
from anyserve_worker.llama.model import Model
from anyserve_worker.llama.native import library, llama
from anyserve_worker.llama.native_batch import NativeBatch
from anyserve_worker.scheduling.chunk import Chunk
from anyserve_worker.scheduling.embedding_queue import EmbeddingPart, Vector
from anyserve_worker.scheduling.sequence import Sequence, token_array


def embedding_params(options: ModelOptions, n_cells: int, n_batch: int, n_sequences: int, *, ranks: bool) -> Any:
    """Returns llama.cpp's parameters for a context that embeds or ranks."""
    params = llama.llama_context_default_params()
    params.n_ctx = n_cells
    params.n_batch = params.n_ubatch = n_batch
    params.n_seq_max = n_sequences
    params.embeddings = True
    params.pooling_type = llama.LLAMA_POOLING_TYPE_RANK if ranks else llama.LLAMA_POOLING_TYPE_NONE
    params.flash_attn_type = FLASH_ATTENTION_TYPES[options.flash_attention]
    params.kv_unified = True
    params.no_perf = True
    return params


class EmbeddingRunner:
    """Implements `embedding_queue.VectorRunner`. Only the attributes may be used outside the engine's thread."""

    def __init__(self, model: Model, options: ModelOptions, threads: int) -> None:
        """`threads` applies until a batch sets another number."""
        self._model = model
        self._options = options
        self.whole = not model.is_causal
        self.ranks = model.ranks
        self.pooling = model.pooling if options.pooling == "auto" else options.pooling
        n_positions = model.n_ctx_train or DEFAULT_MAX_CONTEXT
        self.n_ctx = min(options.n_ctx or DEFAULT_MAX_CONTEXT, n_positions)
        if model.is_causal and options.n_ctx:
            self.n_ctx = options.n_ctx  # Only encoders are limited to their position embeddings.
        # For each embedding, llama.cpp also computes the token's logits if the model has a head for them. So prompts
        # are read in chunks where possible, as small as those of prompts beside running streams.
        self.n_batch = options.n_batch if self.whole else min(options.n_batch, options.prefill_chunk)
        # Leaves room for short prompts beside a long one that is partly read.
        self.n_cells = max(self.n_ctx, self.n_batch) + (0 if self.whole else SHORT_PROMPT)
        self.n_sequences = min(options.parallel + options.kept_slots, llama.llama_max_parallel_sequences())
        self.n_embedding = int(llama.llama_model_n_embd_out(model.handle))
        self._width = llama.llama_model_n_cls_out(model.handle) if self.ranks else self.n_embedding
        self._threads = threads
        self._ctx: Any = None
        self._memory: Any = None

    def open(self) -> None:
        """Creates the context. Raises LoadError if it does not fit into memory."""
        n_batch = self.n_cells if self.whole else self.n_batch
        params = embedding_params(self._options, self.n_cells, n_batch, self.n_sequences, ranks=self.ranks)
        params.n_threads = params.n_threads_batch = self._threads
        ctx = llama.llama_init_from_model(self._model.handle, params)
        if not ctx:
            raise LoadError(
                f"can't create a context of {params.n_ctx} tokens for embeddings: "
                f"{library.last_error or 'out of memory?'}"
            )
        self._ctx = ctx
        self._memory = llama.llama_get_memory(ctx)
        self._rows = NativeBatch(params.n_batch)

    def warm_up(self) -> None:
        """Opens the context of a model that only embeds, so that the first request does not pay for page faults."""
        self.open()
        self._rows.clear()
        self._rows.add(token_array([0]), 0, 0, n_logits=1)
        if llama.llama_decode(self._ctx, self._rows.native()) != 0:
            raise LoadError(f"the model can't compute a token: {library.last_error}")
        self.clear()

    # ---- embedding_queue.VectorRunner

    def run(self, parts: list[EmbeddingPart], threads: int) -> list[Vector]:
        if self._ctx is None:
            try:
                self.open()
            except LoadError as error:
                raise RuntimeError(str(error)) from error
        if threads != self._threads:
            llama.llama_set_n_threads(self._ctx, threads, threads)
            self._threads = threads
        rows = self._rows
        rows.clear()
        for part in parts:
            rows.add(part.tokens, part.start, part.job.seq_id, n_logits=part.count)
        status = llama.llama_decode(self._ctx, rows.native())
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}: {library.last_error}")
        if self.ranks:
            return [self._vectors(llama.llama_get_embeddings_seq(self._ctx, part.job.seq_id), 1) for part in parts]
        vectors = self._vectors(llama.llama_get_embeddings(self._ctx), sum(part.count for part in parts))
        return np.split(vectors, np.cumsum([part.count for part in parts])[:-1])

    def _vectors(self, pointer: Any, n: int) -> Vector:
        """Returns a view of `n` rows of llama.cpp's memory."""
        address = ctypes.cast(pointer, ctypes.c_void_p).value
        if address is None:
            raise RuntimeError("llama.cpp returned no embedding for a sequence")
        kind = ctypes.c_float * (n * self._width)
        return np.frombuffer(memoryview(kind.from_address(address)), dtype=np.float32).reshape(n, self._width)

    def forget(self, seq_id: int) -> None:
        if self._memory:
            llama.llama_memory_seq_rm(self._memory, seq_id, -1, -1)

    def clear(self) -> None:
        if self._memory:
            llama.llama_memory_clear(self._memory, True)

    def free(self) -> None:
        if self._ctx is not None:
            llama.llama_free(self._ctx)
            self._ctx = self._memory = None


class NoGeneration:
    """The `TextRunner` of a model that does not generate. No step is ever scheduled on it."""

    n_batch = n_cells = n_sequences = n_score_rows = 1
    mixes = True
    interruptible = False
    prompt_lookup = 0

    def __init__(self, n_ctx: int) -> None:
        self.n_ctx = n_ctx

    def run(self, chunks: list[Chunk], threads: int) -> None:
        raise AssertionError("a model that does not generate was scheduled")

    def interrupt(self, value: bool) -> None:
        """Does nothing."""

    def sample(self, chunks: list[Chunk]) -> list[list[int]]:
        raise AssertionError("a model that does not generate was scheduled")

    def prepare(self, sequences: Items[Sequence]) -> None:
        raise AssertionError("a model that does not generate was scheduled")

    def usable_prefix(self, seq_id: int, length: int, n: int) -> int:
        return 0

    def copy(self, source: int, target: int, n: int) -> None:
        """Does nothing."""

    def truncate(self, seq_id: int, n: int) -> bool:
        return True

    def clear(self) -> None:
        """Does nothing."""

    def free(self) -> None:
        """Does nothing."""
