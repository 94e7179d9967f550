"""Results of lines that are stored together."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import pytest

from openai_server.api.batches import results as module
from openai_server.api.batches.results import MAX_GROUP, MAX_GROUP_BYTES, Results
from openai_server.core.store_errors import StoreAway, Superseded
from openai_server.store.batch_records import BatchLine, LineResult, LineRun


def result(number: int, data: bytes = b"{}") -> LineResult:
    run = LineRun(
        id=f"batch_1/{number}",
        owner="",
        batch_id="batch_1",
        endpoint="/v1/completions",
        line=BatchLine(number, str(number), 0, 1),
        attempt=1,
        input=(),
    )
    return LineResult(run=run, is_error=False, data=data)


@dataclass
class SlowStore:
    """Each transaction ends when the test allows it."""

    groups: list[list[int]] = field(default_factory=list)
    left: set[str] = field(default_factory=set)
    """Ids of lines that are another process' now."""
    failures: list[Exception] = field(default_factory=list)
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    ended: list[int] = field(default_factory=list)
    """Numbers of lines that were reported as ended."""

    async def add(self, results: Sequence[LineResult]) -> Collection[str]:
        self.groups.append([result.run.line.number for result in results])
        self.begun.set()
        await self.turns.acquire()
        if self.failures:
            raise self.failures.pop(0)
        return {result.run.id for result in results} & self.left

    def report(self, results: Sequence[LineResult]) -> None:
        self.ended += [result.run.line.number for result in results]


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0)


async def adding(store: SlowStore, first: int, then: Sequence[LineResult]) -> list[BaseException | None]:
    """Adds the results `then` while the transaction of `first` runs; returns their outcomes."""
    results = Results(store.add, store.report)
    first_result = asyncio.create_task(results.add(result(first)))
    await store.begun.wait()
    others = [asyncio.create_task(results.add(item)) for item in then]
    await asyncio.sleep(0)
    for _ in range(len(then) + 9):
        store.turns.release()
    return await asyncio.gather(first_result, *others, return_exceptions=True)


async def test_results_that_come_meanwhile_are_stored_together() -> None:
    store = SlowStore()
    assert await adding(store, 0, [result(1), result(2), result(3)]) == [None] * 4
    assert store.groups == [[0], [1, 2, 3]]
    assert store.ended == [0, 1, 2, 3]


async def test_a_transaction_has_a_limited_size() -> None:
    store = SlowStore()
    await adding(store, 0, [result(number) for number in range(1, MAX_GROUP + 2)])
    assert [len(group) for group in store.groups] == [1, MAX_GROUP, 1]
    store = SlowStore()
    large = b"x" * (MAX_GROUP_BYTES // 2 + 1)
    await adding(store, 0, [result(1, large), result(2, large), result(3), result(4, 2 * large), result(5)])
    assert store.groups == [[0], [1], [2, 3], [4], [5]]


async def test_a_line_of_another_process_is_superseded() -> None:
    store = SlowStore(left={"batch_1/2"})
    first, second, third = await adding(store, 1, [result(2), result(3)])
    assert first is third is None
    assert isinstance(second, Superseded)
    assert store.ended == [1, 3]


async def test_results_wait_for_a_store_that_is_away() -> None:
    store = SlowStore(failures=[StoreAway(), StoreAway()])
    assert await adding(store, 1, [result(2)]) == [None, None]
    assert store.ended == [1, 2]
    assert store.groups == [[1], [1, 2], [1, 2]]


async def test_an_unexpected_failure_gives_up_its_lines_alone() -> None:
    store = SlowStore(failures=[ValueError()])
    first, second = await adding(store, 1, [result(2)])
    assert isinstance(first, Superseded)
    assert second is None
    assert store.ended == [2]


async def test_the_result_of_a_cancelled_task_is_stored() -> None:
    store = SlowStore()
    results = Results(store.add, store.report)
    task = asyncio.create_task(results.add(result(1)))
    await store.begun.wait()
    task.cancel()
    store.turns.release()
    await results.flush(30)
    assert task.cancelled()
    assert store.ended == [1]


async def test_results_can_be_given_up() -> None:
    store = SlowStore()
    results = Results(store.add, store.report)
    task = asyncio.create_task(results.add(result(1)))
    await store.begun.wait()
    await results.flush(0)
    await results.close()
    assert store.ended == []
    task.cancel()
