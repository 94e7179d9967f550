"""Background work in the engine: it makes way for requests that arrive, and has limits of its own."""

import asyncio

import pytest

from anyserve_worker.core.errors import QueueFull
from anyserve_worker.core.options import ModelOptions
from anyserve_worker.core.task_requests import EmbedRequest
from anyserve_worker.engine.interruption import Interruption
from protos import contract
from tests.anyserve_worker.engine.test_engine import OPTIONS, answer, collect, engine_on, new_request, texts
from tests.anyserve_worker.fakes import WAIT_TIMEOUT, FakeMemory, FakeRunner, FakeVectorRunner, Gate

BATCH = contract.BATCH_PRIORITY
LINES = {f"line {k}": b"x" * (3 + k) for k in range(6)}


async def test_an_arrival_interrupts_a_step_of_background_work() -> None:
    gate = Gate()
    runner = FakeRunner({**LINES, "chat": b"now"}, gate=gate, interruptible=True)
    async with engine_on(runner) as engine:
        lines = [asyncio.create_task(answer(engine, new_request(line, priority=BATCH))) for line in LINES]
        for _ in range(4):
            await gate.entered()
            gate.let_through()
        await gate.entered()
        chat = asyncio.create_task(answer(engine, new_request("chat")))
        while not runner._interrupted:  # noqa: ASYNC110  # the request is prepared first
            await asyncio.sleep(0)
        gate.open()
        assert texts(await chat) == [("now", "stop")]
        assert [texts(await line) for line in lines] == [[(text.decode(), "stop")] for text in LINES.values()]
    assert runner.n_interrupted == engine.stats.interrupted_steps == 1
    assert engine.stats.background_tokens > 0


@pytest.mark.parametrize("priority", [contract.FLEX_PRIORITY, BATCH])
async def test_background_work_interrupts_nothing(priority: int) -> None:
    gate = Gate()
    runner = FakeRunner(LINES, gate=gate, interruptible=True)
    async with engine_on(runner) as engine:
        first = asyncio.create_task(answer(engine, new_request("line 0", priority=BATCH)))
        await gate.entered()
        second = asyncio.create_task(answer(engine, new_request("line 1", priority=priority)))
        while engine.n_requests < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
        gate.open()
        await asyncio.gather(first, second)
    assert runner.n_interrupted == 0


async def test_ordinary_requests_finish_before_background_work_that_came_first() -> None:
    gate = Gate()
    # Background rows may be added to steps, so the lines are longer than all chats together.
    script = {**dict.fromkeys(LINES, b"x" * 80), **{f"chat {k}": b"answer" for k in range(8)}}
    options = ModelOptions(parallel=4, max_queue=8, prefill_chunk=16, background_share=0)
    async with engine_on(FakeRunner(script, gate=gate), options) as engine:
        ended: list[str] = []

        async def run(prompt: str, priority: int) -> None:
            await answer(engine, new_request(prompt, priority=priority))
            ended.append(prompt)

        tasks = [asyncio.create_task(run(line, BATCH)) for line in LINES]
        await gate.entered()
        tasks += [asyncio.create_task(run(f"chat {k}", 0)) for k in range(8)]
        while engine.n_requests < len(tasks):  # noqa: ASYNC110
            await asyncio.sleep(0)
        gate.open()
        await asyncio.gather(*tasks)
    assert set(ended[:8]) == {f"chat {k}" for k in range(8)}


async def test_background_work_fills_no_queue_but_its_own() -> None:
    gate = Gate()
    async with engine_on(FakeRunner(gate=gate)) as engine:
        limit = OPTIONS.parallel + OPTIONS.max_queue
        lines = [await engine.submit(new_request(f"line {k}", priority=BATCH)) for k in range(limit)]
        with pytest.raises(QueueFull, match="12 background requests"):
            await engine.submit(new_request("one more", priority=contract.FLEX_PRIORITY))
        chats = [await engine.submit(new_request(f"chat {k}")) for k in range(limit)]
        with pytest.raises(QueueFull, match="12 requests"):
            await engine.submit(new_request("one more"))
        assert engine.load.n_waiting + engine.load.n_running <= limit
        gate.open()
        for generation in (*lines, *chats):
            await collect(generation)


async def test_background_work_is_no_load() -> None:
    gate = Gate()
    async with engine_on(FakeRunner(gate=gate)) as engine:
        generation = await engine.submit(new_request("line", priority=BATCH))
        await gate.entered()
        assert (engine.load.n_waiting, engine.load.n_running, engine.load.n_running_cells) == (0, 0, 0)
        assert engine.n_running == 1
        gate.open()
        await collect(generation)


