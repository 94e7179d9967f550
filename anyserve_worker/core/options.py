"""How a model is loaded and run. PURE.

`cli.py` gives each field an option of the command line, `llama/` hands it to llama.cpp.
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
"""Tokens of a prompt that counts as short: it never waits for a longer one to be read."""
DEFAULT_MAX_CONTEXT = 8192
"""Tokens. Default bound of the context where the model was trained with a longer one: KV cells are memory."""

KEPT_CELLS = 1024
"""KV cells that only short prompts may use, at most: some chats, or one of the longest short prompts and its answer."""
SLOTS_PER_KEPT = 8
"""Slots per additional slot that is kept for short prompts."""

MAX_DRAFT = 16
"""Tokens. Longer drafts are seldom right to their end."""


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """`python -m anyserve_worker --help` explains them; 0 is the default that suits the model or the machine."""

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

    @property
    def kept_slots(self) -> int:
        """Slots beyond `parallel` for short prompts. None where one sequence is computed at a time: then an answer
        would depend on others. None where a step has no row for it."""
        return min(max(1, self.parallel // SLOTS_PER_KEPT), self.n_batch - self.parallel) if self.parallel > 1 else 0

    def n_cells(self, n_ctx: int) -> int:
        """KV cells for all sequences. `n_ctx`: tokens of the longest one."""
        kept = min(KEPT_CELLS, n_ctx // 4) if self.kept_slots and n_ctx > SHORT_PROMPT else 0
        return max(self.kv_cells, n_ctx) if self.kv_cells else n_ctx + kept
