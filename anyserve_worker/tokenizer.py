"""Prompts to tokens, without holding up the event loop, and within the context."""

import asyncio
from array import array
from collections.abc import Callable
from collections.abc import Sequence as Items
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from anyserve_worker import sequence
from anyserve_worker.errors import ContextLengthExceeded, Draining
from anyserve_worker.request import Guide
from anyserve_worker.sequence import token_array
from protos import contract
from protos.contract import TensorSpec

T = TypeVar("T")

INLINE_TOKENIZE = 4096
"""Characters. Tokenizing a longer prompt takes milliseconds and is done off the event loop."""
TOKENIZER_THREADS = 4
"""So many long prompts are tokenized at the same time."""


class Compiled(sequence.Guide, Protocol):
    def copy(self) -> sequence.Guide:
        """For another choice, from where this one is."""


class Vocabulary(Protocol):
    """What the engine asks of `model_runner.Model`. Safe from any thread."""

    def tokenize(self, prompt: str) -> "array[int]": ...
    def text_tokens(self, text: str) -> "array[int]": ...
    def infill(self, prefix: "array[int]", suffix: "array[int]") -> "array[int]": ...
    def adds_bos(self, text: str) -> bool: ...
    def check_tokens(self, token_ids: Items[int], tensor: str) -> None: ...
    def compile(self, guide: Guide) -> Compiled: ...
    def piece(self, token: int) -> bytes: ...
    def written(self, token: int) -> bytes: ...
    def is_end(self, token: int) -> bool: ...


class Tokenizer:
    def __init__(self, vocabulary: Vocabulary, n_ctx: int) -> None:
        self._vocabulary = vocabulary
        self._n_ctx = n_ctx
        self._closing = False
        self._threads = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tokenizer")
        self._slow_thread = ThreadPoolExecutor(1, thread_name_prefix="guides")

    async def tokens(self, prompt: str | Items[int], suffix: str | None = None) -> "array[int]":
        """Of a text, of one to fill in before `suffix`, or token ids as they are.

        Raises ContextLengthExceeded, InvalidRequest, or Draining.
        """
        if not isinstance(prompt, str):
            tokens = token_array(prompt)
            self._vocabulary.check_tokens(tokens, contract.PROMPT_TOKEN_IDS.name)
        elif suffix is not None:
            tokens = await self._off_loop(self._infill, prompt, suffix)
        elif len(prompt) <= INLINE_TOKENIZE:
            tokens = self._vocabulary.tokenize(prompt)
        else:
            tokens = await self._off_loop(self._tokenize, self._vocabulary.tokenize, prompt, contract.PROMPT)
        if len(tokens) >= self._n_ctx:
            spec = contract.PROMPT if isinstance(prompt, str) else contract.PROMPT_TOKEN_IDS
            raise self._too_long(spec, str(len(tokens)))
        return tokens

    def start(self, work: Callable[..., T], *args: Any) -> Future[T]:
        """Work that a bad request can make last a second or two: one such at a time, and no prompt waits for it.

        Raises Draining, now or in its stead.
        """

        def unless_closing() -> T:
            self._refuse_if_closing()
            return work(*args)

        self._refuse_if_closing()
        return self._slow_thread.submit(unless_closing)

    async def close(self) -> None:
        """The vocabulary may be freed afterwards: a caller may be gone while its thread still reads it."""
        self._closing = True
        for threads in (self._threads, self._slow_thread):
            await asyncio.to_thread(threads.shutdown)

    async def _off_loop(self, work: Callable[..., T], *args: Any) -> T:
        self._refuse_if_closing()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)

    def _refuse_if_closing(self) -> None:
        if self._closing:
            raise Draining("the worker is shutting down")

    def _infill(self, prefix: str, suffix: str) -> "array[int]":
        parts = []
        for text, spec in ((prefix, contract.PROMPT), (suffix, contract.SUFFIX)):
            parts.append(self._tokenize(self._vocabulary.text_tokens, text, spec))
            if len(parts[-1]) >= self._n_ctx:
                raise self._too_long(spec, str(len(parts[-1])))
        return self._vocabulary.infill(*parts)

    def _tokenize(self, tokenize: Callable[[str], "array[int]"], text: str, spec: TensorSpec) -> "array[int]":
        """Looks at a part first, then at a larger one: a prompt that is far too long is not tokenized to its end.

        llama.cpp takes a time that grows with the square of the special tokens: 40 s for 80,000, and cannot be stopped.
        """
        size = max(INLINE_TOKENIZE, 4 * self._n_ctx)
        while size < len(text):
            self._refuse_if_closing()
            n = len(tokenize(text[:size]))
            # Cut off, the part's last word may become more tokens than it is in the whole; not so many more.
            if n > 2 * self._n_ctx:
                raise self._too_long(spec, f"more than {n // 2}")
            size *= 2
        self._refuse_if_closing()
        return tokenize(text)

    def _too_long(self, tensor: TensorSpec, n: str) -> ContextLengthExceeded:
        return ContextLengthExceeded(
            f"tensor '{tensor.name}': {n} tokens, but the context of this model is {self._n_ctx} tokens, "
            "prompt and completion together",
            tensor=tensor.name,
        )
