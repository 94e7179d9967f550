"""Prepares a request for its first step: tokenizes the prompt, compiles the guide, creates a sequence per choice.

It runs on the event loop; work that takes longer runs on the tokenizer's threads.
"""

import asyncio
from collections.abc import Callable
from collections.abc import Sequence as Items

from anyserve_worker.core.errors import InvalidRequest
from anyserve_worker.core.generation_request import GenerationRequest
from anyserve_worker.core.guide import GuideMatcher
from anyserve_worker.core.request_timer import RequestTimer
from anyserve_worker.core.sampling_parameters import SamplingParameters
from anyserve_worker.engine.text_steps import TextRunner
from anyserve_worker.engine.tokenizer import Tokenizer, Vocabulary
from anyserve_worker.guides.compiler import GuideCompiler
from anyserve_worker.sampling.chain import looks_back
from anyserve_worker.scheduling.sequence import Sequence
from anyserve_worker.text.echo import echo_of
from anyserve_worker.text.logprobs import LogprobOutput
from anyserve_worker.text.output import TextOutput
from anyserve_worker.text.reasoning_counter import ReasoningCounter
from anyserve_worker.text.reasoning_limit import ReasoningLimit
from protos import contract

MAX_ECHOED_LOGPROBS = 1 << 20
"""Log probabilities of prompt tokens in one response, `top` ones included. Each takes about 100 bytes."""
INLINE_LOOK_BACK_TOKENS = 8192
"""Tokens. For prompts up to this length, penalties other than DRY are prepared on the event loop, in under 1 ms."""


class Preparation:
    def __init__(
        self,
        vocabulary: Vocabulary,
        runner: TextRunner,
        tokenizer: Tokenizer,
        guides: GuideCompiler,
        refuse_if_closing: Callable[[], None],
    ) -> None:
        """`refuse_if_closing` raises Draining if the engine is closing."""
        self._vocabulary = vocabulary
        self._runner = runner
        self._tokenizer = tokenizer
        self._guides = guides
        self._refuse_if_closing = refuse_if_closing

    async def sequences(self, request: GenerationRequest) -> list[Sequence]:
        """Returns one sequence per choice. Raises InvalidRequest, ContextLengthExceeded, QueueFull or Draining."""
        prompt = await self._tokenizer.tokens(request.prompt, request.suffix, request.plain)
        n_free = self._runner.n_ctx - len(prompt)
        n_new = n_free if request.max_tokens is None else min(n_free, request.max_tokens)
        sampling = request.sampling
        self._check_tokens(sampling)
        self._check_echo(request, len(prompt))
        guides: Items[GuideMatcher | None] = [None] * request.n
        if request.guide:
            guides = await self._guides.compile(request.guide, request.caller, request.n)
        echo = echo_of(request.prompt, prompt, self._vocabulary, request.plain) if request.echo else None
        limits = self._reasoning_limits(request)
        timer = None
        if request.timings or request.prompt_progress:
            timer = RequestTimer(times=request.timings, progress=request.prompt_progress)
        sequences = [
            Sequence(
                index=index,
                tokens=prompt[:],
                n_prompt=len(prompt),
                limit=len(prompt) + n_new,
                sampling=sampling,
                output=TextOutput(request.stop, include_stop=request.include_stop),
                guide=guides[index],
                reasoning=ReasoningCounter(request.mark_end, request.mark_begin) if request.mark_end else None,
                reasoning_limit=limits[index],
                timer=timer,
                special=not request.skip_special_tokens,
                echo=echo,
                logprobs=None if sampling.logprobs is None else LogprobOutput(),
                caller=request.caller,
                priority=request.priority,
                prefix_key=request.prefix_key,
                scores_prompt=request.echo and sampling.logprobs is not None,
            )
            for index in range(request.n)
        ]
        if looks_back(sampling):
            await self._prepare_samplers(sequences)
        return sequences

    async def _prepare_samplers(self, sequences: list[Sequence]) -> None:
        """Prepares the samplers of all choices together, so that they share what the penalties derive from the prompt.

        That takes microseconds per prompt token, and DRY searches the whole vocabulary for its breakers.
        """
        if sequences[0].sampling.dry_multiplier or sequences[0].n_prompt > INLINE_LOOK_BACK_TOKENS:
            await asyncio.wrap_future(self._tokenizer.start(self._runner.prepare, sequences))
            self._refuse_if_closing()
        else:
            self._runner.prepare(sequences)

    def _reasoning_limits(self, request: GenerationRequest) -> list[ReasoningLimit | None]:
        """Returns the limit of each choice."""
        max_tokens, ends = request.max_marked_tokens, request.mark_end
        if max_tokens is None:
            return [None] * request.n
        mark = self._vocabulary.continuation(ends[0])
        return [ReasoningLimit(max_tokens, mark, ends, request.mark_begin) for _ in range(request.n)]

    def _check_echo(self, request: GenerationRequest, n_prompt: int) -> None:
        if request.echo and request.sampling.logprobs is not None:
            n = request.n * n_prompt * (1 + request.sampling.logprobs)
            if n > MAX_ECHOED_LOGPROBS:
                problem = f"{n} log probabilities of prompt tokens, at most {MAX_ECHOED_LOGPROBS}"
                raise InvalidRequest(f"tensor '{contract.ECHO.name}': {problem}", tensor=contract.ECHO.name)

    def _check_tokens(self, sampling: SamplingParameters) -> None:
        self._vocabulary.check_tokens([t for t, _ in sampling.logit_bias], contract.LOGIT_BIAS_TOKEN_IDS.name)
        self._vocabulary.check_tokens(list(sampling.stop_token_ids), contract.STOP_TOKEN_IDS.name)
