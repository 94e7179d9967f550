"""The engine on a fake model that follows a script: callers get the right deltas, and all memory is freed."""

import asyncio
import threading
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import replace
from typing import Any, TypeVarTuple, Unpack

import pytest

from anyserve_worker.core.delta import Delta, merge
from anyserve_worker.core.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    Draining,
    EngineFailure,
    InvalidRequest,
    QueueFull,
)
from anyserve_worker.core.generation_request import GenerationRequest
from anyserve_worker.core.guide import Guide
from anyserve_worker.core.options import ModelOptions
from anyserve_worker.core.sampling_parameters import SamplingParameters
from anyserve_worker.core.spans import Spans
from anyserve_worker.engine.engine import Engine
from anyserve_worker.engine.preparation import INLINE_LOOK_BACK_TOKENS
from anyserve_worker.engine.running_request import RunningGeneration
from anyserve_worker.engine.tokenizer import INLINE_CHARACTERS, TOKENIZER_THREADS, Vocabulary
from anyserve_worker.scheduling import sequence
from anyserve_worker.threads.chooser import ThreadChooser
from protos import contract
from tests.anyserve_worker.fakes import (
    END,
    WAIT_TIMEOUT,
    ByteVocabulary,
    FakeMemory,
    FakeRunner,
    FakeVectorRunner,
    Gate,
    SlowVocabulary,
)

OPTIONS = ModelOptions(parallel=4, max_queue=8, prefill_chunk=16)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def engine_on(
    runner: FakeRunner,
    options: ModelOptions = OPTIONS,
    *,
    vocabulary: Vocabulary | None = None,
    clock: Callable[[], float] | None = None,
    vector_runner: FakeVectorRunner | None = None,
) -> AsyncIterator[Engine]:
    """Runs an engine. At the end it checks that no request is left and all cells and sequences are free."""
    clock = clock or Clock()
    threads = ThreadChooser((1,), (1,))
    engine = Engine(vocabulary or ByteVocabulary(), runner, options, threads, clock, vector_runner=vector_runner)
    engine.start()
    try:
        yield engine
    finally:
        for gate in (runner.gate, vector_runner and vector_runner.gate):
            if gate:
                gate.open()
        await engine.close()
    assert engine.n_requests == 0
    assert engine.n_running == 0
    assert engine.n_free_cells == runner.n_cells
    assert not runner.memory.sequences
    assert not (vector_runner and vector_runner.sequences)


def new_request(prompt: str, **fields: Any) -> GenerationRequest:
    return GenerationRequest(prompt, **fields)


async def collect(generation: RunningGeneration) -> list[Delta]:
    async with asyncio.timeout(WAIT_TIMEOUT):
        return [delta async for deltas in generation for delta in deltas]


async def answer(engine: Engine, request: GenerationRequest) -> list[Delta]:
    """Returns one merged delta for each choice."""
    return merge(await collect(await engine.submit(request)))


def texts(deltas: list[Delta]) -> list[tuple[str, str | None]]:
    return [(delta.text, delta.finish_reason) for delta in deltas]


# ---- Answers


async def test_an_answer_ends_with_the_end_token() -> None:
    async with engine_on(FakeRunner({"question": b"answer"})) as engine:
        deltas = await collect(await engine.submit(new_request("question")))
    assert texts(deltas) == [*((letter, None) for letter in "answer"), ("", "stop")]
    assert [delta.completion_tokens for delta in deltas] == [1, 2, 3, 4, 5, 6, 7]
    assert {(delta.index, delta.prompt_tokens, delta.cached_tokens) for delta in deltas} == {(0, 8, 0)}


async def test_each_step_is_delivered_before_the_next_is_computed() -> None:
    gate = Gate()
    async with engine_on(FakeRunner({"q": b"abc"}, gate=gate)) as engine:
        answers = aiter(await engine.submit(new_request("q")))
        for letter in "abc":
            gate.let_through()
            assert texts(await anext(answers)) == [(letter, None)]
        gate.let_through()
        assert texts(await anext(answers)) == [("", "stop")]
        with pytest.raises(StopAsyncIteration):
            await anext(answers)


async def test_a_character_of_several_tokens_is_delivered_whole() -> None:
    async with engine_on(FakeRunner({"q": "é😀".encode()})) as engine:
        deltas = await collect(await engine.submit(new_request("q")))
    assert texts(deltas) == [("é", None), ("😀", None), ("", "stop")]
    assert [delta.completion_tokens for delta in deltas] == [2, 6, 7]


async def test_max_tokens_ends_a_choice_with_length() -> None:
    async with engine_on(FakeRunner({"q": b"abcdef"})) as engine:
        deltas = await collect(await engine.submit(new_request("q", max_tokens=3)))
    assert texts(deltas) == [("a", None), ("b", None), ("c", "length")]
    assert deltas[-1].completion_tokens == 3


async def test_a_character_cut_by_max_tokens_is_a_replacement_character() -> None:
    async with engine_on(FakeRunner({"q": "aé".encode()})) as engine:
        assert texts(await answer(engine, new_request("q", max_tokens=2))) == [("a�", "length")]


async def test_an_end_token_at_max_tokens_is_a_stop() -> None:
    async with engine_on(FakeRunner({"q": b"ab"})) as engine:
        assert texts(await answer(engine, new_request("q", max_tokens=3))) == [("ab", "stop")]


async def test_max_tokens_of_zero_runs_no_step() -> None:
    runner = FakeRunner()
    async with engine_on(runner) as engine:
        choices = await answer(engine, new_request("question", max_tokens=0, n=2))
    assert texts(choices) == [("", "length"), ("", "length")]
    assert {(c.completion_tokens, c.prompt_tokens, c.cached_tokens) for c in choices} == {(0, 8, 0)}
    assert runner.steps == []
    assert engine.stats.success.count == 1


@pytest.mark.parametrize("max_tokens", [None, 3, 50])
async def test_a_full_context_ends_a_choice_with_length(max_tokens: int | None) -> None:
    async with engine_on(FakeRunner({"12345": b"abcdef"}, n_ctx=8)) as engine:
        assert texts(await answer(engine, new_request("12345", max_tokens=max_tokens))) == [("abc", "length")]


