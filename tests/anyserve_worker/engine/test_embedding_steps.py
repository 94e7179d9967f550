"""Embeddings, scores and tokens from the engine: run beside generation, cancelled and failed in the same ways."""

import asyncio
from array import array
from dataclasses import replace

import pytest

from anyserve_worker.core.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    Draining,
    EngineFailure,
    InvalidRequest,
    QueueFull,
)
from anyserve_worker.core.spans import Spans
from anyserve_worker.core.task_requests import DetokenizeRequest, EmbedRequest, RankRequest, TokenizeRequest
from anyserve_worker.engine.engine import Engine
from anyserve_worker.engine.stats import EngineLoad
from anyserve_worker.engine.tokenizer import INLINE_CHARACTERS, MIN_TOKENIZE_LIMIT
from anyserve_worker.scheduling.embedding_queue import EmbeddingJob, finished_vector
from tests.anyserve_worker.engine.test_engine import OPTIONS, Clock, collect, engine_on, new_request, texts
from tests.anyserve_worker.fakes import WAIT_TIMEOUT, ByteVocabulary, FakeRunner, FakeVectorRunner, Gate, SlowVocabulary


def vector(job: EmbeddingJob) -> list[float]:
    return [float(element) for element in finished_vector(job, normalize=False, dimensions=None)]


async def embed(engine: Engine, prompt: str, pooling: str = "last") -> list[float]:
    async with asyncio.timeout(WAIT_TIMEOUT):
        return vector(await engine.embed(EmbedRequest(prompt, pooling)))


# ---- Load


async def test_prompts_to_embed_are_part_of_the_load() -> None:
    gate = Gate()
    vector_runner = FakeVectorRunner(n_batch=16, n_sequences=4, gate=gate)
    async with engine_on(FakeRunner(), vector_runner=vector_runner) as engine:
        n_cells = engine.n_cells
        assert engine.load == EngineLoad(n_waiting=0, n_running=0, n_cells=n_cells, n_running_cells=0)
        first = asyncio.create_task(embed(engine, "x"))
        await gate.entered()
        assert engine.load == EngineLoad(n_waiting=0, n_running=1, n_cells=n_cells, n_running_cells=0)
        gate.open()
        await first


async def test_a_running_sequence_is_part_of_the_load_and_its_cached_prefix_is_not() -> None:
    gate = Gate()
    async with engine_on(FakeRunner(gate=gate)) as engine:
        generation = await engine.submit(new_request("hello"))
        await gate.entered()
        load = engine.load
        assert (load.n_waiting, load.n_running) == (0, 1)
        assert load.n_running_cells >= 5
        gate.open()
        await collect(generation)
        while engine.n_running:  # noqa: ASYNC110  # the engine's thread ends it
            await asyncio.sleep(0.001)
        assert engine.n_free_cells < engine.n_cells
        assert engine.load.n_running_cells == 0


# ---- Results


async def test_a_text_gets_special_tokens_and_token_ids_are_embedded_unchanged() -> None:
    async with engine_on(FakeRunner(), vector_runner=FakeVectorRunner()) as engine:
        assert await embed(engine, "ab") == [ord("b"), 2, 1]  # after the begin token
        job = await engine.embed(EmbedRequest([5, 7]))
        assert vector(job) == [6, 0.5, 1]  # the model's default pooling is the mean
    assert engine.stats.success.count == 2
    assert engine.stats.prompt_tokens == 5


async def test_the_score_of_a_pair_is_that_of_its_joined_tokens() -> None:
    async with engine_on(FakeRunner(), vector_runner=FakeVectorRunner(ranks=True)) as engine:
        job = await engine.embed(RankRequest("a", "b"))
    assert job.vector is not None
    assert job.vector.tolist() == [ord("a") + ord("|") + ord("b")]