async def test_a_memory_without_room_makes_background_work_yield() -> None:
    """The memory has fewer cells than the scheduler counts with, as a fragmented one has."""
    runner = FakeRunner({**LINES, "chat": b"answer"}, n_cells=400, memory=FakeMemory(40))
    async with engine_on(runner) as engine:
        requests = [new_request(line, priority=BATCH) for line in LINES] + [new_request("chat")]
        answers = await asyncio.gather(*(answer(engine, request) for request in requests))
    assert [texts(deltas) for deltas in answers] == [
        [(text, "stop")] for text in (*(text.decode() for text in LINES.values()), "answer")
    ]


async def test_a_failing_step_fails_background_work_as_well() -> None:
    runner = FakeRunner(LINES, failures=[None, RuntimeError("broken")])
    async with engine_on(runner) as engine:
        generations = [await engine.submit(new_request(line, priority=BATCH)) for line in LINES]
        results = await asyncio.gather(*(collect(generation) for generation in generations), return_exceptions=True)
        assert all(isinstance(result, Exception) for result in results)
        assert texts(await answer(engine, new_request("line 0", priority=BATCH))) == [("xxx", "stop")]


async def test_cancelled_background_work_frees_its_cells() -> None:
    gate = Gate()
    async with engine_on(FakeRunner(LINES, gate=gate), ModelOptions(parallel=4, prefix_cache=False)) as engine:
        lines = [await engine.submit(new_request(line, priority=BATCH)) for line in LINES]
        await gate.entered()
        gate.let_through()
        await gate.entered()
        for line in lines:
            line.cancel()
        gate.open()


# ---- Embeddings


async def test_ordinary_embeddings_come_before_background_ones() -> None:
    gate = Gate()
    vector_runner = FakeVectorRunner(n_batch=16, n_sequences=4, gate=gate)
    async with engine_on(FakeRunner(), vector_runner=vector_runner) as engine:
        order: list[str] = []

        async def embed(text: str, priority: int) -> None:
            async with asyncio.timeout(WAIT_TIMEOUT):
                await engine.embed(EmbedRequest(text, priority=priority))
            order.append(text)

        first = asyncio.create_task(embed("first", BATCH))
        await gate.entered()
        others = [asyncio.create_task(embed(f"line {k}", BATCH)) for k in range(4)]
        others += [asyncio.create_task(embed(f"text {k}", 0)) for k in range(4)]
        while engine.n_requests < 9:  # noqa: ASYNC110
            await asyncio.sleep(0)
        gate.open()
        await asyncio.gather(first, *others)
    assert order[1:5] == [f"text {k}" for k in range(4)]


async def test_background_embeddings_wait_for_ordinary_text() -> None:
    vector_runner = FakeVectorRunner()
    runner = FakeRunner({"chat": b"answer"})
    options = ModelOptions(parallel=4, background_share=0)
    async with engine_on(runner, options, vector_runner=vector_runner) as engine:
        n_steps = asyncio.get_running_loop().create_future()

        async def embed() -> None:
            await engine.embed(EmbedRequest("text", priority=BATCH))
            n_steps.set_result(len(runner.steps))

        gate = runner.gate = Gate()
        generation = await engine.submit(new_request("chat"))
        await gate.entered()
        task = asyncio.create_task(embed())
        while engine.n_requests < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
        gate.open()
        await collect(generation)
        await task
    assert n_steps.result() == len(runner.steps)


# ---- Interruptions


class Flag:
    def __init__(self) -> None:
        self.values: list[bool] = []

    def interrupt(self, value: bool) -> None:
        self.values.append(value)


def test_a_request_interrupts_only_a_step_that_allows_it() -> None:
    flag = Flag()
    interruption = Interruption(flag)
    interruption.request()
    interruption.forget()
    assert flag.values == []
    with interruption.allowed():
        interruption.request()
        assert flag.values == [True]
    assert flag.values == [True, False]
    interruption.request()
    assert flag.values == [True, False]


def test_a_request_that_came_before_the_step_interrupts_it() -> None:
    flag = Flag()
    interruption = Interruption(flag)
    interruption.forget()
    interruption.request()
    with interruption.allowed():
        assert flag.values == [True]


def test_a_failed_step_allows_no_interruption_any_more() -> None:
    flag = Flag()
    interruption = Interruption(flag)
    with pytest.raises(RuntimeError, match="broken"), interruption.allowed():
        raise RuntimeError("broken")
    interruption.request()
    assert flag.values == [False]