async def test_a_stop_string_is_found_across_tokens_and_not_delivered() -> None:
    async with engine_on(FakeRunner({"q": b"one END two"})) as engine:
        deltas = await collect(await engine.submit(new_request("q", stop=("END", "two"))))
    assert "".join(delta.text for delta in deltas) == "one "
    assert [delta.finish_reason for delta in deltas][-1] == "stop"
    assert deltas[-1].completion_tokens == 7


async def test_an_unfinished_stop_string_is_delivered_at_the_end() -> None:
    async with engine_on(FakeRunner({"q": b"one EN"})) as engine:
        assert texts(await answer(engine, new_request("q", stop=("END",)))) == [("one EN", "stop")]
        assert texts(await answer(engine, new_request("q", stop=("END",), max_tokens=5))) == [("one E", "length")]


async def test_a_stop_string_that_ends_at_max_tokens_is_a_stop() -> None:
    async with engine_on(FakeRunner({"q": b"one END"})) as engine:
        assert texts(await answer(engine, new_request("q", stop=("END",), max_tokens=7))) == [("one ", "stop")]


async def test_each_choice_has_its_own_index_and_counts() -> None:
    runner = FakeRunner({"question": b"ab"})
    async with engine_on(runner) as engine:
        deltas = await collect(await engine.submit(new_request("question", n=3)))
    choices = merge(deltas)
    assert texts(choices) == [("ab", "stop")] * 3
    assert [(c.index, c.completion_tokens, c.prompt_tokens) for c in choices] == [(0, 3, 8), (1, 3, 8), (2, 3, 8)]
    for index in range(3):
        assert [d.text for d in deltas if d.index == index] == ["a", "b", ""]
        assert [d.begins for d in deltas if d.index == index] == [True, False, False]


async def test_a_prompt_may_be_token_ids() -> None:
    async with engine_on(FakeRunner({"hi": b"yes"})) as engine:
        request = GenerationRequest(prompt=tuple(b"hi"))
        assert texts(await answer(engine, request)) == [("yes", "stop")]


async def test_answers_of_concurrent_requests_do_not_mix() -> None:
    script = {f"question {i}": f"answer {i} of a crowd".encode() for i in range(12)}
    async with engine_on(FakeRunner(script, n_cells=100)) as engine:
        answers = await asyncio.gather(*(answer(engine, new_request(prompt)) for prompt in script))
    assert [texts(choices) for choices in answers] == [[(text.decode(), "stop")] for text in script.values()]


async def test_a_long_prompt_is_tokenized_in_a_thread_and_answered() -> None:
    prompt = "x" * (INLINE_CHARACTERS + 1)
    async with engine_on(FakeRunner({prompt: b"a"}, n_ctx=5000, n_cells=6000)) as engine:
        assert texts(await answer(engine, new_request(prompt))) == [("a", "stop")]


# ---- Prefixes


async def test_a_shared_prefix_is_computed_once() -> None:
    runner = FakeRunner({"a long question": b"yes", "a long question, and another": b"no"})
    async with engine_on(runner) as engine:
        first = await answer(engine, new_request("a long question"))
        second = await answer(engine, new_request("a long question, and another"))
    assert [c.cached_tokens for c in (*first, *second)] == [0, 15]
    # three tokens of the first answer are in the cache too, but the second prompt continues differently
    assert [step[0][1] for step in runner.steps] == [15, 1, 1, 1, 13, 1, 1]
    assert (engine.stats.prompt_tokens, engine.stats.cached_tokens, engine.stats.generated_tokens) == (43, 15, 7)


async def test_a_caller_with_one_request_does_not_wait_for_all_requests_of_another() -> None:
    gate = Gate()
    runner = FakeRunner(gate=gate)
    async with engine_on(runner, replace(OPTIONS, parallel=1)) as engine:
        generations = [await engine.submit(new_request(f"many {k}", caller="many")) for k in range(6)]
        await gate.entered()
        generations.append(await engine.submit(new_request("one", caller="one")))
        gate.open()
        for generation in generations:
            await collect(generation)
    order = list(dict.fromkeys(prompt for step in runner.steps for prompt, _ in step))
    assert order[:3] == ["many 0", "one", "many 1"]


async def test_choices_compute_their_prompt_once() -> None:
    runner = FakeRunner({"a prompt of more than sixteen tokens": b"a"})
    async with engine_on(runner) as engine:
        await answer(engine, new_request("a prompt of more than sixteen tokens", n=3))
    assert sum(count for step in runner.steps for _, count in step) == 36 + 2 + 3


async def test_without_the_prefix_cache_everything_is_computed() -> None:
    runner = FakeRunner({"a prompt of more than sixteen tokens": b"a"})
    async with engine_on(runner, replace(OPTIONS, prefix_cache=False)) as engine:
        for _ in range(2):
            choices = await answer(engine, new_request("a prompt of more than sixteen tokens", n=2))
            assert [c.cached_tokens for c in choices] == [0, 0]
            assert engine.n_free_cells == runner.n_cells
    assert sum(count for step in runner.steps for _, count in step) == 4 * 37


# ---- Drafts

PASSAGE = "It was a bright cold day in April"
REPEAT = {PASSAGE: f"{PASSAGE}, he said, a bright cold day.".encode()}


async def test_an_answer_is_the_same_with_drafts_and_takes_fewer_steps() -> None:
    plain, runner = FakeRunner(REPEAT), FakeRunner(REPEAT, prompt_lookup=4)
    async with engine_on(plain) as engine:
        expected = await answer(engine, new_request(PASSAGE))
        assert (engine.stats.drafted_tokens, engine.stats.accepted_tokens) == (0, 0)
    async with engine_on(runner) as engine:
        assert await answer(engine, new_request(PASSAGE)) == expected
        stats = engine.stats
    assert stats.generated_tokens == expected[0].completion_tokens
    assert len(runner.steps) == stats.generated_tokens - stats.accepted_tokens
    assert 0 < stats.accepted_tokens < stats.drafted_tokens, "some are wrong"
    assert sum(rows for step in runner.steps[1:] for _, rows in step) == len(runner.steps) - 1 + stats.drafted_tokens


