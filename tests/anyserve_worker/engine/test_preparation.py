"""`Preparation` turns a request into sequences: their fields, the order of the checks, the work off the event loop."""

import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest

from anyserve_worker.core.errors import ContextLengthExceeded, Draining, InvalidRequest
from anyserve_worker.core.generation_request import GenerationRequest
from anyserve_worker.core.guide import Guide, GuideMatcher
from anyserve_worker.core.prefix_key import TEXT_KEY, PrefixKey
from anyserve_worker.core.sampling_parameters import SamplingParameters
from anyserve_worker.engine.preparation import INLINE_LOOK_BACK_TOKENS, MAX_ECHOED_LOGPROBS, Preparation
from anyserve_worker.engine.tokenizer import Tokenizer
from anyserve_worker.guides.compiler import GuideCompiler
from anyserve_worker.scheduling import sequence
from protos import contract
from tests.anyserve_worker.fakes import ByteVocabulary, FakeGuide, FakeRunner

N_CTX = 20
GUIDE = Guide(contract.REGEX, "a*")


class Guides:
    """Compiles each guide at once and returns a matcher for each choice."""

    def __init__(self) -> None:
        self.compiled: list[tuple[Guide, str, int]] = []

    async def compile(self, guide: Guide, caller: str, n: int) -> list[GuideMatcher]:
        self.compiled.append((guide, caller, n))
        return [FakeGuide(3) for _ in range(n)]


class Runner(FakeRunner):
    def __init__(self, n_ctx: int = N_CTX) -> None:
        super().__init__(n_ctx=n_ctx)
        self.threads: list[threading.Thread] = []
        """Threads on which samplers were prepared, in order."""

    def prepare(self, sequences: Sequence[sequence.Sequence]) -> None:
        self.threads.append(threading.current_thread())
        super().prepare(sequences)


class Workshop:
    def __init__(self, n_ctx: int = N_CTX) -> None:
        self.runner, self.guides, self.closing = Runner(n_ctx), Guides(), False
        self.tokenizer = Tokenizer(ByteVocabulary(), n_ctx)
        guides = cast(GuideCompiler, self.guides)
        self.preparation = Preparation(ByteVocabulary(), self.runner, self.tokenizer, guides, self._refuse_if_closing)

    def _refuse_if_closing(self) -> None:
        if self.closing:
            raise Draining("closing")

    async def sequences(self, prompt: str | Sequence[int] = "hello", **fields: Any) -> list[sequence.Sequence]:
        return await self.preparation.sequences(GenerationRequest(prompt, **fields))


@pytest.fixture
async def workshop() -> AsyncIterator[Workshop]:
    workshop = Workshop()
    yield workshop
    await workshop.tokenizer.close()


def sampling(**fields: Any) -> SamplingParameters:
    return SamplingParameters(**fields)


# ---- Fields of a choice


async def test_each_choice_has_its_own_tokens_of_the_prompt(workshop: Workshop) -> None:
    first, second = await workshop.sequences("hello", n=2)
    first.tokens.append(1)
    assert second.tokens.tolist() == list(b"hello")
    assert [(choice.index, choice.n_prompt) for choice in (first, second)] == [(0, 5), (1, 5)]
    assert first.output is not second.output


@pytest.mark.parametrize(("max_tokens", "limit"), [(None, N_CTX), (3, 8), (0, 5), (15, N_CTX), (1000, N_CTX)])
async def test_a_choice_ends_at_its_max_tokens_or_with_the_context(
    workshop: Workshop, max_tokens: int | None, limit: int
) -> None:
    (choice,) = await workshop.sequences("hello", max_tokens=max_tokens)
    assert choice.limit == limit


async def test_a_choice_has_the_fields_of_its_request(workshop: Workshop) -> None:
    key = PrefixKey(adapter=3)
    (choice,) = await workshop.sequences(
        caller="me", priority=2, prefix_key=key, skip_special_tokens=False, stop=("x",), sampling=sampling(top_k=5)
    )
    assert (choice.caller, choice.priority, choice.prefix_key, choice.special) == ("me", 2, key, True)
    assert choice.sampling.top_k == 5
    assert choice.output.push(b"axb") == "a"


async def test_a_choice_of_a_plain_request_has_no_guide_reasoning_echo_or_logprobs(workshop: Workshop) -> None:
    (choice,) = await workshop.sequences()
    assert (choice.guide, choice.reasoning, choice.echo, choice.logprobs) == (None, None, None, None)
    assert (choice.special, choice.scores_prompt, choice.prefix_key) == (False, False, TEXT_KEY)