async def test_concurrent_requests_share_batches_and_get_their_own_vectors() -> None:
    gate = Gate()
    vector_runner = FakeVectorRunner(n_batch=16, n_sequences=4, gate=gate)
    async with engine_on(FakeRunner(), vector_runner=vector_runner) as engine:
        first = asyncio.create_task(embed(engine, "x"))
        await gate.entered()
        others = [asyncio.create_task(embed(engine, letter * 3)) for letter in "abcdef"]
        await asyncio.sleep(0)
        gate.open()
        assert await first == [ord("x"), 1, 1]
        assert [await other for other in others] == [[ord(letter), 3, 1] for letter in "abcdef"]
    assert vector_runner.batches == [[2], [4, 4, 4, 4], [4, 4]]


@pytest.mark.parametrize("ranks", [False, True])
async def test_a_caller_with_one_text_does_not_wait_for_all_texts_of_another(ranks: bool) -> None:
    def task_request(text: str, caller: str) -> EmbedRequest | RankRequest:
        return RankRequest("q", text, caller=caller) if ranks else EmbedRequest(text, caller=caller)

    gate = Gate()
    order: list[str] = []

    async def embed_for(text: str, caller: str) -> None:
        await engine.embed(task_request(text, caller))
        order.append(text)

    async with engine_on(FakeRunner(), vector_runner=FakeVectorRunner(n_batch=12, gate=gate, ranks=ranks)) as engine:
        tasks = [asyncio.create_task(embed_for(f"many {k}", "many")) for k in range(8)]
        await gate.entered()
        tasks.append(asyncio.create_task(embed_for("one text", "one")))
        await asyncio.sleep(0)
        gate.open()
        await asyncio.gather(*tasks)
    assert order.index("one text") <= 2


async def test_generation_continues_between_batches() -> None:
    gate = Gate()
    vector_runner = FakeVectorRunner(n_batch=10, gate=gate)
    async with engine_on(FakeRunner({"q": b"abcdefghijklmn"}), vector_runner=vector_runner) as engine:
        long = asyncio.create_task(embed(engine, "x" * 39))
        await gate.entered()
        generation = await engine.submit(new_request("q"))
        for _ in range(3):  # a step runs before each of the three chunks left
            gate.let_through()
            await gate.entered()
        gate.let_through()
        assert await long == [ord("x"), 39, 1]
        assert texts(await collect(generation))[-1] == ("", "stop")
    assert vector_runner.batches == [[10]] * 4


# ---- Rejected requests


@pytest.mark.parametrize(
    ("request_", "tensor"),
    [
        (EmbedRequest("x" * 100), "prompt"),
        (EmbedRequest([1] * 101), "prompt_token_ids"),
        (EmbedRequest("x" * 10_000), "prompt"),
        (RankRequest("q", "x" * 100), "document"),
        (RankRequest("x" * 100, "d"), "prompt"),
        (RankRequest("q", "x" * 10_000), "document"),
    ],
)
async def test_a_text_longer_than_the_context_is_rejected(request_: EmbedRequest | RankRequest, tensor: str) -> None:
    async with engine_on(FakeRunner(), vector_runner=FakeVectorRunner(n_ctx=100)) as engine:
        with pytest.raises(ContextLengthExceeded, match="maximum context length is 100 tokens") as caught:
            await engine.embed(request_)
        assert caught.value.tensor == tensor
        # embedding needs no room for an answer
        assert vector(await engine.embed(EmbedRequest([1] * 100))) == [1, 49.5, 1]


async def test_more_dimensions_than_the_model_has_are_rejected() -> None:
    async with engine_on(FakeRunner(), vector_runner=FakeVectorRunner()) as engine:
        with pytest.raises(InvalidRequest) as caught:
            await engine.embed(EmbedRequest("x", dimensions=4))
        assert caught.value.tensor == "dimensions"
        await engine.embed(EmbedRequest("x", dimensions=3))