@pytest.mark.parametrize("length", range(1, 20))
async def test_max_tokens_and_stop_strings_apply_inside_a_draft(length: int) -> None:
    """Draft tokens after the end are neither delivered nor counted."""
    text = REPEAT[PASSAGE].decode()
    async with engine_on(FakeRunner(REPEAT, prompt_lookup=4)) as engine:
        limited = await answer(engine, new_request(PASSAGE, max_tokens=length))
        assert texts(limited) == [(text[:length], "length")]
        assert limited[0].completion_tokens == length
        stop = text[length : length + 3]
        stopped = await answer(engine, new_request(PASSAGE, stop=(stop,)))
        assert texts(stopped) == [(text[:length], "stop")]
        assert stopped[0].completion_tokens == length + 3
        assert engine.stats.generated_tokens == 2 * length + 3
        again = await answer(engine, new_request(PASSAGE + text))
        assert again[0].cached_tokens in range(len(PASSAGE) + length, len(PASSAGE) + length + 4)


async def test_an_end_token_inside_a_draft_ends_the_answer() -> None:
    prompt = tuple(b"one two" + bytes([END]) + b" and more")
    async with engine_on(FakeRunner({bytes(prompt).decode(): b"one two"}, prompt_lookup=8)) as engine:
        (choice,) = await answer(engine, GenerationRequest(prompt))
        assert (choice.text, choice.finish_reason, choice.completion_tokens) == ("one two", "stop", 8)
        assert engine.stats.accepted_tokens > 0


async def test_a_full_context_ends_a_choice_that_drafts() -> None:
    prompt = "abcdefgh"
    async with engine_on(FakeRunner({prompt: b"abcdefgh"}, n_ctx=14, n_cells=14, prompt_lookup=8)) as engine:
        assert texts(await answer(engine, new_request(prompt))) == [("abcdef", "length")]
        assert engine.stats.accepted_tokens > 0


async def test_answers_with_drafts_are_right_when_cells_run_out() -> None:
    script = {f"question {i} question {i}": f"question {i} question {i} or {i}{i}{i}".encode() for i in range(6)}
    async with engine_on(FakeRunner(script, n_cells=110, prompt_lookup=4)) as engine:
        answers = await asyncio.gather(*(answer(engine, new_request(prompt)) for prompt in script))
        assert engine.stats.accepted_tokens > 0
    assert [texts(choices) for choices in answers] == [[(text.decode(), "stop")] for text in script.values()]


async def test_a_request_cancelled_while_it_drafts_does_not_affect_the_next() -> None:
    gate = Gate()
    async with engine_on(FakeRunner(REPEAT, gate=gate, prompt_lookup=4)) as engine:
        generation = await engine.submit(new_request(PASSAGE))
        for _ in range(6):
            await gate.entered()
            gate.let_through()
        await gate.entered()
        generation.cancel()
        gate.open()
        assert texts(await answer(engine, new_request(PASSAGE))) == [(REPEAT[PASSAGE].decode(), "stop")]


async def test_choices_with_drafts_are_all_answered() -> None:
    async with engine_on(FakeRunner(REPEAT, prompt_lookup=2)) as engine:
        choices = await answer(engine, new_request(PASSAGE, n=3))
        assert texts(choices) == [(REPEAT[PASSAGE].decode(), "stop")] * 3
        assert engine.stats.accepted_tokens > 0


# ---- Stop tokens and guides


async def test_a_stop_token_is_counted_but_not_delivered() -> None:
    async with engine_on(FakeRunner({"q": b"abcd"})) as engine:
        request = new_request("q", sampling=SamplingParameters(stop_token_ids=frozenset(b"cx")))
        assert texts(choices := await answer(engine, request)) == [("ab", "stop")]
        assert choices[0].completion_tokens == 3


async def test_a_stop_token_inside_a_draft_ends_the_choice() -> None:
    async with engine_on(FakeRunner(REPEAT, prompt_lookup=4)) as engine:
        request = new_request(PASSAGE, sampling=SamplingParameters(stop_token_ids=frozenset(b"r")))
        assert texts(await answer(engine, request)) == [("It was a b", "stop")]
        assert engine.stats.accepted_tokens > 0


def guided(prompt: str, n_tokens: int, **fields: Any) -> GenerationRequest:
    """Returns a request with a guide that ends after `n_tokens` tokens."""
    return new_request(prompt, guide=Guide(contract.REGEX, "x" * n_tokens), **fields)


async def test_a_guide_ends_each_choice_separately() -> None:
    async with engine_on(FakeRunner({"q": b"abcdef"})) as engine:
        choices = await answer(engine, guided("q", 3, n=2))
        assert texts(choices) == [("abc", "stop")] * 2
        assert [choice.completion_tokens for choice in choices] == [3, 3]
        assert texts(await answer(engine, guided("q", 3, max_tokens=2))) == [("ab", "length")]
        assert texts(await answer(engine, guided("q", 3, max_tokens=3))) == [("abc", "stop")]
        assert texts(await answer(engine, guided("q", 7))) == [("abcdef", "stop")], "the seventh token is the end token"


async def test_a_guide_may_end_a_choice_within_a_possible_stop_string() -> None:
    async with engine_on(FakeRunner({"q": b"abEN"})) as engine:
        assert texts(await answer(engine, guided("q", 4, stop=("END",)))) == [("abEN", "stop")]


@pytest.mark.parametrize("n_tokens", range(1, 20))
async def test_a_guide_may_end_a_choice_inside_a_draft(n_tokens: int) -> None:
    async with engine_on(FakeRunner(REPEAT, prompt_lookup=4)) as engine:
        choices = await answer(engine, guided(PASSAGE, n_tokens))
        assert texts(choices) == [(REPEAT[PASSAGE].decode()[:n_tokens], "stop")]
        assert choices[0].completion_tokens == n_tokens


async def test_a_guide_does_not_change_the_finish_reason_of_max_tokens_zero() -> None:
    async with engine_on(FakeRunner()) as engine:
        request = guided("abc", 1, max_tokens=0, echo=True, sampling=LOGPROBS)
        assert texts(await answer(engine, request)) == [("abc", "length")]


class ControlVocabulary(ByteVocabulary):
    """A vocabulary whose control tokens are the capital letters."""

    def piece(self, token: int) -> bytes:
        return b"" if ord("A") <= token <= ord("Z") else super().piece(token)


async def test_control_tokens_are_in_the_text_only_without_skip_special_tokens() -> None:
    async with engine_on(FakeRunner({"q": b"aXbY"}), vocabulary=ControlVocabulary()) as engine:
        assert texts(await answer(engine, new_request("q"))) == [("ab", "stop")]
        assert texts(await answer(engine, new_request("q", skip_special_tokens=False))) == [("aXbY", "stop")]


