"""Converts text to tokens and back, within the context length, without blocking the event loop."""

import asyncio
from array import array
from collections.abc import Callable
from collections.abc import Sequence as Items
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from anyserve_worker.core.errors import ContextLengthExceeded, Draining, InvalidRequest
from anyserve_worker.core.spans import Spans
from anyserve_worker.guides.compiler import GuideVocabulary
from anyserve_worker.scheduling.sequence import token_array
from protos import contract
from protos.contract import TensorSpec

INLINE_CHARACTERS = 4096
"""Characters. Tokenizing a longer prompt takes milliseconds, so it runs on a thread."""
TOKENIZER_THREADS = 4
"""Number of long prompts that are tokenized at the same time."""
MIN_TOKENIZE_LIMIT = 8192
"""Tokens. Minimum limit for a text that is tokenized but not computed, if the context is shorter."""

T = TypeVar("T")


class Vocabulary(GuideVocabulary, Protocol):
    """The tokens of a model. Implemented by `llama.vocabulary.Vocabulary`. Thread-safe."""

    def tokenize(self, prompt: str, plain: Spans = ()) -> "array[int]": ...
    def tokens_of(
        self, text: str, *, add_special: bool = False, parse_special: bool = True, plain: Spans = ()
    ) -> "array[int]": ...
    def continuation(self, text: str) -> "array[int]": ...
    def infill(self, prefix: "array[int]", suffix: "array[int]") -> "array[int]": ...
    def ranked_pair(self, query: str, document: str) -> "array[int]": ...
    def text_of(self, tokens: "array[int]") -> bytes: ...
    def adds_bos(self, text: str, plain: Spans = ()) -> bool: ...
    def check_tokens(self, token_ids: Items[int], tensor: str) -> None: ...
    def piece(self, token: int) -> bytes: ...
    def written(self, token: int) -> bytes: ...
    def is_end(self, token: int) -> bool: ...


@dataclass(frozen=True, slots=True)
class Limit:
    """`tokens`: maximum tokens of a text. `n_ctx`: the context length that sets it; None: the response's size."""

    tokens: int
    n_ctx: int | None = None

    def exceeded(
        self, tensor: TensorSpec, n: int, *, more: bool = False, subject: str = "it has"
    ) -> ContextLengthExceeded:
        """Returns the error for a text of `n` tokens. `more`: it may have further ones, which were not counted."""
        count = f"{n} tokens{' or more' if more else ''}"
        if self.n_ctx is None:
            message = f"{count}, at most {self.tokens} are allowed"
            return ContextLengthExceeded(f"tensor '{tensor.name}': {message}", tensor=tensor.name)
        # Clients match the wording of OpenAI's message.
        also = ", and at least one is generated" if self.tokens < n <= self.n_ctx else ""
        message = f"This model's maximum context length is {self.n_ctx} tokens. However, {subject} {count}{also}."
        return ContextLengthExceeded(
            f"tensor '{tensor.name}': {message}",
            tensor=tensor.name,
            context_length=str(self.n_ctx),
            prompt_tokens=f"{'>' if more else ''}{n}",
        )


def _whole_context(n_ctx: int) -> Limit:
    return Limit(n_ctx, n_ctx)


