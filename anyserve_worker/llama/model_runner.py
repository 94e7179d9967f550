"""Computes steps on a model with a llama.cpp context, and manages its KV memory.

A runner is used on its engine's thread only.
"""

import logging
import platform
import secrets
from collections.abc import Sequence as Items
from typing import Any

from anyserve_worker.core.errors import Interrupted, LoadError, NoRoom, WorkerError
from anyserve_worker.core.options import DEFAULT_MAX_CONTEXT, ModelOptions
from anyserve_worker.llama.constants import CACHE_TYPES, DECODE_INTERRUPTED, DECODE_NO_ROOM, FLASH_ATTENTION_TYPES
from anyserve_worker.llama.interrupt_flag import InterruptFlag
from anyserve_worker.llama.model import Model
from anyserve_worker.llama.native import library, llama
from anyserve_worker.llama.native_batch import NativeBatch
from anyserve_worker.llama.sequence_sampler import LogitRows, new_sampler
from anyserve_worker.sampling.chain import SeenPrompt
from anyserve_worker.sampling.draw import Distribution, Scratch
from anyserve_worker.scheduling.chunk import Chunk
from anyserve_worker.scheduling.prompt_lookup import max_rows
from anyserve_worker.scheduling.sequence import Sequence, token_array

log = logging.getLogger(__name__)

MAX_SCORE_ROWS = 64
"""Maximum rows of a step whose logits are kept for a prompt's log probabilities."""


def context_params(options: ModelOptions, n_cells: int, n_sequences: int, n_outputs: int) -> Any:
    """Returns llama.cpp's parameters for a context that generates. `n_outputs`: maximum rows of a step with logits."""
    params = llama.llama_context_default_params()
    params.n_ctx = n_cells
    params.n_batch = options.n_batch
    params.n_ubatch = min(options.n_ubatch, options.n_batch)
    params.n_seq_max = n_sequences
    params.n_outputs_max = n_outputs
    params.flash_attn_type = FLASH_ATTENTION_TYPES[options.flash_attention]
    params.type_k = CACHE_TYPES[options.cache_type_k]
    params.type_v = CACHE_TYPES[options.cache_type_v]
    params.swa_full = options.swa_full
    params.kv_unified = True  # One pool: sequences share the cells of a common prefix.
    params.no_perf = True
    return params