# ---- Log probabilities and echo

LOGPROBS = SamplingParameters(logprobs=1)


def scores(delta: Delta) -> list[tuple[bytes, float]]:
    """Returns (token, log probability); the fake's log probability is minus the token's position."""
    return [(entry.token, entry.logprob) for entry in delta.logprobs]


def positions(text: bytes, start: int) -> list[tuple[bytes, float]]:
    return [(text[i : i + 1], -float(start + i)) for i in range(len(text))]


async def test_log_probabilities_are_delivered_with_the_text_of_their_tokens() -> None:
    async with engine_on(FakeRunner({"que": b"a\xc3\xa9b"})) as engine:
        deltas = await collect(await engine.submit(new_request("que", sampling=SamplingParameters(logprobs=2))))
    assert [(delta.text, scores(delta)) for delta in deltas] == [
        ("a", [(b"a", -3.0)]),
        ("é", [(b"\xc3", -4.0), (b"\xa9", -5.0)]),
        ("b", [(b"b", -6.0)]),
        ("", []),
    ]
    assert {entry.top for delta in deltas for entry in delta.logprobs} == {((b"a", 0.0), (b"b", -1.0))}


async def test_stop_strings_and_stop_tokens_have_no_log_probabilities() -> None:
    async with engine_on(FakeRunner({"q": b"abENDc"})) as engine:
        (choice,) = await answer(engine, new_request("q", stop=("END",), sampling=LOGPROBS))
        assert scores(choice) == positions(b"ab", 1)
        stop_token = SamplingParameters(logprobs=1, stop_token_ids=frozenset(b"N"))
        (choice,) = await answer(engine, new_request("q", stop=("END",), sampling=stop_token))
        assert (choice.text, scores(choice)) == ("abE", positions(b"abE", 1))


async def test_an_unfinished_stop_string_at_max_tokens_has_log_probabilities() -> None:
    async with engine_on(FakeRunner({"q": b"aEN"})) as engine:
        (choice,) = await answer(engine, new_request("q", stop=("END",), max_tokens=3, sampling=LOGPROBS))
        assert scores(choice) == positions(b"aEN", 1)
        (choice,) = await answer(engine, new_request("p", max_tokens=0, sampling=LOGPROBS))
        assert scores(choice) == []


@pytest.mark.parametrize("prompt_lookup", [2, 4])
async def test_accepted_drafts_have_log_probabilities(prompt_lookup: int) -> None:
    async with engine_on(FakeRunner(REPEAT, prompt_lookup=prompt_lookup)) as engine:
        (choice,) = await answer(engine, new_request(PASSAGE, sampling=LOGPROBS))
        assert engine.stats.accepted_tokens > 0
    assert scores(choice) == positions(REPEAT[PASSAGE], len(PASSAGE))


@pytest.mark.parametrize("max_tokens", [0, 1, None])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("prompt", ["p", "prompt", "a prompt of more than sixteen tokens"])
async def test_each_choice_starts_with_the_echoed_prompt(prompt: str, n: int, max_tokens: int | None) -> None:
    whole = b"abc"[:max_tokens]
    runner = FakeRunner({prompt: b"abc"}, n_score_rows=5)
    async with engine_on(runner) as engine:
        plain = await answer(engine, new_request(prompt, n=n, max_tokens=max_tokens))
        choices = await answer(engine, new_request(prompt, n=n, max_tokens=max_tokens, echo=True))
        scored = await answer(engine, new_request(prompt, n=n, max_tokens=max_tokens, echo=True, sampling=LOGPROBS))
    assert [c.text for c in choices] == [c.text for c in scored] == [prompt + whole.decode()] * n
    assert [(c.finish_reason, c.completion_tokens) for c in choices] == [
        (c.finish_reason, c.completion_tokens) for c in plain
    ]
    for choice in scored:
        first, *others = scores(choice)
        assert (first[0], str(first[1])) == (prompt[:1].encode(), "nan")
        assert others == positions(prompt.encode() + whole, 0)[1:]
        assert choice.logprobs[0].top == ()
        assert (choice.completion_tokens, choice.cached_tokens) == (plain[0].completion_tokens, 0)


async def test_echo_alone_runs_no_step() -> None:
    runner = FakeRunner()
    async with engine_on(runner) as engine:
        assert texts(await answer(engine, new_request("prompt", max_tokens=0, echo=True))) == [("prompt", "length")]
    assert runner.steps == []


async def test_echo_uses_the_prefix_cache_unless_it_is_scored() -> None:
    prompt = "a prompt of more than sixteen tokens"
    async with engine_on(FakeRunner({prompt: b"abc"})) as engine:
        await answer(engine, new_request(prompt))
        (choice,) = await answer(engine, new_request(prompt, echo=True))
        assert choice.cached_tokens == len(prompt) - 1
        (choice,) = await answer(engine, new_request(prompt, echo=True, sampling=LOGPROBS))
        assert choice.cached_tokens == 0


async def test_a_prompt_is_scored_correctly_while_others_generate_and_cells_run_out() -> None:
    prompt = "a prompt of more than sixteen tokens"
    script = {prompt: b"abc", **{f"q{i}": b"x" * 30 for i in range(3)}}
    async with engine_on(FakeRunner(script, n_cells=110, n_score_rows=4)) as engine:
        others = [await engine.submit(new_request(f"q{i}")) for i in range(3)]
        choices = await answer(engine, new_request(prompt, n=2, echo=True, sampling=LOGPROBS))
        for other in others:
            assert texts(merge(await collect(other))) == [("x" * 30, "stop")]
    for choice in choices:
        assert scores(choice)[1:] == positions(prompt.encode() + b"abc", 0)[1:]


async def test_too_many_log_probabilities_of_an_echoed_prompt_are_rejected() -> None:
    prompt = "x" * 5000
    async with engine_on(FakeRunner(n_ctx=6000, n_cells=6000)) as engine:
        with pytest.raises(InvalidRequest, match="'echo': 13440000 log probabilities of prompt tokens") as caught:
            await engine.submit(new_request(prompt, n=128, echo=True, sampling=SamplingParameters(logprobs=20)))
        assert caught.value.tensor == "echo"
        assert engine.n_requests == 0


# ---- Slow preparation

DRY = SamplingParameters(dry_multiplier=1.0)