async def test_each_choice_counts_its_own_reasoning(workshop: Workshop) -> None:
    first, second = await workshop.sequences(n=2, mark_begin="<t>", mark_end=("</t>",))
    assert first.reasoning is not None
    assert second.reasoning is not None
    first.reasoning.push(b"<t>x</t>", 1)
    assert (first.reasoning.count(5), second.reasoning.count(5)) == (1, 0)


async def test_each_choice_has_its_own_matcher_of_the_guide(workshop: Workshop) -> None:
    first, second = await workshop.sequences(n=2, guide=GUIDE, caller="me")
    assert workshop.guides.compiled == [(GUIDE, "me", 2)]
    assert first.guide is not None
    assert first.guide is not second.guide


@pytest.mark.parametrize(("echo", "logprobs", "scores"), [(True, 0, True), (True, None, False), (False, 0, False)])
async def test_a_prompt_is_scored_if_it_is_echoed_with_log_probabilities(
    workshop: Workshop, *, echo: bool, logprobs: int | None, scores: bool
) -> None:
    (choice,) = await workshop.sequences(echo=echo, sampling=sampling(logprobs=logprobs))
    assert choice.scores_prompt == scores
    assert (choice.echo is not None, choice.logprobs is not None) == (echo, logprobs is not None)
    assert choice.echo is None or choice.echo.text == "hello"


# ---- Checks and their order


async def test_a_prompt_that_leaves_no_room_is_rejected_before_its_guide_is_compiled(workshop: Workshop) -> None:
    with pytest.raises(ContextLengthExceeded):
        await workshop.sequences("x" * N_CTX, guide=GUIDE)
    assert workshop.guides.compiled == []


@pytest.mark.parametrize(
    ("parameters", "tensor"),
    [({"logit_bias": ((256, 1.0),)}, "logit_bias_token_ids"), ({"stop_token_ids": frozenset([256])}, "stop_token_ids")],
)
async def test_a_token_outside_of_the_vocabulary_is_rejected_before_the_guide_is_compiled(
    workshop: Workshop, parameters: dict[str, Any], tensor: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await workshop.sequences(guide=GUIDE, sampling=sampling(**parameters))
    assert caught.value.tensor == tensor
    assert workshop.guides.compiled == []


async def test_log_probabilities_of_echoed_prompts_are_limited_for_all_choices_together(
    monkeypatch: pytest.MonkeyPatch, workshop: Workshop
) -> None:
    assert MAX_ECHOED_LOGPROBS > 1 << 16
    monkeypatch.setattr("anyserve_worker.engine.preparation.MAX_ECHOED_LOGPROBS", 60)
    assert len(await workshop.sequences("hello", n=4, echo=True, sampling=sampling(logprobs=2))) == 4
    with pytest.raises(InvalidRequest, match="75 log probabilities of prompt tokens, at most 60") as caught:
        await workshop.sequences("hello", n=5, echo=True, sampling=sampling(logprobs=2))
    assert caught.value.tensor == "echo"
    assert len(await workshop.sequences("hello", n=5, sampling=sampling(logprobs=2))) == 5


# ---- Samplers


async def test_samplers_that_do_not_look_back_are_made_at_first_use(workshop: Workshop) -> None:
    (choice,) = await workshop.sequences(sampling=sampling(presence_penalty=1.0))
    assert workshop.runner.threads == []
    assert choice.sampler is None


async def test_samplers_of_all_choices_that_look_back_at_the_prompt_are_made_at_once(workshop: Workshop) -> None:
    choices = await workshop.sequences(n=3, sampling=sampling(repetition_penalty=1.1))
    assert workshop.runner.threads == [threading.current_thread()]
    assert [choice.sampler for choice in choices] == workshop.runner.samplers


async def test_dry_samplers_are_made_off_the_event_loop(workshop: Workshop) -> None:
    await workshop.sequences(sampling=sampling(dry_multiplier=1.0))
    (thread,) = workshop.runner.threads
    assert thread is not threading.current_thread()


async def test_samplers_that_look_back_at_a_long_prompt_are_made_off_the_event_loop() -> None:
    workshop = Workshop(n_ctx=2 * INLINE_LOOK_BACK_TOKENS)
    for n, is_inline in ((INLINE_LOOK_BACK_TOKENS, True), (INLINE_LOOK_BACK_TOKENS + 1, False)):
        await workshop.sequences([65] * n, sampling=sampling(repetition_penalty=1.1))
        assert (workshop.runner.threads.pop() is threading.current_thread()) == is_inline
    await workshop.tokenizer.close()


async def test_preparation_fails_if_the_engine_closes_meanwhile(workshop: Workshop) -> None:
    workshop.closing = True
    with pytest.raises(Draining):
        await workshop.sequences(sampling=sampling(dry_multiplier=1.0))
