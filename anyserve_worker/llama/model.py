"""A model: its weights and its vocabulary. The vocabulary's functions may be called from any thread."""

import ctypes
import os
import re
from array import array
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Items
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from anyserve_worker.core.errors import InvalidRequest, LoadError
from anyserve_worker.core.guide import Guide
from anyserve_worker.core.options import ModelOptions
from anyserve_worker.core.spans import Spans
from anyserve_worker.guides.matcher import Guides, Matcher
from anyserve_worker.llama.constants import LOAD_MODES
from anyserve_worker.llama.native import library, llama
from anyserve_worker.sampling.breakers import Breakers, Words
from anyserve_worker.scheduling.sequence import token_array
from anyserve_worker.text.special_text import Piece, SpecialTexts, SpecialToken
from protos import contract

_POOLINGS = {
    llama.LLAMA_POOLING_TYPE_MEAN: contract.POOLING_MEAN,
    llama.LLAMA_POOLING_TYPE_CLS: contract.POOLING_CLS,
    llama.LLAMA_POOLING_TYPE_LAST: contract.POOLING_LAST,
}
N_SPECIAL = 8
"""Room for the tokens that are added around a text."""
MAX_CACHED_BREAKERS = 16
"""Sets of DRY's sequence breakers that are kept, each with a byte for every token of the vocabulary."""


def metadata(handle: Any, key: str) -> str:
    """A scalar of a model's GGUF metadata as text; empty if absent."""
    length = llama.llama_model_meta_val_str(handle, key.encode(), ctypes.create_string_buffer(1), 1)
    if length < 0:
        return ""
    buffer = ctypes.create_string_buffer(length + 1)
    llama.llama_model_meta_val_str(handle, key.encode(), buffer, length + 1)
    return buffer.raw[:length].decode(errors="replace")


def attention(handle: Any) -> tuple[bool, int]:
    """Whether a model's attention is causal, and its `enum llama_pooling_type`. Raises ValueError for a bad number.

    Not causal is an encoder, whose tokens see those behind them: it can't go on with a text.
    """
    architecture = metadata(handle, "general.architecture")
    is_causal = metadata(handle, f"{architecture}.attention.causal") != "false"
    return is_causal, int(metadata(handle, f"{architecture}.pooling_type") or llama.LLAMA_POOLING_TYPE_NONE)


