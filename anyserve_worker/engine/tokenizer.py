"""Texts to tokens and back, without holding up the event loop, and within the context."""

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

INLINE_TOKENIZE = 4096
"""Characters. Tokenizing a longer prompt takes milliseconds and is done off the event loop."""
TOKENIZER_THREADS = 4
"""So many long prompts are tokenized at the same time."""
MIN_TOKENIZED = 8192
"""Tokens that a text may have whose tokens are all that is wanted, where the context is shorter."""

T = TypeVar("T")


class Vocabulary(GuideVocabulary, Protocol):
    """Tokens of a model. Implemented by `llama.vocabulary.Vocabulary`. Safe from any thread."""

    def tokenize(self, prompt: str, plain: Spans = ()) -> "array[int]": ...
    def tokens_of(
        self, text: str, *, add_special: bool = False, parse_special: bool = True, plain: Spans = ()
    ) -> "array[int]": ...
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
    """The most `tokens` of a text. `n_ctx`: the context that bounds them; None: the size of the answer does."""

    tokens: int
    n_ctx: int | None = None

    def exceeded(
        self, tensor: TensorSpec, n: int, *, more: bool = False, what: str = "it has"
    ) -> ContextLengthExceeded:
        """`more`: the text has more than `n` tokens."""
        count = f"{n} tokens{' or more' if more else ''}"
        if self.n_ctx is None:
            message = f"{count}, but at most {self.tokens} can be had at once"
            return ContextLengthExceeded(f"tensor '{tensor.name}': {message}", tensor=tensor.name)
        # Clients look for the words of OpenAI's message.
        also = ", and at least one is generated" if self.tokens < n <= self.n_ctx else ""
        message = f"This model's maximum context length is {self.n_ctx} tokens. However, {what} {count}{also}."
        return ContextLengthExceeded(
            f"tensor '{tensor.name}': {message}",
            tensor=tensor.name,
            context_length=str(self.n_ctx),
            prompt_tokens=f"{'>' if more else ''}{n}",
        )


def _whole_context(n_ctx: int) -> Limit:
    return Limit(n_ctx, n_ctx)


class Tokenizer:
    """All of its methods raise Draining while it closes, and InvalidRequest for what cannot be tokenized."""

    def __init__(self, vocabulary: Vocabulary, n_ctx: int) -> None:
        """`n_ctx`: of a sequence that is generated."""
        self._vocabulary = vocabulary
        self._to_generate = Limit(n_ctx - 1, n_ctx)  # One token at least is generated.
        self._to_split = Limit(max(n_ctx, MIN_TOKENIZED))
        self._closing = False
        self._threads = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tokenizer")
        self._slow_thread = ThreadPoolExecutor(1, thread_name_prefix="samplers")

    async def tokens(self, prompt: str | Items[int], suffix: str | None = None, plain: Spans = ()) -> "array[int]":
        """To generate from, or to fill in before `suffix`; token ids as they are. Raises ContextLengthExceeded.

        `plain` are the prompt's plain spans.
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
        """Called before token ids are converted, which takes long for millions. Raises ContextLengthExceeded."""
        limit, tensor = self._to_generate, contract.PROMPT_TOKEN_IDS
        if task == contract.TASK_DETOKENIZE:
            limit, tensor = self._to_split, contract.TOKENS_TO_TEXT
        elif task == contract.TASK_EMBED:
            limit = _whole_context(n_ctx_to_embed)
        if n_ids > limit.tokens:
            raise limit.exceeded(tensor, n_ids)

    def start(self, work: Callable[..., T], *args: Any) -> Future[T]:
        """Work that a bad request can make last a second or two: one such at a time, and no prompt waits for it.

        Raises Draining, now or in its stead.
        """

        def unless_closing() -> T:
            self._refuse_if_closing()
            return work(*args)

        self._refuse_if_closing()
        return self._slow_thread.submit(unless_closing)

    async def tokens_to_embed(self, prompt: str | Items[int], n_ctx: int) -> "array[int]":
        """With what the model wants around a text; token ids as they are. Raises ContextLengthExceeded."""
        tokenize = partial(self._vocabulary.tokens_of, add_special=True)
        tokens = await self._tokens(prompt, tokenize, _whole_context(n_ctx))
        if not tokens:
            name = contract.PROMPT.name
            raise InvalidRequest(f"tensor '{name}': empty, and the model adds nothing to it", tensor=name)
        return tokens

    async def tokens_to_rank(self, query: str, document: str, n_ctx: int) -> "array[int]":
        """Raises ContextLengthExceeded, which blames the longer text."""
        limit = _whole_context(n_ctx)
        longer = contract.QUERY if len(query) > len(document) else contract.DOCUMENT

        def work() -> "array[int]":
            tokenize = partial(self._vocabulary.tokens_of, parse_special=False)
            for text, tensor in ((query, contract.QUERY), (document, contract.DOCUMENT)):
                self._refuse_if_far_too_long(text, tokenize, limit, tensor)
            return self._vocabulary.ranked_pair(query, document)

        tokens = await self._off_the_loop(work, len(query) + len(document))
        if len(tokens) > n_ctx:
            raise limit.exceeded(longer, len(tokens), what="query and document have")
        if not tokens:
            name = contract.QUERY.name
            raise InvalidRequest(f"tensor '{name}': empty, and so is the document", tensor=name)
        return tokens

    async def split(
        self, text: str, *, add_special: bool, parse_special: bool, plain: Spans = ()
    ) -> tuple["array[int]", list[bytes]]:
        """The tokens of a text, and what each stands for. Raises ContextLengthExceeded."""

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
        """The text of tokens, special ones included."""

        def work() -> bytes:
            tokens = token_array(token_ids)
            self._vocabulary.check_tokens(tokens, contract.PROMPT_TOKEN_IDS.name)
            return self._vocabulary.text_of(tokens)

        return await self._off_the_loop(work, len(token_ids))

    async def close(self) -> None:
        """The vocabulary may be freed afterwards: a caller may be gone while its thread still reads it."""
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
        """Work on a small size is done at once, unless it is `slow`: each plain span may be a call of the tokenizer."""
        if size <= INLINE_TOKENIZE and not slow:
            return work()
        self._refuse_if_closing()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _refuse_if_closing(self) -> None:
        if self._closing:
            raise Draining("the worker is shutting down")

    def _refuse_if_far_too_long(
        self, text: str, tokenize: "Callable[[str], array[int]]", limit: Limit, tensor: TensorSpec
    ) -> None:
        """Looks at a part first, then at a larger one: a text that is far too long is not tokenized to its end.

        llama.cpp takes a time that grows with the square of the special tokens: 40 s for 80,000, and cannot be stopped.
        """
        size = max(INLINE_TOKENIZE, 4 * limit.tokens)
        while size < len(text):
            self._refuse_if_closing()
            n = len(tokenize(text[:size]))
            # Cut off, the part's last word may become more tokens than it is in the whole; not so many more.
            if n > 2 * limit.tokens:
                raise limit.exceeded(tensor, n // 2, more=True)
            size *= 2
        if len(text) > INLINE_TOKENIZE:
            self._refuse_if_closing()
