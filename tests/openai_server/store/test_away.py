"""A store that is lost, and found again."""

import asyncio
import logging
import os
import socket
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from openai_server.core.store_errors import StoreAway
from openai_server.store.errors import BadStore
from openai_server.store.postgres import SETTINGS
from openai_server.store.records import PageRequest
from openai_server.store.store import Store, StoreSettings
from tests.openai_server.store.stores import add, item, link_of, opened, rows, sweep
from tests.postgres import Postgres, running_postgres

SECONDS = 30.0
"""Longest wait for something that takes about a second."""


@asynccontextmanager
async def watching(store: Store) -> AsyncIterator[None]:
    task = asyncio.create_task(store.watch())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until_away(store: Store, is_away: bool) -> None:
    async with asyncio.timeout(SECONDS):
        while store.is_away != is_away:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.02)


def lines(caplog: pytest.LogCaptureFixture, part: str) -> int:
    return sum(part in record.getMessage() for record in caplog.records)


# ---- PostgreSQL


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@pytest.mark.slow
async def test_postgresql_is_stopped_and_started(own_postgres: Postgres, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with opened(own_postgres.url("postgres")) as store, watching(store):
        await add(store, "r1")
        own_postgres.stop()
        with pytest.raises(StoreAway):
            await store.response("a", "r1")
        assert store.is_away
        start = time.monotonic()
        for _ in range(200):
            with pytest.raises(StoreAway):
                await store.response("a", "r1")
            with pytest.raises(StoreAway):
                await add(store, "r2")
        assert time.monotonic() - start < 2
        own_postgres.start()
        await until_away(store, False)
        assert (await store.response("a", "r1")).id == "r1"
        await add(store, "r2")
    assert (lines(caplog, "The store is away"), lines(caplog, "The store answers again")) == (1, 1)


@pytest.mark.slow
async def test_a_restart_between_two_requests_is_not_noticed(own_postgres: Postgres) -> None:
    async with opened(own_postgres.url("postgres")) as store:
        await asyncio.gather(*(add(store, f"r{n}") for n in range(10)))
        own_postgres.stop()
        own_postgres.start()
        assert (await store.response("a", "r1")).id == "r1"
        own_postgres.kill()
        own_postgres.start()
        await add(store, "r10")
        assert not store.is_away


@pytest.mark.slow
async def test_postgresql_is_started_after_the_sidecar(own_postgres: Postgres) -> None:
    own_postgres.stop()
    async with opened(own_postgres.url("postgres")) as store, watching(store):
        assert store.is_away
        with pytest.raises(StoreAway):
            await add(store, "r1")
        own_postgres.start()
        await until_away(store, False)
        await add(store, "r1")
        assert await rows(store, "runners") == 1


async def test_a_server_that_is_not_there(unused_tcp_port: int) -> None:
    async with opened(f"postgresql://user:secret@127.0.0.1:{unused_tcp_port}/name") as store:
        assert store.is_away
        with pytest.raises(StoreAway):
            await add(store, "r1")


async def test_a_server_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai_server.store.postgres.CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:  # nothing accepts the connections
        start = time.monotonic()
        async with opened(f"postgresql://user:secret@127.0.0.1:{server.getsockname()[1]}/name") as store:
            assert store.is_away
            assert time.monotonic() - start < 5


async def test_certificates_that_do_not_exist() -> None:
    with pytest.raises(BadStore, match=r"`sslrootcert` .* /missing/ca.pem"):
        async with opened("postgresql://user:secret@127.0.0.1/name?sslrootcert=/missing/ca.pem"):
            pass


@pytest.mark.slow
async def test_a_database_that_does_not_exist(own_postgres: Postgres) -> None:
    with pytest.raises(BadStore, match=r"can't be opened: .*missing"):
        async with opened(own_postgres.url("missing")):
            pass


@pytest.mark.slow
async def test_a_statement_that_waits_for_too_long_leaves_the_store_open(
    own_postgres: Postgres, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(SETTINGS, "statement_timeout", "300ms")
    async with opened(own_postgres.url("postgres"), runner="first") as store:
        await add(store, "r1")
        async with opened(own_postgres.url("postgres"), runner="second") as other:
            blocked, release = threading.Event(), threading.Event()
            task = asyncio.create_task(link_of(other).write("test", _lock_everything, blocked, release))
            await asyncio.to_thread(blocked.wait, SECONDS)
            with pytest.raises(StoreAway):
                await add(store, "r2")
            assert not store.is_away
            release.set()
            await task
        await add(store, "r2")
    assert lines(caplog, "A transaction of the store was given up") == 1
    assert lines(caplog, "The store is away") == 0


def _lock_everything(connection: Connection, blocked: threading.Event, release: threading.Event) -> None:
    connection.execute(text("LOCK TABLE owners IN EXCLUSIVE MODE"))
    blocked.set()
    release.wait(SECONDS)


# ---- SQLite


async def test_a_locked_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("openai_server.store.sqlite.BUSY_MILLISECONDS", 50)
    monkeypatch.setattr("openai_server.store.sqlite._PRAGMAS", ("journal_mode = WAL",))
    file = tmp_path / "store.db"
    async with opened(f"sqlite:///{file}") as store, watching(store):
        await add(store, "r1")
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreAway):
            await add(store, "r2")
        assert store.is_away
        with pytest.raises(StoreAway):
            await store.response("a", "r1")
        other.execute("ROLLBACK")
        other.close()
        await until_away(store, False)
        await add(store, "r2")
        assert (await store.sizes()).responses == 2
    assert lines(caplog, "SQLITE_BUSY") == 1


async def test_a_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(f"sqlite:///{tmp_path / 'store.db'}") as store:
        await add(store, "r1")
        await link_of(store).write("test", lambda connection: connection.exec_driver_sql("PRAGMA max_page_count = 40"))
        with pytest.raises(StoreAway):
            await store.create_conversation("a", "c1", 1.0, b"{}", [item("x", "y" * 10**6)])
        assert store.is_away
        async with watching(store):
            await until_away(store, False)
        assert (await store.sizes()).conversations == 0
        await add(store, "r2")
    assert lines(caplog, "SQLITE_FULL") == 1


async def test_a_file_that_lost_its_bytes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "store.db"
    async with opened(f"sqlite:///{file}") as store:
        await store.create_conversation("a", "c1", 1.0, b"{}", [item("x", "y" * 10**7)])
        await sweep(store)  # moves the bytes from the log to the file
        os.truncate(file, 4096)
        with pytest.raises(StoreAway):
            await store.item("a", "c1", "x")
        assert store.is_away
    assert lines(caplog, "The store is away") == 1


async def test_files_that_can_not_be_opened(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database, but long enough to have a header" * 20)
    (tmp_path / "folder").mkdir()
    for name in ("text", "folder", "missing/store.db"):
        with pytest.raises(BadStore, match="can't be opened"):
            async with opened(f"sqlite:///{tmp_path / name}"):
                pass


async def test_a_store_that_is_not_open() -> None:
    store = Store(StoreSettings(url="sqlite://"), runner="runner")
    assert store.is_away
    with pytest.raises(RuntimeError, match="not open"):
        await store.items("a", "c1", PageRequest())
    await store.close()
