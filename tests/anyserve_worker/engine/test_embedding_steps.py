"""Embeddings, scores and tokens from the engine: beside generation, and with the same ends."""

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
from anyserve_worker.engine.tokenizer import INLINE_CHARACTERS, MIN_TOKENIZE_LIMIT
from anyserve_worker.scheduling.embedding_queue import EmbeddingJob, finished_vector
from tests.anyserve_worker.engine.test_engine import OPTIONS, Clock, ask, collect, engine_on, said
from tests.anyserve_worker.fakes import PATIENCE, ByteVocabulary, FakeRunner, FakeVectorRunner, Gate, SlowVocabulary


def vector(job: EmbeddingJob) -> list[float]:
    return [float(element) for element in finished_vector(job, normalize=False, dimensions=None)]


async def embed(engine: Engine, prompt: str, pooling: str = "last") -> list[float]:
    async with asyncio.timeout(PATIENCE):
        return vector(await engine.embed(EmbedRequest(prompt, pooling)))


# ---- What comes out


async def test_a_text_is_embedded_with_the_tokens_around_it_and_token_ids_as_they_are() -> None:
    async with engine_on(FakeRunner(), vector_runner=FakeVectorRunner()) as engine:
        assert await embed(engine, "ab") == [ord("b"), 2, 1]  # Behind the token of the beginning.
        job = await engine.embed(EmbedRequest([5, 7]))
        assert vector(job) == [6, 0.5, 1]  # The model's own way is the mean.
    assert engine.stats.success.count == 2
    assert engine.stats.prompt_tokens == 5


async def test_a_pair_is_ranked() -> None:
    async with engine_on(FakeRunner(), vector_runner=FakeVectorRunner(ranks=True)) as engine:
        job = await engine.embed(RankRequest("a", "b"))
    assert job.vector is not None
    assert job.vector.tolist() == [ord("a") + ord("|") + ord("b")]


async def test_many_at_once_share_batches_and_keep_their_own() -> None:
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
async def test_a_caller_with_one_text_does_not_wait_for_another_callers_many(ranks: bool) -> None:
    def ask_for(text: str, caller: str) -> EmbedRequest | RankRequest:
        return RankRequest("q", text, caller=caller) if ranks else EmbedRequest(text, caller=caller)

    gate = Gate()
    order: list[str] = []

    async def embed_for(text: str, caller: str) -> None:
        await engine.embed(ask_for(text, caller))
        order.append(text)

    async with engine_on(FakeRunner(), vector_runner=FakeVectorRunner(n_batch=12, gate=gate, ranks=ranks)) as engine:
        tasks = [asyncio.create_task(embed_for(f"many {k}", "many")) for k in range(8)]
        await gate.entered()
        tasks.append(asyncio.create_task(embed_for("one text", "one")))
        await asyncio.sleep(0)
        gate.open()
        await asyncio.gather(*tasks)
    assert order.index("one text") <= 2


async def test_streams_go_on_between_batches() -> None:
    gate = Gate()
    vector_runner = FakeVectorRunner(n_batch=10, gate=gate)
    async with engine_on(FakeRunner({"q": b"abcdefghijklmn"}), vector_runner=vector_runner) as engine:
        long = asyncio.create_task(embed(engine, "x" * 39))
        await gate.entered()
        generation = await engine.submit(ask("q"))
        for _ in range(3):  # One of four chunks was begun: each of the next three comes behind a step.
            gate.let_through()
            await gate.entered()
        gate.let_through()
        assert await long == [ord("x"), 39, 1]
        assert said(await collect(generation))[-1] == ("", "stop")
    assert vector_runner.batches == [[10]] * 4


# ---- What is refused


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
async def test_a_text_past_the_context(request_: EmbedRequest | RankRequest, tensor: str) -> None:
    async with engine_on(FakeRunner(), vector_runner=FakeVectorRunner(n_ctx=100)) as engine:
        with pytest.raises(ContextLengthExceeded, match="maximum context length is 100 tokens") as refused:
            await engine.embed(request_)
        assert refused.value.tensor == tensor
        # To embed needs no room for an answer.
        assert vector(await engine.embed(EmbedRequest([1] * 100))) == [1, 49.5, 1]


async def test_more_dimensions_than_there_are() -> None:
    async with engine_on(FakeRunner(), vector_runner=FakeVectorRunner()) as engine:
        with pytest.raises(InvalidRequest) as refused:
            await engine.embed(EmbedRequest("x", dimensions=4))
        assert refused.value.tensor == "dimensions"
        await engine.embed(EmbedRequest("x", dimensions=3))


async def test_nothing_to_embed() -> None:
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


async def test_the_queue_is_one_for_all() -> None:
    gate = Gate()
    options = replace(OPTIONS, parallel=1, max_queue=1)
    async with engine_on(FakeRunner(), options, vector_runner=FakeVectorRunner(gate=gate)) as engine:
        first = asyncio.create_task(embed(engine, "a"))
        await gate.entered()
        generation = await engine.submit(ask("q"))
        for refused in (
            engine.embed(EmbedRequest("b")),
            engine.tokenize(TokenizeRequest("b")),
            engine.detokenize(DetokenizeRequest([1])),
            engine.submit(ask("q")),
        ):
            with pytest.raises(QueueFull):
                await refused
        gate.open()
        await first
        assert said(await collect(generation))[-1] == ("", "stop")