class Tokenizer:
    """All methods raise Draining while it closes, and InvalidRequest for text or ids that can't be converted."""

    def __init__(self, vocabulary: Vocabulary, n_ctx: int) -> None:
        """`n_ctx`: context length of generation, in tokens."""
        self._vocabulary = vocabulary
        self._to_generate = Limit(n_ctx - 1, n_ctx)  # At least one token is generated.
        self._to_split = Limit(max(n_ctx, MIN_TOKENIZE_LIMIT))
        self._closing = False
        self._threads = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tokenizer")
        self._slow_thread = ThreadPoolExecutor(1, thread_name_prefix="samplers")

    async def tokens(self, prompt: str | Items[int], suffix: str | None = None, plain: Spans = ()) -> "array[int]":
        """Returns the tokens of a prompt, for infill if there is a `suffix`. Token ids are used unchanged.

        `plain`: the prompt's plain spans. Raises ContextLengthExceeded.
        """
        if suffix is None or not isinstance(prompt, str):
            tokenize = partial(self._vocabulary.tokenize, plain=plain) if plain else self._vocabulary.tokenize
            return await self._tokens(prompt, tokenize, self._to_generate, slow=bool(plain))
        return await self._tokens_to_fill_in(prompt, suffix, plain)

    async def _tokens_to_fill_in(self, prefix: str, suffix: str, plain: Spans) -> "array[int]":
        limit = self._to_generate

        def work() -> "array[int]":
            parts = []
            for text, tensor, spans in ((prefix, contract.PROMPT, plain), (suffix, contract.SUFFIX, ())):
                tokenize = partial(self._vocabulary.tokens_of, plain=spans)
                self._refuse_if_far_too_long(text, tokenize, limit, tensor)
                parts.append(tokenize(text))
                if len(parts[-1]) > limit.tokens:
                    raise limit.exceeded(tensor, len(parts[-1]))
            return self._vocabulary.infill(*parts)

        tokens = await self._off_the_loop(work, len(prefix) + len(suffix), slow=bool(plain))
        if len(tokens) > limit.tokens:
            raise limit.exceeded(contract.PROMPT, len(tokens))
        return tokens

    def refuse_too_many(self, task: str, n_ids: int, n_ctx_to_embed: int) -> None:
        """Called before token ids are converted, since millions take long. Raises ContextLengthExceeded."""
        limit, tensor = self._to_generate, contract.PROMPT_TOKEN_IDS
        if task == contract.TASK_DETOKENIZE:
            limit, tensor = self._to_split, contract.TOKENS_TO_TEXT
        elif task == contract.TASK_EMBED:
            limit = _whole_context(n_ctx_to_embed)
        if n_ids > limit.tokens:
            raise limit.exceeded(tensor, n_ids)

    def start(self, work: Callable[..., T], *args: Any) -> Future[T]:
        """Runs work that a hostile request can stretch to seconds, on a thread that does nothing else.

        Raises Draining; so does the future if the tokenizer closes before the work begins.
        """

        def unless_closing() -> T:
            self._refuse_if_closing()
            return work(*args)

        self._refuse_if_closing()
        return self._slow_thread.submit(unless_closing)

    async def tokens_to_embed(self, prompt: str | Items[int], n_ctx: int) -> "array[int]":
        """Returns the tokens of a text, with those that the model expects around it. Token ids are used unchanged.

        Raises ContextLengthExceeded.
        """
        tokenize = partial(self._vocabulary.tokens_of, add_special=True)
        tokens = await self._tokens(prompt, tokenize, _whole_context(n_ctx))
        if not tokens:
            name = contract.PROMPT.name
            raise InvalidRequest(f"tensor '{name}': empty, and the model adds no token to it", tensor=name)
        return tokens

    async def tokens_to_rank(self, query: str, document: str, n_ctx: int) -> "array[int]":
        """Returns the tokens of both texts. Raises ContextLengthExceeded, which names the tensor of the longer text."""
        limit = _whole_context(n_ctx)
        longer = contract.QUERY if len(query) > len(document) else contract.DOCUMENT

        def work() -> "array[int]":
            tokenize = partial(self._vocabulary.tokens_of, parse_special=False)
            for text, tensor in ((query, contract.QUERY), (document, contract.DOCUMENT)):
                self._refuse_if_far_too_long(text, tokenize, limit, tensor)
            return self._vocabulary.ranked_pair(query, document)

        tokens = await self._off_the_loop(work, len(query) + len(document))
        if len(tokens) > n_ctx:
            raise limit.exceeded(longer, len(tokens), subject="query and document have")
        if not tokens:
            name = contract.QUERY.name
            raise InvalidRequest(f"tensor '{name}': empty, and so is the document", tensor=name)
        return tokens

    async def split(
        self, text: str, *, add_special: bool, parse_special: bool, plain: Spans = ()
    ) -> tuple["array[int]", list[bytes]]:
        """Returns the tokens of a text and the bytes of each. Raises ContextLengthExceeded."""

        def work() -> tuple["array[int]", list[bytes]]:
            tokenize = partial(
                self._vocabulary.tokens_of, add_special=add_special, parse_special=parse_special, plain=plain
            )
            self._refuse_if_far_too_long(text, tokenize, self._to_split, contract.TEXT_TO_TOKENIZE)
            tokens = tokenize(text)
            if len(tokens) > self._to_split.tokens:
                raise self._to_split.exceeded(contract.TEXT_TO_TOKENIZE, len(tokens))
            return tokens, [self._vocabulary.written(token) for token in tokens]

        return await self._off_the_loop(work, len(text), slow=bool(plain))

    async def join(self, token_ids: Items[int]) -> bytes:
        """Returns the text of the tokens, including special ones."""

        def work() -> bytes:
            tokens = token_array(token_ids)
            self._vocabulary.check_tokens(tokens, contract.PROMPT_TOKEN_IDS.name)
            return self._vocabulary.text_of(tokens)

        return await self._off_the_loop(work, len(token_ids))

    async def close(self) -> None:
        """Waits for the threads, which may still read the vocabulary for a caller that is gone."""
        self._closing = True
        for threads in (self._threads, self._slow_thread):
            await asyncio.to_thread(threads.shutdown)

    # ---- Inside

    async def _tokens(
        self, prompt: str | Items[int], tokenize: "Callable[[str], array[int]]", limit: Limit, *, slow: bool = False
    ) -> "array[int]":
        if not isinstance(prompt, str):
            tensor, tokens = contract.PROMPT_TOKEN_IDS, token_array(prompt)
            self._vocabulary.check_tokens(tokens, tensor.name)
        else:
            tensor, text = contract.PROMPT, prompt

            def work() -> "array[int]":
                self._refuse_if_far_too_long(text, tokenize, limit, tensor)
                return tokenize(text)

            tokens = await self._off_the_loop(work, len(text), slow=slow)
        if len(tokens) > limit.tokens:
            raise limit.exceeded(tensor, len(tokens))
        return tokens

    async def _off_the_loop(self, work: Callable[[], T], size: int, *, slow: bool = False) -> T:
        """Runs work on a thread, or at once if `size` is small and it isn't `slow`, as with plain spans."""
        if size <= INLINE_CHARACTERS and not slow:
            return work()
        self._refuse_if_closing()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _refuse_if_closing(self) -> None:
        if self._closing:
            raise Draining("the worker is shutting down")

    def _refuse_if_far_too_long(
        self, text: str, tokenize: "Callable[[str], array[int]]", limit: Limit, tensor: TensorSpec
    ) -> None:
        """Tokenizes larger and larger parts, so that a text that is far too long is never tokenized to its end.

        llama.cpp's time grows with the square of the number of special tokens (40 s for 80,000). It can't be stopped.
        """
        size = max(INLINE_CHARACTERS, 4 * limit.tokens)
        while size < len(text):
            self._refuse_if_closing()
            n = len(tokenize(text[:size]))
            # The part's last word is cut off, which can add tokens, but never doubles the count.
            if n > 2 * limit.tokens:
                raise limit.exceeded(tensor, n // 2, more=True)
            size *= 2
        if len(text) > INLINE_CHARACTERS:
            self._refuse_if_closing()
