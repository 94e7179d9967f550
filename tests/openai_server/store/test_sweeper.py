"""The sweeper deletes what has expired and what is left over, and keeps the rest."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from openai_server.core.store_errors import ConversationNotFound, ResponseNotFound
from openai_server.store.records import Base
from openai_server.store.secrets import secret
from openai_server.store.store import Store
from tests.openai_server.store.stored_files import add_file, blobs_of, content, receive
from tests.openai_server.store.stores import (
    add,
    ending,
    execute,
    history,
    history_ids,
    ids,
    item,
    link_of,
    new_response,
    opened,
    rows,
    sweep,
)

HOUR = 3600.0


async def age(store: Store, seconds: float) -> None:
    """Makes everything in the store older."""
    for table, column in (
        *(("responses", "expires_at"), ("conversations", "expires_at"), ("items", "deleted_at")),
        *(("runners", "seen_at"), ("leases", "until")),
    ):
        await execute(store, f"UPDATE {table} SET {column} = {column} - :seconds", seconds=seconds)


async def test_expired_objects_are_deleted(url: str) -> None:
    async with opened(url, retention=HOUR) as store:
        for n in range(120):
            await add(store, f"old{n}", created_at=time.time() - HOUR - 1)
        await add(store, "new")
        await store.create_conversation("a", "c1", 1.0, b"{}", [item("x")])
        await sweep(store)
        assert (await store.sizes()).responses == 1
        await store.response("a", "new")
        await store.conversation("a", "c1")
        await age(store, HOUR + 1)
        await sweep(store)
        with pytest.raises(ResponseNotFound):
            await store.response("a", "new")
        with pytest.raises(ConversationNotFound):
            await store.conversation("a", "c1")
        assert (await store.sizes()).bytes == 0
        assert await rows(store, "items") == await rows(store, "responses") == await rows(store, "conversations") == 0


async def test_nothing_expires_without_retention(url: str) -> None:
    async with opened(url, retention=0) as store:
        await add(store, "r1", created_at=1.0)
        await store.create_conversation("a", "c1", 1.0, b"{}", [])
        await store.add_items("a", "c1", [item("x")])
        await age(store, 10**9)
        await sweep(store)
        await store.response("a", "r1")
        assert ids(await history(store, Base(None, "c1"))) == ["x"]


async def test_an_expired_response_stays_part_of_those_that_continue_it(url: str) -> None:
    async with opened(url, retention=HOUR) as store:
        await add(store, "r1", created_at=time.time() - HOUR - 1)
        await add(store, "r2", previous="r1")
        await sweep(store)
        with pytest.raises(ResponseNotFound):
            await store.response("a", "r1")
        assert await history_ids(store, "r2") == ["in_r1", "out_r1", "in_r2", "out_r2"]
        await age(store, HOUR)
        await sweep(store)
        assert await rows(store, "items") == await rows(store, "responses") == 0


@pytest.mark.parametrize("addition", ["add_items", "append", "finish", "finish begun"])
async def test_an_addition_keeps_a_conversation(url: str, addition: str) -> None:
    async with opened(url, retention=HOUR) as store:
        await store.create_conversation("a", "c1", 1.0, b"{}", [])
        await age(store, HOUR - 10)
        if addition == "add_items":
            await store.add_items("a", "c1", [item("x")])
        elif addition == "append":
            await store.append("a", "c1", [item("x")])
        else:
            await add(store, "r1", conversation="c1", has_begun=addition == "finish begun")
        await age(store, HOUR - 10)
        await sweep(store)
        await store.conversation("a", "c1")


async def test_a_response_in_progress_does_not_expire(url: str) -> None:
    async with opened(url, retention=HOUR) as store:
        response = new_response("r1", created_at=time.time() - 2 * HOUR)
        await store.begin(response)
        await sweep(store)
        await store.finish(response, ending("r1"), has_begun=True)
        await sweep(store)
        with pytest.raises(ResponseNotFound):
            await store.response("a", "r1")


async def test_a_deletion_that_was_interrupted_is_completed(store: Store) -> None:
    await store.create_conversation("a", "c1", 1.0, b"{}", [])
    await store.add_items("a", "c1", [item(f"x{n}") for n in range(450)])
    await add(store, "r1", conversation="c1")
    await execute(store, "UPDATE conversations SET deleted_at = 1, n_bytes = 0 WHERE id = 'c1'")
    assert await store.items_by_id("a", ["x1", "in_r1"]) == {"in_r1": item("in_r1").body}
    await sweep(store)
    assert await rows(store, "conversations") == 0
    assert await rows(store, "items") == 2
    assert (await store.response("a", "r1")).output == [item("out_r1")]


async def test_one_process_at_a_time_sweeps(shared_url: str) -> None:
    async with (
        opened(shared_url, runner="first", retention=HOUR) as first,
        opened(shared_url, runner="second", retention=HOUR) as second,
    ):
        await sweep(first)
        await add(first, "r1", created_at=time.time() - HOUR - 1)
        await sweep(second)
        assert (await second.sizes()).responses == 1
        await age(first, HOUR)  # the first process has ended, and with it its lease
        await sweep(second)
        assert (await second.sizes()).responses == 0


async def test_rows_of_processes_that_ended_are_deleted(shared_url: str) -> None:
    async with opened(shared_url, runner="first"):
        pass
    async with opened(shared_url, runner="second") as store:
        await sweep(store)
        assert await rows(store, "runners") == 2
        await execute(store, "UPDATE runners SET seen_at = seen_at - 4000 WHERE id = 'first'")
        await sweep(store)
        assert [row.id for row in await execute(store, "SELECT id FROM runners")] == ["second"]


async def test_the_blobs_of_another_store_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "blobs"
    async with opened(f"sqlite:///{tmp_path}/one.db", blobs=folder) as store:
        await sweep(store)
        file = await add_file(store, b"x")
        for path in blobs_of(folder):
            os.utime(path, (time.time() - HOUR - 1,) * 2)
        async with opened(f"sqlite:///{tmp_path}/other.db", blobs=folder) as other:
            await sweep(other)
        assert "another store's" in caplog.text
        assert await content(store, file) == b"x"
        caplog.clear()
        await store.files.delete("a", file.id)
    async with opened(f"sqlite:///{tmp_path}/one.db", blobs=folder) as store:
        await receive(store, b"left over")
        for path in blobs_of(folder):
            os.utime(path, (time.time() - HOUR - 1,) * 2)
        await sweep(store)
    assert not blobs_of(folder)
    assert not caplog.text


async def test_a_sweep_of_an_idle_process_writes_little(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(url) as store:
        link, writes = link_of(store), list[object]()
        write = link.write

        async def counted(name: str, fn: Any, *args: Any, **kwargs: Any) -> Any:
            if fn is not secret:  # once an hour, for the blobs
                writes.append(fn)
            return await write(name, fn, *args, **kwargs)

        monkeypatch.setattr(link, "write", counted)
        await sweep(store)
        assert len(writes) == 3  # the lease, places and runners
        async with opened(url, runner="other") as other:
            if url != "sqlite://":
                monkeypatch.setattr(link_of(other), "write", counted)
                writes.clear()
                await sweep(other)
                assert len(writes) == 1  # the lease, which it doesn't get
