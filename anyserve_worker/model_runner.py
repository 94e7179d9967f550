"""The model: beside `samplers.py` and `embedding_runner.py` the only file that imports llama_cpp.

`Model` is the weights and the vocabulary, `ModelRunner` a context that computes steps on them. Nothing here is
concurrent: a runner belongs to its engine's thread. The vocabulary's functions may be called from any thread.
"""

import ctypes
import logging
import os
import platform
import re
import secrets
from array import array
from collections.abc import Callable
from collections.abc import Sequence as Items
from functools import partial
from pathlib import Path
from typing import Any

# A thread that waits for its siblings spins for this many rounds before it sleeps. libgomp's default is seconds when
# it sees as many processors as threads, which starves everybody as soon as one of them is taken away. Read at load.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import llama_cpp as llama
import numpy as np

from anyserve_worker.errors import InvalidRequest, NoRoom, WorkerError
from anyserve_worker.guide import Guides, Matcher
from anyserve_worker.options import DEFAULT_MAX_CONTEXT, ModelOptions
from anyserve_worker.prompt_lookup import max_rows
from anyserve_worker.request import Guide
from anyserve_worker.samplers import Dry, Rows, new_sampler
from anyserve_worker.sampling import Distribution, Scratch
from anyserve_worker.scheduler import Chunk
from anyserve_worker.sequence import Sequence, token_array
from protos import contract

log = logging.getLogger(__name__)

_CACHE_TYPES = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 6,
    "q5_1": 7,
    "q8_0": 8,
    "iq4_nl": 20,
    "bf16": 30,
}
"""`enum ggml_type`."""
FLASH_ATTENTION_TYPES = {"auto": -1, "off": 0, "on": 1}
"""`enum llama_flash_attn_type`."""
_LOAD_MODES = {(False, False): 0, (True, False): 1, (False, True): 2, (True, True): 3}
"""(mmap, mlock) to `enum llama_load_mode`."""


_POOLINGS = {
    llama.LLAMA_POOLING_TYPE_MEAN: contract.POOLING_MEAN,
    llama.LLAMA_POOLING_TYPE_CLS: contract.POOLING_CLS,
    llama.LLAMA_POOLING_TYPE_LAST: contract.POOLING_LAST,
}
N_SPECIAL = 8
"""Room for the tokens that are added around a text."""
MAX_SCORE_ROWS = 64
"""Rows of a step whose logits may be kept because a prompt's log probabilities are wanted."""


class LoadError(Exception):
    """The model file cannot be served; the message is one line."""