class SlowRunner(FakeRunner):
    """Prepares samplers only after `may_go_on` is set; with `fails`, raises before the second one."""

    def __init__(self, *, fails: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.prepares = threading.Event()
        self.may_go_on = threading.Event()
        self.fails = fails

    def prepare(self, sequences: Sequence[sequence.Sequence]) -> None:
        self.prepares.set()
        assert self.may_go_on.wait(WAIT_TIMEOUT)
        super().prepare(sequences[:1])
        if self.fails:
            raise RuntimeError("no memory")
        super().prepare(sequences[1:])


async def preparing(engine: Engine, runner: SlowRunner, **fields: Any) -> "asyncio.Task[RunningGeneration]":
    submission = asyncio.create_task(engine.submit(new_request("q", sampling=DRY, **fields)))
    assert await asyncio.to_thread(runner.prepares.wait, WAIT_TIMEOUT)
    return submission


async def test_samplers_are_prepared_off_the_loop_and_before_the_request_runs() -> None:
    runner = SlowRunner()
    async with engine_on(runner) as engine:
        submission = await preparing(engine, runner, n=3)
        assert not submission.done()
        runner.may_go_on.set()
        assert texts(merge(await collect(await submission))) == [("ok", "stop")] * 3
        assert len(runner.samplers) == 3


async def test_a_request_cancelled_while_samplers_are_prepared_never_runs() -> None:
    runner = SlowRunner()
    async with engine_on(runner) as engine:
        first = await preparing(engine, runner, n=2)
        second = asyncio.create_task(engine.submit(new_request("p", sampling=DRY)))
        await asyncio.sleep(0)
        for submission in (first, second):
            submission.cancel()
            with pytest.raises(asyncio.CancelledError):
                await submission
        assert engine.n_requests == 0
        runner.may_go_on.set()
    assert len(runner.samplers) == 2, "the second request's samplers must not be prepared"
    assert runner.steps == []


async def test_closing_fails_requests_whose_samplers_are_being_prepared() -> None:
    runner = SlowRunner()
    async with engine_on(runner) as engine:
        first = await preparing(engine, runner)
        second = asyncio.create_task(engine.submit(new_request("p", sampling=DRY)))
        await asyncio.sleep(0)
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0)
        runner.may_go_on.set()
        for submission in (first, second):
            with pytest.raises(Draining):
                await submission
        await closing
    assert runner.steps == []


async def test_a_sampler_that_cannot_be_made_fails_its_request() -> None:
    runner = SlowRunner(fails=True)
    async with engine_on(runner) as engine:
        runner.may_go_on.set()
        with pytest.raises(RuntimeError, match="no memory"):
            await engine.submit(new_request("q", n=2, sampling=DRY))
        assert engine.n_requests == 0
        assert runner.steps == []


async def test_tokenizing_a_long_prompt_does_not_wait_for_slow_samplers() -> None:
    prompt = "x" * (INLINE_CHARACTERS + 1)
    runner = SlowRunner(n_ctx=5000, n_cells=6000)
    async with engine_on(runner) as engine:
        slow = [await preparing(engine, runner)]
        slow += [asyncio.create_task(engine.submit(new_request("p", sampling=DRY))) for _ in range(TOKENIZER_THREADS)]
        async with asyncio.timeout(WAIT_TIMEOUT):
            long = await engine.submit(new_request(prompt, max_tokens=0))
        assert texts(await collect(long)) == [("", "length")]
        runner.may_go_on.set()
        for submission in slow:
            assert texts(merge(await collect(await submission))) == [("ok", "stop")]


