"""Options of how a model is loaded and run. PURE.

`cli.py` defines a command-line option for each field; `llama/` passes them to llama.cpp.
"""

from dataclasses import dataclass
from typing import Literal, get_args

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
FlashAttention = Literal["auto", "on", "off"]
Pooling = Literal["auto", "mean", "cls", "last"]
CACHE_TYPES: tuple[str, ...] = get_args(CacheType)
FLASH_ATTENTION: tuple[str, ...] = get_args(FlashAttention)
POOLINGS: tuple[str, ...] = get_args(Pooling)

SHORT_PROMPT = 512
"""Maximum tokens of a short prompt. A short prompt never waits for a longer one to be computed."""
DEFAULT_MAX_CONTEXT = 8192
"""Tokens. Default limit of the context, also if the model was trained with a longer one: KV cells take memory."""

MAX_RESERVED_CELLS = 1024
"""Maximum KV cells reserved for short prompts: enough for a few chats, or the longest short prompt and its answer."""
SLOTS_PER_RESERVED_SLOT = 8
"""Slots per additional slot that is reserved for short prompts."""

MAX_DRAFT = 16
"""Tokens. The last tokens of a longer draft are rarely accepted."""


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """`python -m anyserve_worker --help` explains each field. 0 means a default that suits the model or the machine."""

    n_ctx: int = 0
    kv_cells: int = 0
    n_batch: int = 512
    n_ubatch: int = 512
    prefill_chunk: int = 128
    parallel: int = 16
    cached_sequences: int = 16
    prefix_cache: bool = True
    max_queue: int = 256
    threads: int = 0
    threads_batch: int = 0
    n_gpu_layers: int = -1
    flash_attention: FlashAttention = "auto"
    cache_type_k: CacheType = "f16"
    cache_type_v: CacheType = "f16"
    mmap: bool = True
    mlock: bool = False
    swa_full: bool = True
    prompt_lookup: int = 0
    pooling: Pooling = "auto"
    background_share: float = 0.05

    @property
    def kept_slots(self) -> int:
        """Number of slots beyond `parallel` that are reserved for short prompts.

        0 if one sequence is computed at a time (another one would affect its result), or if a step has no row for it.
        """
        return (
            min(max(1, self.parallel // SLOTS_PER_RESERVED_SLOT), self.n_batch - self.parallel)
            if self.parallel > 1
            else 0
        )

    def n_cells(self, n_ctx: int) -> int:
        """Returns the number of KV cells for all sequences. `n_ctx`: maximum tokens of one sequence."""
        kept = min(MAX_RESERVED_CELLS, n_ctx // 4) if self.kept_slots and n_ctx > SHORT_PROMPT else 0
        return max(self.kv_cells, n_ctx) if self.kv_cells else n_ctx + kept