class ModelRunner:
    """A context of `n_ctx` tokens per sequence. Implements `engine.text_steps.TextRunner`."""

    def __init__(self, model: Model, options: ModelOptions, threads: int) -> None:
        """`threads` applies until a step sets another number. Raises LoadError if the memory is too small."""
        self.model = model
        self.n_ctx = options.n_ctx or min(model.n_ctx_train or DEFAULT_MAX_CONTEXT, DEFAULT_MAX_CONTEXT)
        if self.n_ctx > model.n_ctx_train:
            log.warning("n_ctx %d is longer than the %d that the model was trained with", self.n_ctx, model.n_ctx_train)
        self.n_batch = options.n_batch
        self.n_score_rows = min(MAX_SCORE_ROWS, options.n_batch)
        self.mixes = llama.llama_supports_gpu_offload() or self._attends_by_rows(options)
        n_running = options.parallel + options.kept_slots
        self.n_sequences = min(n_running + options.cached_sequences, llama.llama_max_parallel_sequences())
        self.prompt_lookup = self._prompt_lookup(options)
        # Room for the logits of one token per sequence and of drafts, not of the whole batch. llama.cpp requires at
        # least one output per sequence.
        n_outputs = max(self.n_sequences, max_rows(self.prompt_lookup) if self.prompt_lookup else 0)
        params = context_params(options, options.n_cells(self.n_ctx), self.n_sequences, n_outputs + self.n_score_rows)
        params.n_threads = params.n_threads_batch = threads
        self._ctx = llama.llama_init_from_model(model.handle, params)
        if not self._ctx:
            raise LoadError(f"can't create a context of {params.n_ctx} cells: {library.last_error or 'out of memory?'}")
        self.n_cells = llama.llama_n_ctx(self._ctx)
        self._memory = llama.llama_get_memory(self._ctx)
        if not self._memory:
            raise LoadError("the model has no memory to generate from")
        self.interruptible = not llama.llama_supports_gpu_offload() and self._truncates(options)
        self._interrupt = InterruptFlag(self._ctx) if self.interruptible else None
        self._threads = threads
        self._scratch = Scratch(model.vocabulary.n_vocab)
        self._batch = NativeBatch(self.n_batch)
        self._rows = LogitRows(self._ctx, model.vocabulary.n_vocab)

    @staticmethod
    def _attends_by_rows(options: ModelOptions) -> bool:
        """Returns whether the CPU uses our attention (native/kernels), whose cost depends on the cells that each row
        sees.

        llama.cpp's own attention computes tiles of 64 rows against every cell that any of them sees. A prompt that
        shares a step with other sequences would be computed against the cells of all.
        """
        return platform.machine() in ("x86_64", "AMD64") and options.cache_type_k == options.cache_type_v == "f16"

    def _truncates(self, options: ModelOptions) -> bool:
        """Returns whether the memory can always be truncated to fewer tokens."""
        return not self.model.is_recurrent and (self.model.n_swa <= 0 or options.swa_full)

    def _prompt_lookup(self, options: ModelOptions) -> int:
        """Returns the maximum tokens of a draft; 0 if the memory can't be truncated and so can't drop a rejected draft.

        This isn't a LoadError, since one worker serves several models with the same options, and the answers are equal.
        """
        if options.prompt_lookup and not self._truncates(options):
            log.warning("prompt lookup is off for this model: its memory can't be truncated to fewer tokens")
            return 0
        return options.prompt_lookup

    def warm_up(self) -> None:
        """Computes one token, so that the first request does not pay for page faults and allocations."""
        self._batch.clear()
        self._batch.add(token_array([0]), 0, 0, n_logits=1)
        if llama.llama_decode(self._ctx, self._batch.native()) != 0:
            raise LoadError(f"the model can't compute a token: {library.last_error}")
        llama.llama_memory_clear(self._memory, True)

    # ---- A step

    def run(self, chunks: list[Chunk], threads: int) -> None:
        """Computes the chunks, at most `n_batch` tokens. Raises NoRoom or Interrupted, or RuntimeError if the model
        fails."""
        if threads != self._threads:
            llama.llama_set_n_threads(self._ctx, threads, threads)
            self._threads = threads
        batch = self._batch
        batch.clear()
        for chunk in chunks:
            batch.add(chunk.tokens, chunk.start, chunk.sequence.seq_id, chunk.n_logits)
        status = llama.llama_decode(self._ctx, batch.native())
        if status == DECODE_NO_ROOM:
            raise NoRoom
        if status == DECODE_INTERRUPTED:
            raise Interrupted
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}: {library.last_error}")

    def interrupt(self, value: bool) -> None:
        """Makes `run` raise Interrupted, now and later, until `value` is False. May be called from any thread."""
        if self._interrupt:
            self._interrupt.set(value)

    def sample(self, chunks: list[Chunk]) -> list[list[int]]:
        """Returns the next tokens of each chunk that reached its sequence's end in `run`; none for the others.

        A sequence that can't continue gets an `error` and a meaningless token.
        """
        sampled, row = [], 0
        for chunk in chunks:
            if chunk.scores:
                self._score(chunk, row)
            sampled.append(self._sample(chunk, row + chunk.count - 1) if chunk.samples else [])
            row += chunk.n_rows
        return sampled

    def _sample(self, chunk: Chunk, row: int) -> list[int]:
        """Returns one token, and one more for each token of the draft that was sampled: its row's logits are valid."""
        sequence = chunk.sequence
        if sequence.sampler is None:
            self.prepare([sequence])
        assert sequence.sampler is not None
        try:
            tokens = [sequence.sampler.sample(row)]
            for drafted in chunk.draft:
                if tokens[-1] != drafted or sequence.guide_ended:
                    break
                row += 1
                tokens.append(sequence.sampler.sample(row))
        except WorkerError as error:
            sequence.error = error
            return [0]
        return tokens

    def _score(self, chunk: Chunk, row: int) -> None:
        """Records the prompt's log probabilities: each row scores the token after it."""
        sequence = chunk.sequence
        assert sequence.sampling.logprobs is not None
        for position in range(chunk.start, min(chunk.start + chunk.count, sequence.n_prompt - 1)):
            if position + 1 == sequence.n_scored:
                distribution = Distribution(self._rows[row + position - chunk.start], sequence.sampling.logprobs)
                sequence.scored.append(distribution.score(sequence.tokens[position + 1]))
                sequence.n_scored += 1

    def prepare(self, sequences: Items[Sequence]) -> None:
        """Creates the samplers of a prompt's choices, which otherwise happens at their first use.

        May be called from any thread before the sequences run.
        """
        first = sequences[0]
        seen = SeenPrompt(first.sampling, first.tokens[: first.n_prompt], self.n_ctx, self.model.vocabulary.breakers)
        for sequence in sequences:
            sequence.sampler = new_sampler(
                sequence,
                _seed(sequence.sampling.seed, sequence.index),
                seen,
                rows=self._rows,
                end_tokens=self.model.vocabulary.end_tokens,
                written=self.model.vocabulary.written,
                scratch=self._scratch,
            )

    # ---- kv_cache.Memory

    def usable_prefix(self, seq_id: int, length: int, n: int) -> int:
        if self.model.is_recurrent:
            return n if n == length else 0
        if self.model.n_swa > 0:
            # Cells outside the window are reused: those that the next token attends to must still exist.
            oldest = llama.llama_memory_seq_pos_min(self._memory, seq_id)
            return n if oldest <= max(0, n - self.model.n_swa) else 0
        return n

    def copy(self, source: int, target: int, n: int) -> None:
        llama.llama_memory_seq_cp(self._memory, source, target, 0, n)

    def truncate(self, seq_id: int, n: int) -> bool:
        if n > 0 and llama.llama_memory_seq_pos_max(self._memory, seq_id) < n:
            return True
        if n > 0 and llama.llama_memory_seq_rm(self._memory, seq_id, n, -1):
            return True
        llama.llama_memory_seq_rm(self._memory, seq_id, -1, -1)
        return n == 0

    def clear(self) -> None:
        llama.llama_memory_clear(self._memory, True)

    def free(self) -> None:
        llama.llama_free(self._ctx)
        if self._interrupt:
            self._interrupt.free()


def _seed(seed: int | None, index: int) -> int:
    """Returns the seed of one choice, of 32 bits."""
    return secrets.randbits(32) if seed is None else (seed + index) % 2**32