class WatchedRunner(FakeRunner):
    """Records whether each preparation ran on the event loop."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.on_the_loop: list[bool] = []

    def prepare(self, sequences: Sequence[sequence.Sequence]) -> None:
        self.on_the_loop.append(threading.current_thread() is threading.main_thread())
        super().prepare(sequences)


@pytest.mark.parametrize(
    ("n_prompt", "sampling", "on_the_loop"),
    [
        (5, SamplingParameters(repetition_penalty=1.1), [True]),
        (INLINE_LOOK_BACK_TOKENS + 1, SamplingParameters(repetition_penalty=1.1), [False]),
        (5, DRY, [False]),
    ],
)
async def test_samplers_that_look_back_far_are_prepared_off_the_loop_once_for_all_choices(
    n_prompt: int, sampling: SamplingParameters, on_the_loop: list[bool]
) -> None:
    runner = WatchedRunner(n_ctx=2 * INLINE_LOOK_BACK_TOKENS, n_cells=4 * INLINE_LOOK_BACK_TOKENS)
    async with engine_on(runner) as engine:
        generation = await engine.submit(new_request("q" * n_prompt, n=3, sampling=sampling))
        assert texts(merge(await collect(generation))) == [("ok", "stop")] * 3
    assert runner.on_the_loop == on_the_loop
    assert len(runner.samplers) == 3


async def test_a_rejected_guide_is_named_by_its_tensor() -> None:
    async with engine_on(FakeRunner()) as engine:
        with pytest.raises(InvalidRequest) as caught:
            await engine.submit(guided("q", 0, sampling=DRY))
        assert caught.value.tensor == "regex"
        assert engine.n_requests == 0


@pytest.mark.parametrize(
    ("sampling", "tensor"),
    [
        (SamplingParameters(logit_bias=((5, 1.0), (256, 1.0))), "logit_bias_token_ids"),
        (SamplingParameters(stop_token_ids=frozenset((256,))), "stop_token_ids"),
    ],
)
async def test_unknown_token_ids_are_named_by_their_tensor(sampling: SamplingParameters, tensor: str) -> None:
    async with engine_on(FakeRunner()) as engine:
        with pytest.raises(InvalidRequest) as caught:
            await engine.submit(new_request("q", sampling=sampling))
        assert caught.value.tensor == tensor
        assert engine.n_requests == 0


# ---- Filling in


async def test_a_prompt_with_a_suffix_is_filled_in() -> None:
    async with engine_on(FakeRunner({"<be|ing>": b"ginn"})) as engine:
        (choice,) = await answer(engine, new_request("be", suffix="ing"))
    assert (choice.text, choice.prompt_tokens) == ("ginn", 8)


async def test_prefix_and_suffix_may_be_empty() -> None:
    async with engine_on(FakeRunner({"<|>": b"a", "<a|>": b"b", "<|a>": b"c"})) as engine:
        for prefix, suffix, text in (("", "", "a"), ("a", "", "b"), ("", "a", "c")):
            assert texts(await answer(engine, new_request(prefix, suffix=suffix))) == [(text, "stop")]


@pytest.mark.parametrize("length", [20, 5000, 100_000])
async def test_the_side_that_is_too_long_is_named(length: int) -> None:
    async with engine_on(FakeRunner(n_ctx=20)) as engine:
        for prefix, suffix, tensor in (("x" * length, "y", "prompt"), ("y", "x" * length, "suffix")):
            with pytest.raises(ContextLengthExceeded) as caught:
                await engine.submit(new_request(prefix, suffix=suffix))
            assert caught.value.tensor == tensor
            assert str(caught.value).startswith(f"tensor '{tensor}': ")
        with pytest.raises(ContextLengthExceeded):
            await engine.submit(new_request("x" * 9, suffix="y" * 9))
        assert engine.n_requests == 0


# ---- Requests that are rejected at once


@pytest.mark.parametrize("prompt", ["12345678", "123456789"])
async def test_a_prompt_that_fills_the_context_is_rejected(prompt: str) -> None:
    async with engine_on(FakeRunner(n_ctx=8)) as engine:
        for prompt_input, tensor in ((prompt, "prompt"), (tuple(prompt.encode()), "prompt_token_ids")):
            with pytest.raises(ContextLengthExceeded) as caught:
                await engine.submit(GenerationRequest(prompt_input))
            assert caught.value.tensor == tensor
            also = ", and at least one is generated" if len(prompt) == 8 else ""
            assert str(caught.value) == (
                f"tensor '{tensor}': This model's maximum context length is 8 tokens. However, it has {len(prompt)} "
                f"tokens{also}."
            )
            assert caught.value.details["error_context_length"] == "8"
            assert caught.value.details["error_prompt_tokens"] == str(len(prompt))
        assert engine.n_requests == 0
        assert texts(await answer(engine, new_request("1234567"))) == [("o", "length")]


async def test_only_the_beginning_of_a_far_too_long_prompt_is_tokenized() -> None:
    lengths = []

    class Vocabulary(ByteVocabulary):
        def tokenize(self, prompt: str, plain: Spans = ()) -> "array[int]":
            lengths.append(len(prompt))
            return super().tokenize(prompt)

    async with engine_on(FakeRunner(n_ctx=8), vocabulary=Vocabulary()) as engine:
        with pytest.raises(ContextLengthExceeded) as caught:
            await engine.submit(new_request("x" * 1_000_000))
        assert "context length is 8 tokens. However, it has 2048 tokens or more" in str(caught.value)
        assert caught.value.details["error_prompt_tokens"] == ">2048"
    assert lengths == [INLINE_CHARACTERS]


async def test_a_long_prompt_of_few_tokens_is_accepted() -> None:
    class Vocabulary(ByteVocabulary):
        def tokenize(self, prompt: str, plain: Spans = ()) -> "array[int]":
            return super().tokenize(prompt[::1000])

    async with engine_on(FakeRunner({"x" * 50: b"a"}), vocabulary=Vocabulary()) as engine:
        assert texts(await answer(engine, new_request("x" * 50_000))) == [("a", "stop")]


async def test_a_prompt_with_an_unknown_token_id_is_rejected() -> None:
    async with engine_on(FakeRunner()) as engine:
        with pytest.raises(InvalidRequest):
            await engine.submit(GenerationRequest((1, 256)))
        assert engine.n_requests == 0


async def test_a_request_is_rejected_while_the_queue_is_full() -> None:
    gate = Gate()
    options = replace(OPTIONS, parallel=1, max_queue=1)
    async with engine_on(FakeRunner({"q": b"abc"}, gate=gate), options) as engine:
        running, waiting = [await engine.submit(new_request("q")) for _ in range(2)]
        with pytest.raises(QueueFull):
            await engine.submit(new_request("q"))
        assert engine.n_requests == 2
        for _ in range(4):
            gate.let_through()
        assert texts(merge(await collect(running))) == [("abc", "stop")]
        assert engine.n_requests == 1
        late = await engine.submit(new_request("q"))
        gate.open()
        assert texts(merge(await collect(waiting))) == texts(merge(await collect(late))) == [("abc", "stop")]


async def test_a_cancelled_request_frees_its_place_in_the_queue() -> None:
    gate = Gate()
    options = replace(OPTIONS, parallel=1, max_queue=0)
    async with engine_on(FakeRunner(gate=gate), options) as engine:
        generation = await engine.submit(new_request("q"))
        await gate.entered()
        generation.cancel()
        assert engine.n_requests == 0
        other = await engine.submit(new_request("p"))
        gate.open()
        assert texts(merge(await collect(other))) == [("ok", "stop")]


async def test_a_request_cancelled_during_tokenization_is_not_counted_any_more() -> None:
    vocabulary = SlowVocabulary()
    async with engine_on(FakeRunner(), vocabulary=vocabulary) as engine:
        submission = asyncio.create_task(engine.submit(new_request("x" * (INLINE_CHARACTERS + 1))))
        await asyncio.sleep(0)
        assert engine.n_requests == 1
        submission.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submission
        assert engine.n_requests == 0
        vocabulary.may_go_on.set()


# ---- Cancellation


async def test_a_cancelled_request_is_in_no_later_step() -> None:
    gate = Gate()
    runner = FakeRunner({"first": b"abcdefgh", "other": b"abcdefgh"}, gate=gate)
    async with engine_on(runner) as engine:
        first = await engine.submit(new_request("first"))
        await gate.entered()
        other = await engine.submit(new_request("other"))
        gate.let_through()
        await gate.entered()
        gate.let_through()
        await gate.entered()  # both decode
        first.cancel()
        gate.let_through()
        await gate.entered()
        gate.open()
        assert texts(merge(await collect(other))) == [("abcdefgh", "stop")]
    prompts = [[prompt for prompt, _ in step] for step in runner.steps]
    assert prompts[:4] == [["first"], ["first", "other"], ["first", "other"], ["other"]]
    assert (engine.stats.success.count, engine.stats.failure.count) == (1, 1)


async def test_a_cancelled_waiting_request_never_runs() -> None:
    gate = Gate()
    runner = FakeRunner(gate=gate)
    async with engine_on(runner, replace(OPTIONS, parallel=1)) as engine:
        first = await engine.submit(new_request("first"))
        await gate.entered()
        (await engine.submit(new_request("second"))).cancel()
        gate.open()
        assert texts(merge(await collect(first))) == [("ok", "stop")]
    assert {prompt for step in runner.steps for prompt, _ in step} == {"first"}


async def test_a_request_can_be_cancelled_before_the_engine_has_read_it() -> None:
    runner = FakeRunner()
    async with engine_on(runner) as engine:
        (await engine.submit(new_request("first", n=3))).cancel()
        assert texts(await answer(engine, new_request("second"))) == [("ok", "stop")]


async def test_cancelling_late_or_twice_changes_nothing() -> None:
    async with engine_on(FakeRunner()) as engine:
        generation = await engine.submit(new_request("q"))
        await collect(generation)
        generation.cancel()
        assert engine.n_requests == 0
        generation = await engine.submit(new_request("q"))
        generation.cancel()
        generation.cancel()
        assert engine.n_requests == 0
        assert texts(await answer(engine, new_request("q"))) == [("ok", "stop")]


async def test_a_request_can_be_cancelled_after_its_end_before_delivery() -> None:
    """The engine has finished the request, but its last delta is not delivered yet."""
    gate = Gate()
    async with engine_on(FakeRunner(gate=gate)) as engine:
        generation = await engine.submit(new_request("q", max_tokens=1))
        other = await engine.submit(new_request("other"))
        await gate.entered()
        gate.let_through()
        # blocks the event loop: when the next step begins, the first one's result is in the outbox, undelivered
        assert gate.entered_now()
        generation.cancel()
        gate.open()
        assert texts(merge(await collect(other))) == [("ok", "stop")]
        assert engine.n_requests == 0


async def test_a_cancelled_request_gets_no_more_deltas() -> None:
    gate = Gate()
    async with engine_on(FakeRunner({"q": b"abcdef"}, gate=gate)) as engine:
        generation = await engine.submit(new_request("q"))
        answers = aiter(generation)
        gate.let_through()
        assert texts(await anext(answers)) == [("a", None)]
        generation.cancel()
        gate.open()
        with pytest.raises(StopAsyncIteration):
            await anext(answers)


# ---- Deadlines


async def test_a_deadline_ends_a_running_request() -> None:
    gate, clock = Gate(), Clock()
    async with engine_on(FakeRunner({"q": b"abcdef", "p": b"abc"}, gate=gate), clock=clock) as engine:
        generation = await engine.submit(new_request("q", timeout=10.0))
        other = await engine.submit(new_request("p"))
        answers = aiter(generation)
        clock.now += 9
        gate.let_through()
        assert texts(await anext(answers)) == [("a", None)]
        await gate.entered()
        await gate.entered()
        clock.now += 1
        gate.open()
        assert texts(await anext(answers)) == [("b", None)]
        with pytest.raises(DeadlineExceeded):
            await anext(answers)
        assert texts(merge(await collect(other))) == [("abc", "stop")]
    assert engine.stats.failure.count == 1


async def test_a_deadline_ends_a_waiting_request() -> None:
    gate, clock = Gate(), Clock()
    runner = FakeRunner({"q": b"abc"}, gate=gate)
    async with engine_on(runner, replace(OPTIONS, parallel=1), clock=clock) as engine:
        first = await engine.submit(new_request("q"))
        await gate.entered()
        waiting = await engine.submit(new_request("p", timeout=1.0))
        clock.now += 2
        gate.open()
        with pytest.raises(DeadlineExceeded):
            await collect(waiting)
        assert texts(merge(await collect(first))) == [("abc", "stop")]
    assert {prompt for step in runner.steps for prompt, _ in step} == {"q"}


async def test_a_deadline_counts_from_arrival() -> None:
    """Time spent in tokenization counts."""
    vocabulary = SlowVocabulary()
    async with engine_on(FakeRunner(n_ctx=5000), vocabulary=vocabulary) as engine:
        with pytest.raises(DeadlineExceeded):
            await engine.submit(new_request("x" * (INLINE_CHARACTERS + 1), timeout=0.02))
        assert engine.n_requests == 0
        vocabulary.may_go_on.set()

    clock = Clock()
    vocabulary = SlowVocabulary()
    async with engine_on(FakeRunner(n_ctx=5000), vocabulary=vocabulary, clock=clock) as engine:
        submission = asyncio.create_task(engine.submit(new_request("x" * (INLINE_CHARACTERS + 1), timeout=60)))
        await asyncio.sleep(0)
        clock.now += 61
        vocabulary.may_go_on.set()
        with pytest.raises(DeadlineExceeded):
            await collect(await submission)


# ---- Failing sequences


@pytest.mark.parametrize("prompt_lookup", [0, 4])
@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("n_before_failure", [0, 1, 3])
async def test_a_failing_choice_fails_only_its_own_request(
    prompt_lookup: int, index: int, n_before_failure: int
) -> None:
    script = {**REPEAT, "question": b"a long answer", "other": b"another long answer"}
    failing = {(prompt, index): n_before_failure for prompt in ("question", PASSAGE)}
    runner = FakeRunner(script, failing=failing, prompt_lookup=prompt_lookup)
    async with engine_on(runner, replace(OPTIONS, parallel=8)) as engine:
        other = await engine.submit(new_request("other", n=2))
        for prompt in ("question", PASSAGE):
            with pytest.raises(EngineFailure, match="this sequence cannot go on"):
                await answer(engine, new_request(prompt, n=3))
        assert texts(merge(await collect(other))) == [("another long answer", "stop")] * 2
        assert runner.n_clears == 0, "the engine must not treat it as a failed step"
        assert (engine.stats.success.count, engine.stats.failure.count) == (1, 2)
        assert texts(await answer(engine, new_request("other"))) == [("another long answer", "stop")]


async def test_all_choices_of_a_request_may_fail_in_the_same_step() -> None:
    gate = Gate()
    runner = FakeRunner(failing={("question", index): 1 for index in range(3)}, gate=gate)
    async with engine_on(runner) as engine:
        failing, other = (
            await engine.submit(new_request("question", n=3)),
            await engine.submit(new_request("other")),
        )
        gate.open()
        with pytest.raises(EngineFailure):
            await collect(failing)
        assert texts(merge(await collect(other))) == [("ok", "stop")]
        assert runner.n_clears == 0
        assert engine.stats.failure.count == 1


# ---- Failing steps


async def test_a_step_that_does_not_fit_is_retried_with_fewer_sequences() -> None:
    """The memory is smaller than declared: cached prefixes are evicted, then the last request waits."""
    script = {"first": b"a" * 20, "other": b"b" * 20, "third": b"c" * 20}
    runner = FakeRunner(script, memory=FakeMemory(30))
    async with engine_on(runner) as engine:
        answers = await asyncio.gather(*(answer(engine, new_request(prompt)) for prompt in script))
    assert [texts(choices) for choices in answers] == [[(text.decode(), "stop")] for text in script.values()]
    assert engine.stats.failure.count == 0


async def test_a_request_that_does_not_fit_even_alone_fails() -> None:
    runner = FakeRunner({"12345": b"a" * 50}, memory=FakeMemory(20))
    async with engine_on(runner) as engine:
        with pytest.raises(EngineFailure, match="no room"):
            await answer(engine, new_request("12345"))
        assert texts(await answer(engine, new_request("small"))) == [("ok", "stop")]


async def test_a_failing_step_fails_its_requests_and_the_engine_continues() -> None:
    gate = Gate()
    runner = FakeRunner({"first": b"abc"}, gate=gate, failures=[None, RuntimeError("llama_decode returned -3")])
    async with engine_on(runner) as engine:
        first = await engine.submit(new_request("first", n=2))
        second = await engine.submit(new_request("second"))
        gate.open()
        for generation in (first, second):
            with pytest.raises(EngineFailure, match="llama_decode returned -3"):
                await collect(generation)
        assert runner.n_clears == 1
        assert (engine.n_requests, engine.n_free_cells) == (0, runner.n_cells)
        choices = await answer(engine, new_request("first"))
        assert texts(choices) == [("abc", "stop")]
        assert choices[0].cached_tokens == 0, "the cache must be empty after a failure"


async def test_deltas_before_an_error_are_delivered_and_the_answer_is_incomplete() -> None:
    gate = Gate()
    runner = FakeRunner({"q": b"abc"}, gate=gate, failures=[None, None, RuntimeError("no")])
    async with engine_on(runner) as engine:
        generation = await engine.submit(new_request("q"))
        for _ in range(3):
            await gate.entered()
            gate.let_through()
        gate.open()
        await engine.close()  # all deltas are in the mailbox now
        answers = aiter(generation)
        assert texts(await anext(answers)) == [("a", None), ("b", None)]
        assert (generation.done, generation.complete) == (True, False)
        with pytest.raises(EngineFailure):
            await anext(answers)


async def test_an_answer_is_complete_after_its_last_delta() -> None:
    gate = Gate()
    async with engine_on(FakeRunner({"q": b"a"}, gate=gate)) as engine:
        generation = await engine.submit(new_request("q"))
        answers = aiter(generation)
        for complete in (False, True):
            gate.let_through()
            await anext(answers)
            assert generation.complete is complete


# ---- Closing


async def test_closing_fails_running_and_waiting_requests() -> None:
    gate = Gate()
    options = replace(OPTIONS, parallel=1)
    async with engine_on(FakeRunner({"q": b"a" * 50}, gate=gate), options) as engine:
        running = await engine.submit(new_request("q"))
        await gate.entered()
        waiting = await engine.submit(new_request("p"))  # the engine has not read it yet
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0)
        with pytest.raises(Draining):
            await engine.submit(new_request("late"))
        gate.open()
        await closing
        with pytest.raises(Draining):
            await collect(running)
        with pytest.raises(Draining):
            await collect(waiting)
        assert engine.n_requests == 0


async def test_an_idle_engine_closes() -> None:
    async with engine_on(FakeRunner()) as engine:
        await answer(engine, new_request("q"))


async def test_closing_fails_a_request_whose_prompt_is_being_tokenized() -> None:
    vocabulary = SlowVocabulary()
    async with engine_on(FakeRunner(n_ctx=5000), vocabulary=vocabulary) as engine:
        submission = asyncio.create_task(engine.submit(new_request("x" * (INLINE_CHARACTERS + 1))))
        await asyncio.sleep(0)
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0)
        vocabulary.may_go_on.set()
        with pytest.raises(Draining):
            await submission
        await closing


async def test_closing_waits_for_the_tokenization_of_a_cancelled_request() -> None:
    """The vocabulary may be freed after closing."""
    vocabulary = SlowVocabulary()
    async with engine_on(FakeRunner(n_ctx=5000), vocabulary=vocabulary) as engine:
        submission = asyncio.create_task(engine.submit(new_request("x" * (INLINE_CHARACTERS + 1))))
        await asyncio.sleep(0)
        submission.cancel()
        closing = asyncio.create_task(engine.close())
        await asyncio.wait((closing,), timeout=0.2)
        assert not closing.done()
        vocabulary.may_go_on.set()
        await closing


# ---- Costs


Ts = TypeVarTuple("Ts")


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts how often an engine's thread wakes it up to deliver its outbox."""

    n_wakeups = 0

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        self.n_wakeups += getattr(callback, "__self__", None).__class__ is Engine
        return super().call_soon_threadsafe(callback, *args, context=context)


def test_a_step_wakes_the_event_loop_once() -> None:
    runner = FakeRunner({f"question {i}": b"a" * 20 for i in range(4)})
    loop = CountingLoop()

    async def answer_all() -> None:
        async with engine_on(runner) as engine:
            await asyncio.gather(*(answer(engine, new_request(prompt)) for prompt in runner.script))

    with asyncio.Runner(loop_factory=lambda: loop) as asyncio_runner:
        asyncio_runner.run(answer_all())
    assert 20 <= loop.n_wakeups <= len(runner.steps)
    assert loop.n_wakeups < sum(len(step) for step in runner.steps)


async def test_the_engine_counts_requests_steps_and_tokens() -> None:
    runner = FakeRunner({"q": b"abc"})
    async with engine_on(runner) as engine:
        assert engine.stats.last_request_ms == 0
        await answer(engine, new_request("q"))
        await answer(engine, new_request("q", n=2))
        stats = engine.stats
        assert (stats.success.count, stats.failure.count, stats.queue.count) == (2, 0, 2)
        assert stats.generated_tokens == 3 * 4
        assert stats.last_request_ms > 0
        assert stats.steps.count == len(runner.steps)
        assert stats.steps.ns > 0
        assert stats.success.ns >= stats.queue.ns > 0
