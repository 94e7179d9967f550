"""A model's vocabulary: converts texts to tokens and back, and compiles guides and breakers for its tokens.

Thread-safe.
"""

import ctypes
import re
from array import array
from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np

from anyserve_worker.core.errors import InvalidRequest
from anyserve_worker.core.guide import Guide
from anyserve_worker.core.spans import Spans
from anyserve_worker.guides.matcher import Matcher, VocabularyGuides
from anyserve_worker.llama.native import llama
from anyserve_worker.sampling.breakers import Breakers, Words
from anyserve_worker.scheduling.sequence import token_array
from anyserve_worker.text.special_text import Piece, SpecialTexts, SpecialToken
from protos import contract

N_SPECIAL = 8
"""Maximum tokens that are added around a text."""
MAX_CACHED_BREAKERS = 16
"""Sets of DRY's sequence breakers to keep. Each takes a byte per token of the vocabulary."""


class Vocabulary:
    """Implements `engine.tokenizer.Vocabulary`."""

    def __init__(self, model: Any) -> None:
        """`model`: llama.cpp's handle of a loaded model, which must outlive this."""
        self._model = model
        self.handle = llama.llama_model_get_vocab(model)
        self.n_vocab = llama.llama_vocab_n_tokens(self.handle)
        self._bos = llama.llama_vocab_bos(self.handle)
        self._adds_bos = llama.llama_vocab_get_add_bos(self.handle)
        self._pieces: dict[int, bytes] = {}
        self._written = [self._render(token, special=True) for token in range(self.n_vocab)]
        self.special_texts = SpecialTexts(self._special_tokens())
        self._puts_space = self._written[next(iter(self.tokens_of("a", parse_special=False)), 0)].startswith(b" ")
        """Whether SentencePiece puts a space before a text, and so after each special token."""
        self.end_tokens = np.array([token for token in range(self.n_vocab) if self.is_end(token)], dtype=np.int64)
        # A control token in a guide has its own syntax, so text that looks like one is text.
        tokenize = partial(self.tokens_of, parse_special=False)
        self._guides = VocabularyGuides(self._written, self._is_control, self.end_tokens.tolist(), tokenize)
        self.breakers = lru_cache(MAX_CACHED_BREAKERS)(self._breakers)
        """Compiles DRY's sequence breakers from their strings: milliseconds, and tenths of a second the first time."""

    def _breakers(self, texts: tuple[str, ...]) -> Breakers:
        return Breakers(self._words, texts, partial(self._tokens_of, add_special=False, parse_special=False))

    @cached_property
    def _words(self) -> Words:
        """The tokens' texts in which llama.cpp searches for breakers: each token alone, which may lose its space."""

        def alone(token: int) -> bytes:
            return self.text_of(token_array([token]))

        written = self._written
        after_space = next((token for token, word in enumerate(written) if re.match(rb" \w", word)), None)
        loses_first = after_space is not None and alone(after_space) != written[after_space]
        changes = re.compile(rb" [?!.,']|^ " if loses_first else rb" [?!.,']")
        return Words([alone(token) if changes.search(word) else word for token, word in enumerate(written)])

    @property
    def bos_text(self) -> str:
        return self._token_text(self._bos)

    @property
    def pad_text(self) -> str:
        return self._token_text(llama.llama_vocab_pad(self.handle))

    @property
    def adds_bos_token(self) -> bool:
        """Whether `tokenize` adds the BOS to a prompt that doesn't begin with it."""
        return bool(self._adds_bos) and self._bos >= 0

    @property
    def eos_text(self) -> str:
        return self._token_text(llama.llama_vocab_eos(self.handle))

    def _token_text(self, token: int) -> str:
        """Returns the token as a prompt has it; empty for NO_TOKEN. (`piece` is empty for all control tokens.)"""
        return self.written(token).decode(errors="replace") if token >= 0 else ""

    def _is_control(self, token: int) -> bool:
        return bool(llama.llama_vocab_is_control(self.handle, token))

    def is_end(self, token: int) -> bool:
        """Returns whether the model ends its answer with this token (end of sequence, end of turn, …)."""
        return bool(llama.llama_vocab_is_eog(self.handle, token))

    def piece(self, token: int) -> bytes:
        """Returns the bytes that a token adds to an answer's text. They may end inside a character."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._render(token, special=False)
        return piece

    def written(self, token: int) -> bytes:
        """Returns the bytes of any token, control tokens included, as a prompt has them."""
        return self._written[token]

    def _render(self, token: int, *, special: bool) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = llama.llama_token_to_piece(self.handle, token, buffer, size, 0, special)
            if length >= 0:
                return buffer.raw[:length]
            size = -length

    def _special_tokens(self) -> Iterator[SpecialToken]:
        """Yields all tokens that llama.cpp recognizes in a text."""
        hidden = llama.LLAMA_TOKEN_ATTR_CONTROL | llama.LLAMA_TOKEN_ATTR_UNKNOWN
        for token in range(self.n_vocab):
            attributes = llama.llama_vocab_get_attr(self.handle, token)
            if attributes & (hidden | llama.LLAMA_TOKEN_ATTR_USER_DEFINED):
                yield SpecialToken(
                    llama.llama_vocab_get_text(self.handle, token).decode(errors="replace"),
                    user_defined=not attributes & hidden,
                    strips_left=bool(attributes & llama.LLAMA_TOKEN_ATTR_LSTRIP),
                    strips_right=bool(attributes & llama.LLAMA_TOKEN_ATTR_RSTRIP),
                )

    def tokenize(self, prompt: str, plain: Spans = ()) -> "array[int]":
        """Returns the prompt's tokens. Special tokens are recognized outside the plain spans.

        BOS comes first if the model needs it, and only once, even if the text has it too. Raises InvalidRequest if
        there are no tokens.
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
        """Returns the text's tokens. `add_special` adds the model's begin and end tokens around them.

        `parse_special` recognizes special tokens, except in the plain spans.
        """
        if not (plain and parse_special):
            return self._tokens(text, add_special=add_special, parse_special=parse_special)
        around = self._tokens("", add_special=add_special, parse_special=False)
        tokens = around[: 1 if self._adds_bos or len(around) > 1 else 0]
        end = around[len(tokens) :]
        for piece in self.special_texts.pieces(text, plain):
            tokens += self._continued(piece) if piece.continues else self._piece(piece)
        return tokens + end

    def continuation(self, text: str) -> "array[int]":
        """Returns the tokens of a text that continues another one. Special tokens are recognized."""
        return self._continued(Piece(text, parse_special=True))

    def _piece(self, piece: Piece) -> "array[int]":
        return self._tokens(piece.text, add_special=False, parse_special=piece.parse_special)

    def _continued(self, piece: Piece) -> "array[int]":
        """Returns the tokens of a piece in the middle of a text, without SentencePiece's space before it."""
        if not self._puts_space:
            return self._piece(piece)
        for before in "\n\t\1\2":  # One of them doesn't merge with the text after it.
            first = self._piece(replace(piece, text=before))
            tokens = self._piece(replace(piece, text=before + piece.text))
            rest = tokens[len(first) :]
            if tokens[: len(first)] == first and rest and piece.text.encode().startswith(self.written(rest[0])):
                return rest
        return self._piece(piece)

    def _tokens(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> "array[int]":
        return self._tokens_of(text.encode(), add_special=add_special, parse_special=parse_special)

    def _tokens_of(self, text: bytes, *, add_special: bool, parse_special: bool) -> "array[int]":
        tokens = token_array(bytes(4 * (len(text) + N_SPECIAL)))  # Enough, since no token is empty.
        first = llama.llama_token.from_buffer(tokens)
        n = llama.llama_tokenize(
            self.handle, text, len(text), ctypes.byref(first), len(tokens), add_special, parse_special
        )
        del first  # Otherwise the array can't be truncated.
        if n < 0:
            raise InvalidRequest(f"tensor '{contract.PROMPT.name}': cannot be tokenized", tensor=contract.PROMPT.name)
        del tokens[n:]
        return tokens

    def adds_bos(self, text: str, plain: Spans = ()) -> bool:
        """Returns whether `tokenize` adds a BOS before this text."""
        needs_bos = self._bos >= 0 and (self._adds_bos or not text)
        has_bos = text.startswith(self.bos_text) and not (plain and plain[0][0] < len(self.bos_text))
        return needs_bos and not has_bos

    def infill(self, prefix: "array[int]", suffix: "array[int]") -> "array[int]":
        """Returns the tokens of a prompt for filling in between `prefix` and `suffix`.

        They are in the order prefix, suffix, middle, as in llama.cpp's server. Raises InvalidRequest if the model was
        not trained for it.
        """
        begin, middle, end = (
            marker(self.handle)
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

    def start_guides(self) -> None:
        """Starts the trial server, so that the first guide does not wait for it."""
        self._guides.start()

    def check_guide(self, guide: Guide) -> None:
        """Raises InvalidRequest for a guide that can be refused without compiling it."""
        self._guides.check(guide)

    def try_guide(self, guide: Guide, seconds: float) -> str:
        """Implements `guides.compiler.GuideVocabulary`."""
        return self._guides.try_guide(guide, seconds)

    def compile(self, guide: Guide, translated: str) -> Matcher:
        """Raises InvalidRequest."""
        return self._guides.compile(guide, translated)

    def stop_compiling(self) -> None:
        """Makes each running `try_guide` raise Draining at once."""
        self._guides.close()

    def text_of(self, tokens: "array[int]") -> bytes:
        """Returns the tokens' text, with special tokens as a prompt has them."""
        if not tokens:
            return b""
        ids = (llama.llama_token * len(tokens)).from_buffer(tokens)
        size = 8 * len(tokens) + 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = llama.llama_detokenize(self.handle, ids, len(tokens), buffer, size, False, True)
            if length >= 0:
                return buffer.raw[:length]
            size = -length

    def ranked_pair(self, query: str, document: str) -> "array[int]":
        """Returns the tokens of both, joined as in llama-server: by the model's rerank template or its end tokens."""
        template = llama.llama_model_chat_template(self._model, b"rerank")
        if template:
            texts = {"{query}": query, "{document}": document}
            parts = re.split(f"({'|'.join(texts)})", template.decode(errors="replace"))
            text, fields = "", []
            for part in parts:
                if part in texts:
                    fields.append((len(text), len(text) + len(texts[part])))
                text += texts.get(part, part)
            return self.tokens_of(text, plain=self.special_texts.inside(text, fields, "".join(parts)))
        sep = llama.llama_vocab_sep(self.handle)
        eos = llama.llama_vocab_eos(self.handle)
        end = [eos if eos >= 0 else sep] if llama.llama_vocab_get_add_eos(self.handle) else []
        return token_array(
            [
                *([self._bos] if self._adds_bos else []),
                *self._tokens_of_field(query),
                *end,
                *([sep] if llama.llama_vocab_get_add_sep(self.handle) else []),
                *self._tokens_of_field(document),
                *end,
            ]
        )

    def _tokens_of_field(self, text: str) -> "array[int]":
        """Returns the tokens of a text without control tokens, in it or around it."""
        markup = self.bos_text + self.eos_text + self._token_text(llama.llama_vocab_sep(self.handle))
        plain = self.special_texts.inside(text, [(0, len(text))], markup)
        return self.tokens_of(text, parse_special=bool(plain), plain=plain)

    def check_tokens(self, token_ids: Items[int], tensor: str) -> None:
        """Raises InvalidRequest for an id outside the vocabulary."""
        if isinstance(token_ids, array) and token_ids:
            highest = int(np.frombuffer(token_ids, np.int32).max())
        else:
            highest = max(token_ids, default=0)
        if highest >= self.n_vocab:
            raise InvalidRequest(
                f"tensor '{tensor}': no token {highest}, the vocabulary has {self.n_vocab}", tensor=tensor
            )
