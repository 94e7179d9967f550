"""Prompts to tokens, without holding up the event loop, and within the context."""

import asyncio
from array import array
from collections.abc import Sequence as Items
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from anyserve_worker.errors import ContextLengthExceeded, Draining
from anyserve_worker.sequence import token_array
from protos import contract

INLINE_TOKENIZE = 4096
"""Characters. Tokenizing a longer prompt takes milliseconds and is done off the event loop."""
TOKENIZER_THREADS = 4
"""So many long prompts are tokenized at the same time."""


class Vocabulary(Protocol):
    """What the engine asks of `model_runner.Model`. Safe from any thread."""

    def tokenize(self, prompt: str) -> "array[int]": ...
    def check_tokens(self, token_ids: "array[int]") -> None: ...
    def piece(self, token: int) -> bytes: ...
    def is_end(self, token: int) -> bool: ...


class Tokenizer:
    def __init__(self, vocabulary: Vocabulary, n_ctx: int) -> None:
        self._vocabulary = vocabulary
        self._n_ctx = n_ctx
        self._closing = False
        self._threads = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tokenizer")

    async def tokens(self, prompt: str | Items[int]) -> "array[int]":
        """Of a text, or token ids as they are. Raises ContextLengthExceeded, InvalidRequest, or Draining."""
        if not isinstance(prompt, str):
            tokens = token_array(prompt)
            self._vocabulary.check_tokens(tokens)
        elif len(prompt) <= INLINE_TOKENIZE:
            tokens = self._vocabulary.tokenize(prompt)
        else:
            self._refuse_if_closing()
            tokens = await asyncio.get_running_loop().run_in_executor(self._threads, self._tokenize, prompt)
        if len(tokens) >= self._n_ctx:
            raise self._too_long(prompt, str(len(tokens)))
        return tokens

    async def close(self) -> None:
        """The vocabulary may be freed afterwards: a caller may be gone while its thread still reads it."""
        self._closing = True
        await asyncio.to_thread(self._threads.shutdown)

    def _refuse_if_closing(self) -> None:
        if self._closing:
            raise Draining("the worker is shutting down")

    def _tokenize(self, prompt: str) -> "array[int]":
        """Looks at a part first, then at a larger one: a prompt that is far too long is not tokenized to its end.

        llama.cpp takes a time that grows with the square of the special tokens: 40 s for 80,000, and cannot be stopped.
        """
        size = max(INLINE_TOKENIZE, 4 * self._n_ctx)
        while size < len(prompt):
            self._refuse_if_closing()
            n = len(self._vocabulary.tokenize(prompt[:size]))
            # Cut off, the part's last word may become more tokens than it is in the whole; not so many more.
            if n > 2 * self._n_ctx:
                raise self._too_long(prompt, f"more than {n // 2}")
            size *= 2
        self._refuse_if_closing()
        return self._vocabulary.tokenize(prompt)

    def _too_long(self, prompt: str | Items[int], n: str) -> ContextLengthExceeded:
        tensor = contract.PROMPT if isinstance(prompt, str) else contract.PROMPT_TOKEN_IDS
        return ContextLengthExceeded(
            f"tensor '{tensor.name}': {n} tokens, but the context of this model is {self._n_ctx} tokens, "
            "prompt and completion together",
            tensor=tensor.name,
        )