async def test_an_empty_prompt_is_rejected() -> None:
    class Plain(ByteVocabulary):
        def tokens_of(
            self, text: str, *, add_special: bool = False, parse_special: bool = True, plain: Spans = ()
        ) -> "array[int]":
            return super().tokens_of(text, add_special=False, parse_special=parse_special)

        def ranked_pair(self, query: str, document: str) -> "array[int]":
            return array("i")

    async with engine_on(FakeRunner(), vocabulary=Plain(), vector_runner=FakeVectorRunner()) as engine:
        for request in (EmbedRequest(""), RankRequest("", "")):
            with pytest.raises(InvalidRequest, match="'prompt': empty"):
                await engine.embed(request)


async def test_all_tasks_share_one_queue_limit() -> None:
    gate = Gate()
    options = replace(OPTIONS, parallel=1, max_queue=1)
    async with engine_on(FakeRunner(), options, vector_runner=FakeVectorRunner(gate=gate)) as engine:
        first = asyncio.create_task(embed(engine, "a"))
        await gate.entered()
        generation = await engine.submit(new_request("q"))
        for call in (
            engine.embed(EmbedRequest("b")),
            engine.tokenize(TokenizeRequest("b")),
            engine.detokenize(DetokenizeRequest([1])),
            engine.submit(new_request("q")),
        ):
            with pytest.raises(QueueFull):
                await call
        gate.open()
        await first
        assert texts(await collect(generation))[-1] == ("", "stop")


# ---- Cancellation, deadlines, failures


async def test_a_cancelled_request_is_in_no_later_batch() -> None:
    gate = Gate()
    vector_runner = FakeVectorRunner(n_batch=10, gate=gate)
    async with engine_on(FakeRunner(), vector_runner=vector_runner) as engine:
        long = asyncio.create_task(embed(engine, "x" * 39))
        await gate.entered()
        waiting = asyncio.create_task(embed(engine, "w" * 5))
        other = asyncio.create_task(embed(engine, "o"))
        await asyncio.sleep(0)
        for task in (long, waiting):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert engine.n_requests == 1
        gate.open()
        assert await other == [ord("o"), 1, 1]
    assert vector_runner.batches == [[10], [2]]
    assert (engine.stats.success.count, engine.stats.failure.count) == (1, 2)


async def test_a_deadline_ends_only_its_own_request() -> None:
    gate, clock = Gate(), Clock()
    vector_runner = FakeVectorRunner(n_batch=10, gate=gate)
    async with engine_on(FakeRunner(), clock=clock, vector_runner=vector_runner) as engine:
        late = asyncio.create_task(engine.embed(EmbedRequest("x" * 39, timeout=5)))
        await gate.entered()
        in_time = asyncio.create_task(engine.embed(EmbedRequest("x", timeout=50)))
        await asyncio.sleep(0)
        clock.now += 6
        gate.open()
        with pytest.raises(DeadlineExceeded):
            await late
        assert vector(await in_time) == [(1 + ord("x")) / 2, 0.5, 1]


async def test_a_failing_batch_fails_only_its_own_requests() -> None:
    gate = Gate()
    vector_runner = FakeVectorRunner(n_batch=10, failures=[None, RuntimeError("broken")], gate=gate)
    async with engine_on(FakeRunner({"q": b"abcdefghijklmn"}), vector_runner=vector_runner) as engine:
        long = asyncio.create_task(engine.embed(EmbedRequest("x" * 39)))
        await gate.entered()
        generation = await engine.submit(new_request("q"))
        waiting = asyncio.create_task(embed(engine, "w"))
        gate.open()
        with pytest.raises(EngineFailure, match="broken"):
            await long
        assert await waiting == [ord("w"), 1, 1]
        assert texts(await collect(generation))[-1] == ("", "stop")
        assert await embed(engine, "a") == [ord("a"), 1, 1]