class Model:
    """A loaded GGUF file. Raises LoadError if it cannot be loaded, or can do none of our tasks."""

    def __init__(self, path: Path, options: ModelOptions, on_progress: Callable[[float], bool]) -> None:
        """`on_progress` gets the loaded fraction, 0 to 1, often; its False gives the loading up, with a LoadError."""
        if not path.is_file():
            raise LoadError(f"{path}: no such file")
        _native.start()
        params = llama.llama_model_default_params()
        params.n_gpu_layers = options.n_gpu_layers
        params.load_mode = _LOAD_MODES[options.mmap, options.mlock]

        def progress(fraction: float, _: ctypes.c_void_p) -> bool:
            return on_progress(fraction)

        params.progress_callback = llama.llama_progress_callback(progress)
        handle = llama.llama_model_load_from_file(os.fsencode(path), params)
        if not handle:
            raise LoadError(f"{path}: {_native.first_error or 'llama.cpp cannot load it'}")
        self.handle = handle
        self.vocab = llama.llama_model_get_vocab(handle)
        if llama.llama_model_has_encoder(handle) or llama.llama_model_is_diffusion(handle):
            raise LoadError(f"{path}: {self.metadata('general.architecture')} models are not supported")
        self.n_vocab = llama.llama_vocab_n_tokens(self.vocab)
        self.n_ctx_train = llama.llama_model_n_ctx_train(handle)
        self.n_swa = llama.llama_model_n_swa(handle)
        self.is_recurrent = llama.llama_model_is_recurrent(handle) or llama.llama_model_is_hybrid(handle)
        architecture = self.metadata("general.architecture")
        self.is_causal = self.metadata(f"{architecture}.attention.causal") != "false"
        """Not causal is an encoder, whose tokens see those behind them: it can't go on with a text."""
        self.pooling_type = int(self.metadata(f"{architecture}.pooling_type") or llama.LLAMA_POOLING_TYPE_NONE)
        self._bos = llama.llama_vocab_bos(self.vocab)
        self._adds_bos = llama.llama_vocab_get_add_bos(self.vocab)
        self._pieces: dict[int, bytes] = {}
        self._written = [self._render(token, special=True) for token in range(self.n_vocab)]
        self.end_tokens = np.array([token for token in range(self.n_vocab) if self.is_end(token)], dtype=np.int64)
        self._guides = Guides(
            self._written,
            self._is_control,
            self.end_tokens.tolist(),
            partial(self.tokens_of, add_special=False, parse_special=True),
        )

    @property
    def pooling(self) -> str:
        """How it makes one vector of all tokens; of one that generates and says nothing, the mean serves best."""
        return _POOLINGS.get(self.pooling_type, contract.POOLING_MEAN)

    @property
    def ranks(self) -> bool:
        return self.pooling_type == llama.LLAMA_POOLING_TYPE_RANK

    @property
    def tasks(self) -> tuple[str, ...]:
        """What it can do."""
        texts = (contract.TASK_TOKENIZE, contract.TASK_DETOKENIZE)
        if self.ranks:
            return (contract.TASK_RANK, *texts)
        return (*((contract.TASK_GENERATE,) if self.is_causal else ()), contract.TASK_EMBED, *texts)

    def metadata(self, key: str) -> str:
        """A scalar of the GGUF metadata as text; empty if absent."""
        length = llama.llama_model_meta_val_str(self.handle, key.encode(), ctypes.create_string_buffer(1), 1)
        if length < 0:
            return ""
        buffer = ctypes.create_string_buffer(length + 1)
        llama.llama_model_meta_val_str(self.handle, key.encode(), buffer, length + 1)
        return buffer.raw[:length].decode(errors="replace")

    def chat_template(self, name: str = "") -> str:
        """The default one, or one of those that have a name; empty if absent."""
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
        """Of the weights, in bytes."""
        return int(llama.llama_model_size(self.handle))

    @property
    def bos_text(self) -> str:
        return self._token_text(self._bos)

    @property
    def eos_text(self) -> str:
        return self._token_text(llama.llama_vocab_eos(self.vocab))

    def _token_text(self, token: int) -> str:
        """As it is written in a prompt. `piece` is empty for these tokens, since they are not part of an answer."""
        return self.written(token).decode(errors="replace") if token >= 0 else ""

    def _is_control(self, token: int) -> bool:
        return bool(llama.llama_vocab_is_control(self.vocab, token))

    def is_end(self, token: int) -> bool:
        """Whether the model ends its answer with this token (end of sequence, of turn, …)."""
        return bool(llama.llama_vocab_is_eog(self.vocab, token))

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to the text; they may end inside a character."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._render(token, special=False)
        return piece

    def written(self, token: int) -> bytes:
        """The same with control tokens, as they are written in a prompt."""
        return self._written[token]

    def _render(self, token: int, *, special: bool) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = llama.llama_token_to_piece(self.vocab, token, buffer, size, 0, special)
            if length >= 0:
                return buffer.raw[:length]
            size = -length

    def tokenize(self, prompt: str) -> "array[int]":
        """Raises InvalidRequest if nothing remains to start from.

        Special tokens are recognised. BOS comes first if the model wants one, and once, also if the text has it.
        """
        tokens = self.tokens_of(prompt, add_special=False, parse_special=True)
        if self._bos >= 0 and (self._adds_bos or not tokens) and (not tokens or tokens[0] != self._bos):
            tokens.insert(0, self._bos)
        if not tokens:
            raise InvalidRequest(
                f"tensor '{contract.PROMPT.name}': empty, and the model has no BOS to start from",
                tensor=contract.PROMPT.name,
            )
        return tokens

    def tokens_of(self, text: str, *, add_special: bool, parse_special: bool) -> "array[int]":
        """`add_special`: with what the model wants around a text, BOS and EOS or their like."""
        given = text.encode()
        tokens = token_array(bytes(4 * (len(given) + N_SPECIAL)))  # No token is empty: this is room for all.
        view = (llama.llama_token * len(tokens)).from_buffer(tokens)
        n = llama.llama_tokenize(self.vocab, given, len(given), view, len(tokens), add_special, parse_special)
        del view
        if n < 0:
            raise InvalidRequest(f"tensor '{contract.PROMPT.name}': cannot be tokenized", tensor=contract.PROMPT.name)
        del tokens[n:]
        return tokens

    def adds_bos(self, text: str) -> bool:
        """Whether `tokenize` puts a BOS in front of this text."""
        wanted = self._bos >= 0 and (self._adds_bos or not text)
        return wanted and not text.encode().startswith(self.written(self._bos))

    def infill(self, prefix: "array[int]", suffix: "array[int]") -> "array[int]":
        """The tokens of a prompt to fill in between these. Raises InvalidRequest if the model was not trained for it.

        In the order prefix, suffix, middle, in which llama.cpp's server asks as well.
        """
        begin, middle, end = (
            marker(self.vocab)
            for marker in (llama.llama_vocab_fim_pre, llama.llama_vocab_fim_mid, llama.llama_vocab_fim_suf)
        )
        if min(begin, middle, end) < 0:
            name = contract.SUFFIX.name
            raise InvalidRequest(
                f"tensor '{name}': this model has no tokens for filling in the middle of a text", tensor=name
            )
        tokens = token_array([self._bos] if self._bos >= 0 and self._adds_bos else [])
        tokens.append(begin)
        tokens.extend(prefix)
        tokens.append(end)
        tokens.extend(suffix)
        tokens.append(middle)
        return tokens

    def compile(self, guide: Guide) -> Matcher:
        """Raises InvalidRequest."""
        return self._guides.compile(guide)

    def text_of(self, tokens: "array[int]") -> bytes:
        """Special tokens included, as they are written in a prompt."""
        if not tokens:
            return b""
        ids = (llama.llama_token * len(tokens)).from_buffer(tokens)
        size = 8 * len(tokens) + 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = llama.llama_detokenize(self.vocab, ids, len(tokens), buffer, size, False, True)
            if length >= 0:
                return buffer.raw[:length]
            size = -length

    def ranked_pair(self, query: str, document: str) -> "array[int]":
        """Tokens of both, put together as llama-server does: by the model's rerank template, or else its end tokens."""
        template = llama.llama_model_chat_template(self.handle, b"rerank")
        if template:
            texts = {"{query}": query, "{document}": document}
            text = re.sub("|".join(texts), lambda found: texts[found[0]], template.decode(errors="replace"))
            return self.tokens_of(text, add_special=False, parse_special=True)
        sep = llama.llama_vocab_sep(self.vocab)
        eos = llama.llama_vocab_eos(self.vocab)
        end = [eos if eos >= 0 else sep] if llama.llama_vocab_get_add_eos(self.vocab) else []
        return token_array(
            [
                *([self._bos] if self._adds_bos else []),
                *self.tokens_of(query, add_special=False, parse_special=False),
                *end,
                *([sep] if llama.llama_vocab_get_add_sep(self.vocab) else []),
                *self.tokens_of(document, add_special=False, parse_special=False),
                *end,
            ]
        )

    def check_tokens(self, token_ids: Items[int], tensor: str) -> None:
        """Raises InvalidRequest for an id outside of the vocabulary."""
        worst = max(token_ids, default=0)
        if worst >= self.n_vocab:
            raise InvalidRequest(
                f"tensor '{tensor}': no token {worst}, the vocabulary has {self.n_vocab}", tensor=tensor
            )

    def free(self) -> None:
        self._guides.close()
        llama.llama_model_free(self.handle)


