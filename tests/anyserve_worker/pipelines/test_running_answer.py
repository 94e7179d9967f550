"""A request to a pipeline as the worker sees it: batches, acknowledgements, time limits, outcomes."""

import asyncio

import pytest

from anyserve_worker.core.errors import DeadlineExceeded, ModelNotReady, WorkerError
from anyserve_worker.pipelines.running_answer import Batch, PipelineRequest, RunningAnswer


class Run:
    """A request, and what it has called."""

    def __init__(self, *, timeout: float = 60, idle_timeout: float = 60, own_timeout: float | None = None) -> None:
        self.acknowledged: list[int] = []
        self.n_cancelled = 0
        self.ended: list[str] = []
        request = PipelineRequest("m", [b"[]"], timeout=own_timeout)
        self.answer = RunningAnswer(
            request,
            timeout=timeout,
            idle_timeout=idle_timeout,
            on_end=lambda answer: self.ended.append(answer.outcome),
        )
        self.answer.when_cancelled(self._cancel)

    def _cancel(self) -> None:
        self.n_cancelled += 1

    def begin(self) -> "Run":
        self.answer.begin(self.acknowledged.append)
        return self

    async def batches(self) -> list[Batch]:
        async with asyncio.timeout(5):
            return [batch async for batch in self.answer]

    async def error(self) -> WorkerError:
        with pytest.raises(WorkerError) as caught:
            await self.batches()
        return caught.value


async def test_events_that_arrived_together_are_a_batch() -> None:
    run = Run().begin()
    run.answer.put([b"1"])
    run.answer.put([b"2", b"3"])
    iterator = aiter(run.answer)
    assert await anext(iterator) == Batch([b"1", b"2", b"3"], last=False)
    assert run.acknowledged == [3]
    run.answer.complete([b"4"], ["stop"], {"prompt_tokens": 5, "completion_tokens": 6})
    assert await anext(iterator) == Batch([b"4"], last=True)
    assert [batch async for batch in iterator] == []
    run.answer.cancel()
    answer = run.answer
    assert (run.ended, run.n_cancelled) == (["stop"], 0)
    assert (answer.n_prompt, answer.n_generated, answer.n_cached) == (5, 6, None)
    assert 0 < answer.submitted_ns <= answer.started_ns <= answer.first_ns <= answer.ended_ns


async def test_an_error_follows_the_events_before_it() -> None:
    run = Run().begin()
    run.answer.put([b"1"])
    run.answer.fail(ModelNotReady("gone"))
    run.answer.put([b"late"])
    iterator = aiter(run.answer)
    assert await anext(iterator) == Batch([b"1"], last=False)
    with pytest.raises(ModelNotReady):
        await anext(iterator)
    assert run.ended == ["unavailable"]


async def test_a_request_without_events_for_too_long_is_cancelled() -> None:
    run = Run(idle_timeout=0.05).begin()
    assert str(await run.error()) == "the model 'm' sent nothing for 0.05 s"
    assert (run.n_cancelled, run.ended) == (1, ["deadline_exceeded"])


async def test_the_time_in_the_queue_is_not_idle() -> None:
    run = Run(idle_timeout=0.05)
    reading = asyncio.ensure_future(run.batches())
    await asyncio.sleep(0.1)
    assert not reading.done()
    run.begin().answer.complete([], ["stop"], None)
    assert await reading == [Batch([], last=True)]


async def test_the_total_time_passes_whether_the_client_reads_or_not() -> None:
    run = Run(timeout=0.05).begin()
    run.answer.put([b"unread"])
    await asyncio.sleep(0.1)
    assert (run.n_cancelled, run.ended) == (1, ["deadline_exceeded"])
    iterator = aiter(run.answer)
    assert (await anext(iterator)).events == [b"unread"]
    with pytest.raises(DeadlineExceeded, match=r"took longer than 0\.05 s"):
        await anext(iterator)


async def test_the_shorter_timeout_counts() -> None:
    assert str(await Run(timeout=60, own_timeout=0.01).error()) == "the request's timeout has passed"
    assert "took longer than 0.01 s" in str(await Run(timeout=0.01, own_timeout=60).error())


async def test_a_cancelled_request_ends_once() -> None:
    run = Run().begin()
    run.answer.cancel()
    run.answer.cancel()
    run.answer.fail(ModelNotReady("late"))
    run.answer.complete([], ["stop"], None)
    assert (run.n_cancelled, run.ended, await run.batches()) == (1, ["cancelled"], [])