class Model:
    """A loaded GGUF file. Raises LoadError if it cannot be loaded, or can do none of our tasks."""

    def __init__(self, path: Path, options: ModelOptions, on_progress: Callable[[float], bool]) -> None:
        """`on_progress` gets the loaded fraction, 0 to 1, often; its False gives the loading up, with a LoadError."""
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
        self.vocab = llama.llama_model_get_vocab(handle)
        if llama.llama_model_has_encoder(handle) or llama.llama_model_is_diffusion(handle):
            raise LoadError(f"{path}: {self.metadata('general.architecture')} models are not supported")
        self.n_vocab = llama.llama_vocab_n_tokens(self.vocab)
        self.n_ctx_train = max(0, llama.llama_model_n_ctx_train(handle))
        self.n_swa = llama.llama_model_n_swa(handle)
        self.is_recurrent = llama.llama_model_is_recurrent(handle) or llama.llama_model_is_hybrid(handle)
        self.is_causal, self.pooling_type = attention(handle)
        self._bos = llama.llama_vocab_bos(self.vocab)
        self._adds_bos = llama.llama_vocab_get_add_bos(self.vocab)
        self._pieces: dict[int, bytes] = {}
        self._written = [self._render(token, special=True) for token in range(self.n_vocab)]
        self.special_texts = SpecialTexts(self._special_tokens())
        self._puts_space = self._written[next(iter(self.tokens_of("a", parse_special=False)), 0)].startswith(b" ")
        """In front of a text, and so behind each special token (SentencePiece)."""
        self.end_tokens = np.array([token for token in range(self.n_vocab) if self.is_end(token)], dtype=np.int64)
        self._guides = Guides(
            self._written,
            self._is_control,
            self.end_tokens.tolist(),
            self.tokens_of,
        )
        if contract.TASK_GENERATE in self.tasks:
            self._guides.start()
        self.breakers = lru_cache(MAX_CACHED_BREAKERS)(self._breakers)
        """DRY's, from their strings. Takes milliseconds, and tenths of a second the first time."""

    def _breakers(self, texts: tuple[str, ...]) -> Breakers:
        return Breakers(self._words, texts, partial(self._tokens_of, add_special=False, parse_special=False))

    @cached_property
    def _words(self) -> Words:
        """The tokens as llama.cpp looks for breakers in them: each alone in a text, which can cost it a space."""

        def alone(token: int) -> bytes:
            return self.text_of(token_array([token]))

        written = self._written
        after_space = next((token for token, word in enumerate(written) if re.match(rb" \w", word)), None)
        loses_first = after_space is not None and alone(after_space) != written[after_space]
        changes = re.compile(rb" [?!.,']|^ " if loses_first else rb" [?!.,']")
        return Words([alone(token) if changes.search(word) else word for token, word in enumerate(written)])

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
        return metadata(self.handle, key)

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

    def _special_tokens(self) -> Iterator[SpecialToken]:
        """All that llama.cpp reads in a text."""
        hidden = llama.LLAMA_TOKEN_ATTR_CONTROL | llama.LLAMA_TOKEN_ATTR_UNKNOWN
        for token in range(self.n_vocab):
            attributes = llama.llama_vocab_get_attr(self.vocab, token)
            if attributes & (hidden | llama.LLAMA_TOKEN_ATTR_USER_DEFINED):
                yield SpecialToken(
                    llama.llama_vocab_get_text(self.vocab, token).decode(errors="replace"),
                    user_defined=not attributes & hidden,
                    strips_left=bool(attributes & llama.LLAMA_TOKEN_ATTR_LSTRIP),
                    strips_right=bool(attributes & llama.LLAMA_TOKEN_ATTR_RSTRIP),
                )

    def tokenize(self, prompt: str, plain: Spans = ()) -> "array[int]":
        """Raises InvalidRequest if nothing remains to start from.

        Special tokens are recognised outside of the plain spans. BOS comes first if the model wants one, and once, also
        if the text has it.
        """
        tokens = self.tokens_of(prompt, plain=plain)
        if self._bos >= 0 and (self._adds_bos or not tokens) and (not tokens or tokens[0] != self._bos):
            tokens.insert(0, self._bos)
        if not tokens:
            raise InvalidRequest(
                f"tensor '{contract.PROMPT.name}': empty, and the model has no BOS to start from",
                tensor=contract.PROMPT.name,
            )
        return tokens

    def tokens_of(
        self, text: str, *, add_special: bool = False, parse_special: bool = True, plain: Spans = ()
    ) -> "array[int]":
        """`add_special`: with what the model wants around a text, BOS and EOS or their like.

        `parse_special`: special tokens are recognised, but not in the plain spans.
        """
        if not (plain and parse_special):
            return self._tokens(text, add_special=add_special, parse_special=parse_special)
        around = self._tokens("", add_special=add_special, parse_special=False)
        tokens = around[: 1 if self._adds_bos or len(around) > 1 else 0]
        end = around[len(tokens) :]
        for piece in self.special_texts.pieces(text, plain):
            tokens += self._continued(piece) if piece.continues else self._piece(piece)
        return tokens + end

    def _piece(self, piece: Piece) -> "array[int]":
        return self._tokens(piece.text, add_special=False, parse_special=piece.parse_special)

    def _continued(self, piece: Piece) -> "array[int]":
        """The tokens of what goes on in the middle of a text, without SentencePiece's space in front of it."""
        if not self._puts_space:
            return self._piece(piece)
        for before in "\n\t\1\2":  # one of them is a token that takes in nothing of what follows
            first = self._piece(replace(piece, text=before))
            tokens = self._piece(replace(piece, text=before + piece.text))
            rest = tokens[len(first) :]
            if tokens[: len(first)] == first and rest and piece.text.encode().startswith(self.written(rest[0])):
                return rest
        return self._piece(piece)

    def _tokens(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> "array[int]":
        return self._tokens_of(text.encode(), add_special=add_special, parse_special=parse_special)

    def _tokens_of(self, given: bytes, *, add_special: bool, parse_special: bool) -> "array[int]":
        tokens = token_array(bytes(4 * (len(given) + N_SPECIAL)))  # No token is empty: this is room for all.
        first = llama.llama_token.from_buffer(tokens)
        n = llama.llama_tokenize(
            self.vocab, given, len(given), ctypes.byref(first), len(tokens), add_special, parse_special
        )
        del first  # else the array can't be cut
        if n < 0:
            raise InvalidRequest(f"tensor '{contract.PROMPT.name}': cannot be tokenized", tensor=contract.PROMPT.name)
        del tokens[n:]
        return tokens

    def adds_bos(self, text: str, plain: Spans = ()) -> bool:
        """Whether `tokenize` puts a BOS in front of this text."""
        wanted = self._bos >= 0 and (self._adds_bos or not text)
        begins = text.startswith(self.bos_text) and not (plain and plain[0][0] < len(self.bos_text))
        return wanted and not begins

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

    def check_guide(self, guide: Guide) -> None:
        """Raises InvalidRequest for what need not be compiled to be refused."""
        self._guides.check(guide)

    def try_guide(self, guide: Guide, seconds: float) -> str:
        """As Guides does."""
        return self._guides.try_guide(guide, seconds)

    def compile(self, guide: Guide, translated: str) -> Matcher:
        """Raises InvalidRequest."""
        return self._guides.compile(guide, translated)

    def stop_compiling(self) -> None:
        """Ends each `try_guide` at once, with Draining."""
        self._guides.close()

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
            parts = re.split(f"({'|'.join(texts)})", template.decode(errors="replace"))
            text, fields = "", []
            for part in parts:
                if part in texts:
                    fields.append((len(text), len(text) + len(texts[part])))
                text += texts.get(part, part)
            return self.tokens_of(text, plain=self.special_texts.inside(text, fields, "".join(parts)))
        sep = llama.llama_vocab_sep(self.vocab)
        eos = llama.llama_vocab_eos(self.vocab)
        end = [eos if eos >= 0 else sep] if llama.llama_vocab_get_add_eos(self.vocab) else []
        return token_array(
            [
                *([self._bos] if self._adds_bos else []),
                *self._tokens_of_field(query),
                *end,
                *([sep] if llama.llama_vocab_get_add_sep(self.vocab) else []),
                *self._tokens_of_field(document),
                *end,
            ]
        )

    def _tokens_of_field(self, text: str) -> "array[int]":
        """Neither a control token is in them nor what stands around them."""
        markup = self.bos_text + self.eos_text + self._token_text(llama.llama_vocab_sep(self.vocab))
        plain = self.special_texts.inside(text, [(0, len(text))], markup)
        return self.tokens_of(text, parse_special=bool(plain), plain=plain)

    def check_tokens(self, token_ids: Items[int], tensor: str) -> None:
        """Raises InvalidRequest for an id outside of the vocabulary."""
        if isinstance(token_ids, array) and token_ids:
            worst = int(np.frombuffer(token_ids, np.int32).max())
        else:
            worst = max(token_ids, default=0)
        if worst >= self.n_vocab:
            raise InvalidRequest(
                f"tensor '{tensor}': no token {worst}, the vocabulary has {self.n_vocab}", tensor=tensor
            )

    def free(self) -> None:
        self._guides.close()
        llama.llama_model_free(self.handle)