class ModelRunner:
    """A context of `n_ctx` tokens a sequence, and the native side of a step. Implements kv_cache.Memory."""

    def __init__(self, model: Model, options: ModelOptions, threads: int) -> None:
        """`threads` until a step says otherwise. Raises LoadError if the context does not fit into memory."""
        self.model = model
        self.n_ctx = options.n_ctx or min(model.n_ctx_train or DEFAULT_MAX_CONTEXT, DEFAULT_MAX_CONTEXT)
        if self.n_ctx > model.n_ctx_train:
            log.warning("n_ctx %d is longer than the %d that the model was trained with", self.n_ctx, model.n_ctx_train)
        self.n_batch = options.n_batch
        self.n_score_rows = min(MAX_SCORE_ROWS, options.n_batch)
        self.mixes = llama.llama_supports_gpu_offload() or self._attends_by_rows(options)
        self.n_sequences = min(options.parallel + options.cached_sequences, llama.llama_max_parallel_sequences())
        params = llama.llama_context_default_params()
        params.n_ctx = max(options.kv_cells, self.n_ctx)
        params.n_batch = options.n_batch
        params.n_ubatch = min(options.n_ubatch, options.n_batch)
        params.n_seq_max = self.n_sequences
        self.prompt_lookup = self._prompt_lookup(options)
        # Logits of one token a sequence and of drafts, not of the whole batch: room is taken. llama.cpp wants at least
        # as many as there are sequences.
        params.n_outputs_max = max(self.n_sequences, max_rows(self.prompt_lookup) if self.prompt_lookup else 0)
        params.n_outputs_max += self.n_score_rows
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = FLASH_ATTENTION_TYPES[options.flash_attention]
        params.type_k = _CACHE_TYPES[options.cache_type_k]
        params.type_v = _CACHE_TYPES[options.cache_type_v]
        params.swa_full = options.swa_full
        params.kv_unified = True  # One pool: sequences share the cells of a common prefix.
        params.no_perf = True
        self._ctx = llama.llama_init_from_model(model.handle, params)
        if not self._ctx:
            raise LoadError(f"no context of {params.n_ctx} cells: {_native.last_error or 'out of memory?'}")
        self.n_cells = llama.llama_n_ctx(self._ctx)
        self._memory = llama.llama_get_memory(self._ctx)
        if not self._memory:
            raise LoadError("the model has no memory to generate from")
        self._threads = threads
        self._scratch = Scratch(model.n_vocab)
        self._batch = Batch(self.n_batch)
        self._rows = Rows(self._ctx, model.n_vocab)

    @staticmethod
    def _attends_by_rows(options: ModelOptions) -> bool:
        """Whether a CPU's attention is ours (scripts/llama/anyserve_attention.h), which costs what each row sees.

        llama.cpp's own goes by tiles of 64 rows, and passes over every cell that any of them sees: in one step with
        others, a prompt would be computed against the cells of all sequences.
        """
        return platform.machine() in ("x86_64", "AMD64") and options.cache_type_k == options.cache_type_v == "f16"

    def _prompt_lookup(self, options: ModelOptions) -> int:
        """Most tokens of a draft. 0 for a memory that cannot be cut: it could not forget a rejected draft.

        Not a LoadError: one worker serves several models with the same options, and answers are the same without.
        """
        if options.prompt_lookup and (self.model.is_recurrent or (self.model.n_swa > 0 and not options.swa_full)):
            log.warning("prompt lookup is off for this model: its memory cannot be cut back to fewer tokens")
            return 0
        return options.prompt_lookup

    def warm_up(self) -> None:
        """Computes one token, so that the first request does not pay for page faults and allocations."""
        self._batch.clear()
        self._batch.add(token_array([0]), 0, 0, n_logits=1)
        if llama.llama_decode(self._ctx, self._batch.native()) != 0:
            raise LoadError(f"the model computes nothing: {_native.last_error}")
        llama.llama_memory_clear(self._memory, True)

    # ---- A step

    def run(self, chunks: list[Chunk], threads: int) -> None:
        """Computes the chunks, at most `n_batch` tokens. Raises NoRoom, or RuntimeError if the model cannot go on."""
        if threads != self._threads:
            llama.llama_set_n_threads(self._ctx, threads, threads)
            self._threads = threads
        batch = self._batch
        batch.clear()
        for chunk in chunks:
            batch.add(chunk.tokens, chunk.start, chunk.sequence.seq_id, chunk.n_logits)
        status = llama.llama_decode(self._ctx, batch.native())
        if status == 1:
            raise NoRoom
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}: {_native.last_error}")

    def sample(self, chunks: list[Chunk]) -> list[list[int]]:
        """The next tokens of each chunk that reached its sequence's end, after `run`; of others none.

        A sequence that cannot go on gets an `error`, and a token that means nothing.
        """
        sampled, row = [], 0
        for chunk in chunks:
            if chunk.scores:
                self._score(chunk, row)
            sampled.append(self._sample(chunk, row + chunk.count - 1) if chunk.samples else [])
            row += chunk.n_rows
        return sampled

    def _sample(self, chunk: Chunk, row: int) -> list[int]:
        """One token, and one more for each of the draft that was sampled itself: its row's logits are true then."""
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
        """Takes down how likely the prompt's tokens were: each row tells of the token behind it."""
        sequence = chunk.sequence
        assert sequence.sampling.logprobs is not None
        for position in range(chunk.start, min(chunk.start + chunk.count, sequence.n_prompt - 1)):
            if position + 1 == sequence.n_scored:
                distribution = Distribution(self._rows[row + position - chunk.start], sequence.sampling.logprobs)
                sequence.scored.append(distribution.score(sequence.tokens[position + 1]))
                sequence.n_scored += 1

    def prepare(self, sequences: Items[Sequence]) -> None:
        """Makes the samplers of a prompt's choices, which are else made at their first use.

        From any thread, before the sequences are running.
        """
        dry = Dry.of(sequences[0], self.model.vocab, self.n_ctx)
        try:
            for sequence in sequences:
                sequence.sampler = new_sampler(
                    sequence,
                    _seed(sequence.sampling.seed, sequence.index),
                    dry,
                    ctx=self._ctx,
                    vocab=self.model.vocab,
                    rows=self._rows,
                    end_tokens=self.model.end_tokens,
                    scratch=self._scratch,
                    n_ctx=self.n_ctx,
                )
        finally:
            if dry:
                dry.free()

    # ---- kv_cache.Memory

    def usable_prefix(self, seq_id: int, length: int, n: int) -> int:
        if self.model.is_recurrent:
            return n if n == length else 0
        if self.model.n_swa > 0:
            # A window's cells are reused once they are out of it: those that the next token sees must still be there.
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