async def test_closing_fails_running_and_waiting_requests() -> None:
    gate = Gate()
    async with engine_on(FakeRunner(), vector_runner=FakeVectorRunner(n_batch=10, gate=gate)) as engine:
        running = asyncio.create_task(engine.embed(EmbedRequest("x" * 39)))
        await gate.entered()
        waiting = asyncio.create_task(engine.embed(EmbedRequest("w")))
        await asyncio.sleep(0)
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0)
        gate.open()
        await closing
        for task in (running, waiting):
            with pytest.raises(Draining):
                await task
        for call in (engine.embed(EmbedRequest("x")), engine.tokenize(TokenizeRequest("x"))):
            with pytest.raises(Draining):
                await call


# ---- Tokens


async def test_a_text_is_tokenized_and_tokens_are_turned_into_text() -> None:
    async with engine_on(FakeRunner()) as engine:
        ids, pieces = await engine.tokenize(TokenizeRequest("a#"))
        assert (list(ids), pieces) == ([97, 2], [b"a", b"\2"])
        ids, _ = await engine.tokenize(TokenizeRequest("a#", add_special=True, parse_special=False))
        assert list(ids) == [1, 97, 35]
        assert await engine.detokenize(DetokenizeRequest([104, 105])) == b"hi"
        assert await engine.detokenize(DetokenizeRequest([])) == b""
        with pytest.raises(InvalidRequest) as caught:
            await engine.detokenize(DetokenizeRequest([256]))
        assert caught.value.tensor == "prompt_token_ids"
    assert engine.n_requests == 0


async def test_a_text_to_tokenize_may_exceed_a_short_context() -> None:
    async with engine_on(FakeRunner(n_ctx=100)) as engine:
        ids, _ = await engine.tokenize(TokenizeRequest("x" * MIN_TOKENIZE_LIMIT))
        assert len(ids) == MIN_TOKENIZE_LIMIT
        for n in (MIN_TOKENIZE_LIMIT + 1, 100 * MIN_TOKENIZE_LIMIT):
            with pytest.raises(ContextLengthExceeded, match=f"at most {MIN_TOKENIZE_LIMIT}"):
                await engine.tokenize(TokenizeRequest("x" * n))


async def test_only_the_beginning_of_a_far_too_long_text_is_tokenized() -> None:
    lengths: list[int] = []

    class Counting(ByteVocabulary):
        def tokens_of(
            self, text: str, *, add_special: bool = False, parse_special: bool = True, plain: Spans = ()
        ) -> "array[int]":
            lengths.append(len(text))
            return super().tokens_of(text, add_special=add_special, parse_special=parse_special)

    long = "x" * 10_000_000
    async with engine_on(FakeRunner(), vocabulary=Counting(), vector_runner=FakeVectorRunner(n_ctx=100)) as engine:
        for call in (
            engine.embed(EmbedRequest(long)),
            engine.embed(RankRequest("q", long)),
            engine.tokenize(TokenizeRequest(long)),
        ):
            with pytest.raises(ContextLengthExceeded):
                await call
    assert max(lengths) <= 4 * MIN_TOKENIZE_LIMIT


async def test_a_request_cancelled_during_tokenization_is_not_counted_any_more() -> None:
    class Slow(SlowVocabulary):
        def tokens_of(
            self, text: str, *, add_special: bool = False, parse_special: bool = True, plain: Spans = ()
        ) -> "array[int]":
            assert self.may_go_on.wait(WAIT_TIMEOUT)
            return super().tokens_of(text, add_special=add_special, parse_special=parse_special)

    vocabulary = Slow()
    async with engine_on(FakeRunner(), vocabulary=vocabulary, vector_runner=FakeVectorRunner()) as engine:
        long = "x" * (INLINE_CHARACTERS + 1)
        for call in (engine.embed(EmbedRequest(long)), engine.tokenize(TokenizeRequest(long))):
            task = asyncio.create_task(call)
            await asyncio.sleep(0)
            assert engine.n_requests == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert engine.n_requests == 0
        vocabulary.may_go_on.set()
