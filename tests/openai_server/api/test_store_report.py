import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import cast

import pytest

from openai_server.api import store_report
from openai_server.core.store_errors import StoreAway
from openai_server.store.file_records import FileSizes
from openai_server.store.records import Sizes
from openai_server.store.store import Store
from openai_server.telemetry.metrics import Metrics
from tests.wire.exposition import Scrape


class CountedFiles:
    async def sizes(self) -> FileSizes:
        return FileSizes(3, 500, 9000)


class CountedStore:
    """A store that counts how often its sizes are read. `fails`: it turns out to be away when they are read."""

    def __init__(self) -> None:
        self.is_away = self.fails = False
        self.files = CountedFiles()
        self.n_reads = 0

    async def sizes(self) -> Sizes:
        self.n_reads += 1
        if self.fails:
            self.is_away = True
            raise StoreAway
        return Sizes(responses=5, conversations=2, bytes=700, queued=1, running=3, batches=4, batch_lines=50)


class Pauses:
    """Pauses of the reporter, each of which lasts until `next` is called, and its clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self._paused = asyncio.Event()
        self._ended = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._paused.set()
        await self._ended.wait()
        self._ended.clear()

    async def next(self) -> None:
        """Waits for the next pause, after the one that ends now."""
        await self._paused.wait()
        self._paused.clear()
        self._ended.set()
        await self._paused.wait()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    pauses = Pauses()
    monkeypatch.setattr(store_report, "_pause", pauses.sleep)
    return pauses


@asynccontextmanager
async def reporting(store: CountedStore, metrics: Metrics, pauses: Pauses) -> AsyncIterator[None]:
    task = asyncio.create_task(store_report.report(cast(Store, store), metrics.store, clock=lambda: pauses.now))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_sizes_are_read_at_intervals(pauses: Pauses) -> None:
    store, metrics = CountedStore(), Metrics()
    async with reporting(store, metrics, pauses):
        for _ in range(int(store_report.SIZES_INTERVAL / store_report.STATE_INTERVAL)):
            await pauses.next()
    assert store.n_reads == 2
    scrape = Scrape(metrics.text())
    names = ("responses", "conversations", "bytes", "background_queued", "responses_in_progress", "up")
    assert [scrape.value(f"openai_server_store_{name}") for name in names] == [5, 2, 700, 1, 3, 1]
    file_names = ("files", "file_bytes", "file_free_bytes")
    assert [scrape.value(f"openai_server_store_{name}") for name in file_names] == [3, 500, 9000]


async def test_a_store_that_is_away_is_down_and_its_sizes_are_not_read(pauses: Pauses) -> None:
    store, metrics = CountedStore(), Metrics()
    store.is_away = True
    async with reporting(store, metrics, pauses):
        await pauses.next()
        assert Scrape(metrics.text()).value("openai_server_store_up") == 0
        assert store.n_reads == 0
        store.is_away = False
        await pauses.next()
        assert Scrape(metrics.text()).value("openai_server_store_up") == 1
        assert store.n_reads == 1


async def test_the_report_goes_on_after_a_failure(pauses: Pauses) -> None:
    store, metrics = CountedStore(), Metrics()
    store.fails = True
    async with reporting(store, metrics, pauses):
        await pauses.next()
        assert Scrape(metrics.text()).value("openai_server_store_up") == 0
        store.fails = store.is_away = False
        await pauses.next()
    assert Scrape(metrics.text()).value("openai_server_store_up") == 1