class Batch:
    """A llama_batch whose arrays are ours, made once and filled by slices; each row has one sequence."""

    def __init__(self, n_rows: int) -> None:
        self._token, self._pos, self._seq_id, self._logits = (
            array(code, bytes(array(code).itemsize * n_rows)) for code in "iiib"
        )
        n_seq_id = array("i", [1]) * n_rows
        first = self._seq_id.buffer_info()[0]
        seq_ids = (ctypes.POINTER(llama.llama_seq_id) * n_rows)(
            *(
                ctypes.cast(first + row * self._seq_id.itemsize, ctypes.POINTER(llama.llama_seq_id))
                for row in range(n_rows)
            )
        )
        self._kept = n_seq_id, seq_ids
        self._native = llama.llama_batch(
            token=_pointer(self._token, llama.llama_token),
            pos=_pointer(self._pos, llama.llama_pos),
            n_seq_id=_pointer(n_seq_id, ctypes.c_int32),
            seq_id=ctypes.cast(seq_ids, ctypes.POINTER(ctypes.POINTER(llama.llama_seq_id))),
            logits=_pointer(self._logits, ctypes.c_int8),
        )
        self.clear()

    def clear(self) -> None:
        self._n = 0

    def add(self, tokens: "array[int]", position: int, seq_id: int, n_logits: int) -> None:
        """Tokens of one sequence from `position` on, with the logits of the last `n_logits`."""
        start, end = self._n, self._n + len(tokens)
        self._token[start:end] = tokens
        if len(tokens) == 1:
            self._pos[start], self._seq_id[start], self._logits[start] = position, seq_id, n_logits
        else:
            self._pos[start:end] = array("i", range(position, position + len(tokens)))
            self._seq_id[start:end] = array("i", [seq_id]) * len(tokens)
            self._logits[start:end] = array("b", bytes(len(tokens) - n_logits) + b"\1" * n_logits)
        self._n = end

    def native(self) -> Any:
        self._native.n_tokens = self._n
        return self._native


def _pointer(values: "array[int]", kind: Any) -> Any:
    return ctypes.cast(values.buffer_info()[0], ctypes.POINTER(kind))


def _seed(seed: int | None, index: int) -> int:
    """32 bits. All ones would mean "random" to llama.cpp."""
    if seed is None:
        return secrets.randbelow(2**32 - 1)
    return (seed + index) % (2**32 - 1)


class _Native:
    """What the library needs once a process; its log goes to ours at debug level, its last error into our messages."""

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

    def _receive(self, level: int, text: bytes, _: ctypes.c_void_p) -> None:
        line = text.decode(errors="replace").strip()
        if line.strip("."):
            if level == 4:  # GGML_LOG_LEVEL_ERROR
                self.last_error = line
                self.first_error = self.first_error or line
            log.debug("%s", line)


_native = _Native()


def last_error() -> str:
    """What llama.cpp last complained about."""
    return _native.last_error
