"""How the log of a run reaches the store."""

import asyncio
from collections.abc import Sequence

import pytest

from openai_server.api.responses.background import log_sink as module
from openai_server.api.responses.background.log_sink import MAX_BATCH_BYTES, LogSink
from openai_server.core.store_errors import StoreAway, Superseded
from openai_server.store.records import EventBatch


class Store:
    """Stores batches when the test lets it."""

    def __init__(self) -> None:
        self.stored: list[EventBatch] = []
        self.may_store = asyncio.Event()
        self.may_store.set()
        self.called = asyncio.Event()
        self.errors: list[Exception] = []

    async def add(self, batches: Sequence[EventBatch]) -> None:
        self.called.set()
        await self.may_store.wait()
        if self.errors:
            raise self.errors.pop(0)
        self.stored += batches


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITE_SECONDS", 0.0)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)


async def test_records_are_stored_at_once_and_those_that_come_meanwhile_together() -> None:
    store, announced = Store(), asyncio.Event()
    store.may_store.clear()
    sink = LogSink(store.add, announced.set)
    sink.write_now(b"a\n")
    await store.called.wait()
    sink.write_now(b"b\n")
    await sink.write(b"c\n")
    assert not announced.is_set()
    store.may_store.set()
    await announced.wait()
    assert store.stored == [EventBatch(0, b"a\n"), EventBatch(1, b"b\nc\n")]
    assert await sink.close() == []


async def test_closing_returns_what_is_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITE_SECONDS", 1000.0)
    store, announced = Store(), asyncio.Event()
    sink = LogSink(store.add, announced.set)
    sink.write_now(b"a\n")
    await announced.wait()
    sink.write_now(b"b\n")
    assert await asyncio.wait_for(sink.close(), 10) == [EventBatch(1, b"b\n")]
    assert sink.batches_of(b"c\n") == [EventBatch(2, b"c\n")]
    assert store.stored == [EventBatch(0, b"a\n")]


async def test_a_slow_store_holds_the_writer_back() -> None:
    store = Store()
    store.may_store.clear()
    sink = LogSink(store.add, lambda: None)
    sink.write_now(b"a\n")
    await store.called.wait()
    writing = asyncio.create_task(sink.write(b"x" * MAX_BATCH_BYTES + b"\n"))
    await asyncio.sleep(0)
    assert (writing.done(), sink.is_free) == (False, False)
    store.may_store.set()
    await asyncio.wait_for(writing, 10)
    assert sink.is_free


async def test_a_store_that_is_away_gets_the_same_batches_again() -> None:
    store, announced = Store(), asyncio.Event()
    store.errors = [StoreAway(), StoreAway()]
    sink = LogSink(store.add, announced.set)
    sink.write_now(b"a\n")
    await asyncio.wait_for(announced.wait(), 10)
    assert store.stored == [EventBatch(0, b"a\n")]


async def test_a_run_that_was_taken_away_can_not_write() -> None:
    store = Store()
    store.errors = [Superseded()]
    sink = LogSink(store.add, lambda: None)
    with pytest.raises(Superseded):
        await asyncio.wait_for(sink.write(b"x" * MAX_BATCH_BYTES + b"\n"), 10)
    with pytest.raises(Superseded):
        sink.write_now(b"b\n")
    with pytest.raises(Superseded):
        await sink.close()
    assert not sink.is_free