# ---- Ends


async def test_who_goes_away_is_gone_by_the_next_batch() -> None:
    gate = Gate()
    vector_runner = FakeVectorRunner(n_batch=10, gate=gate)
    async with engine_on(FakeRunner(), vector_runner=vector_runner) as engine:
        long = asyncio.create_task(embed(engine, "x" * 39))
        await gate.entered()
        waiting = asyncio.create_task(embed(engine, "w" * 5))
        other = asyncio.create_task(embed(engine, "o"))
        await asyncio.sleep(0)
        for gone in (long, waiting):
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
        assert engine.n_requests == 1
        gate.open()
        assert await other == [ord("o"), 1, 1]
    assert vector_runner.batches == [[10], [2]]
    assert (engine.stats.success.count, engine.stats.failure.count) == (1, 2)


async def test_a_deadline() -> None:
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


async def test_a_batch_that_fails_takes_nobody_else_with_it() -> None:
    gate = Gate()
    vector_runner = FakeVectorRunner(n_batch=10, failures=[None, RuntimeError("broken")], gate=gate)
    async with engine_on(FakeRunner({"q": b"abcdefghijklmn"}), vector_runner=vector_runner) as engine:
        long = asyncio.create_task(engine.embed(EmbedRequest("x" * 39)))
        await gate.entered()
        generation = await engine.submit(ask("q"))
        waiting = asyncio.create_task(embed(engine, "w"))
        gate.open()
        with pytest.raises(EngineFailure, match="broken"):
            await long
        assert await waiting == [ord("w"), 1, 1]
        assert said(await collect(generation))[-1] == ("", "stop")
        assert await embed(engine, "a") == [ord("a"), 1, 1]


async def test_closing_fails_what_is_there() -> None:
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
        for failed in (running, waiting):
            with pytest.raises(Draining):
                await failed
        for refused in (engine.embed(EmbedRequest("x")), engine.tokenize(TokenizeRequest("x"))):
            with pytest.raises(Draining):
                await refused


# ---- Tokens


async def test_tokens_and_what_they_stand_for() -> None:
    async with engine_on(FakeRunner()) as engine:
        ids, pieces = await engine.tokenize(TokenizeRequest("a#"))
        assert (list(ids), pieces) == ([97, 2], [b"a", b"\2"])
        ids, _ = await engine.tokenize(TokenizeRequest("a#", add_special=True, parse_special=False))
        assert list(ids) == [1, 97, 35]
        assert await engine.detokenize(DetokenizeRequest([104, 105])) == b"hi"
        assert await engine.detokenize(DetokenizeRequest([])) == b""
        with pytest.raises(InvalidRequest) as refused:
            await engine.detokenize(DetokenizeRequest([256]))
        assert refused.value.tensor == "prompt_token_ids"
    assert engine.n_requests == 0


async def test_a_text_may_have_more_tokens_than_a_short_context() -> None:
    async with engine_on(FakeRunner(n_ctx=100)) as engine:
        ids, _ = await engine.tokenize(TokenizeRequest("x" * MIN_TOKENIZE_LIMIT))
        assert len(ids) == MIN_TOKENIZE_LIMIT
        for n in (MIN_TOKENIZE_LIMIT + 1, 100 * MIN_TOKENIZE_LIMIT):
            with pytest.raises(ContextLengthExceeded, match=f"at most {MIN_TOKENIZE_LIMIT}"):
                await engine.tokenize(TokenizeRequest("x" * n))


async def test_a_text_far_too_long_is_not_tokenized_to_its_end() -> None:
    seen: list[int] = []

    class Counting(ByteVocabulary):
        def tokens_of(
            self, text: str, *, add_special: bool = False, parse_special: bool = True, plain: Spans = ()
        ) -> "array[int]":
            seen.append(len(text))
            return super().tokens_of(text, add_special=add_special, parse_special=parse_special)

    long = "x" * 10_000_000
    async with engine_on(FakeRunner(), vocabulary=Counting(), vector_runner=FakeVectorRunner(n_ctx=100)) as engine:
        for refused in (
            engine.embed(EmbedRequest(long)),
            engine.embed(RankRequest("q", long)),
            engine.tokenize(TokenizeRequest(long)),
        ):
            with pytest.raises(ContextLengthExceeded):
                await refused
    assert max(seen) <= 4 * MIN_TOKENIZE_LIMIT


async def test_who_leaves_while_a_text_is_tokenized() -> None:
    class Slow(SlowVocabulary):
        def tokens_of(
            self, text: str, *, add_special: bool = False, parse_special: bool = True, plain: Spans = ()
        ) -> "array[int]":
            assert self.may_go_on.wait(PATIENCE)
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
