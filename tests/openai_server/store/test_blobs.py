"""Large bodies in a folder beside the database."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from openai_server.core.store_errors import StoreAway, StoreQuotaExceeded, Superseded
from openai_server.store.blob_folder import FolderBlobs
from openai_server.store.blobs import BLOB_BYTES, new_key
from openai_server.store.errors import BadStore, MissingBlob
from openai_server.store.records import NOTHING, Base, Ending, Item, NewResponse, PageRequest
from openai_server.store.store import Store
from tests.openai_server.store.stored_files import blobs_of
from tests.openai_server.store.stores import execute, history, opened, rows, sweep

LARGE = b'"' + b"x" * BLOB_BYTES + b'"'
SMALL = b"x" * BLOB_BYTES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
async def store(url: str, folder: Path) -> AsyncIterator[Store]:
    async with opened(url, blobs=folder) as store:
        yield store


def response_with(id: str, *bodies: bytes, base: Base = NOTHING) -> NewResponse:
    return NewResponse(
        id=id,
        owner="a",
        created_at=time.time(),
        model="m",
        body=b"{}",
        base=base,
        input=[Item(f"in_{id}_{n}", body) for n, body in enumerate(bodies)],
    )


async def test_large_bodies_are_files(store: Store, folder: Path) -> None:
    response = response_with("r1", LARGE, SMALL)
    await store.begin(response)
    assert len(blobs_of(folder)) == 1
    await store.finish(response, Ending(status="completed", body=LARGE, output=[Item("out", LARGE)]), has_begun=True)
    assert len(blobs_of(folder)) == 2
    assert {file.stat().st_mode & 0o777 for file in blobs_of(folder)} == {0o600}
    (row,) = await execute(store, "SELECT max(length(body)) FROM items")
    assert row[0] == len(SMALL)
    stored = await store.response("a", "r1")
    assert (stored.body, stored.output) == (LARGE, [Item("out", LARGE)])
    assert (await history(store, Base("r1"))).items == [*response.input, Item("out", LARGE)]
    assert (await store.input_items("a", "r1", PageRequest(order="asc"))).items == response.input
    assert await store.items_by_id("a", ["out"]) == {"out": LARGE}
    assert (await store.sizes()).bytes == 3 * len(LARGE) + len(SMALL)
    await store.delete_response("a", "r1")
    assert blobs_of(folder) == []
    assert (await store.sizes()).bytes == 0


async def test_large_items_of_conversations(store: Store, folder: Path) -> None:
    await store.create_conversation("a", "c1", 1.0, b"{}", [Item("x", LARGE), Item("y", SMALL)])
    await store.add_items("a", "c1", [Item("z", LARGE)])
    await store.append("a", "c1", [Item("v", LARGE), Item("z", LARGE)])
    assert await store.item("a", "c1", "z") == Item("z", LARGE)
    await store.delete_item("a", "c1", "x")
    assert len(blobs_of(folder)) == 3  # one of them is that of the item that the conversation had
    await store.delete_conversation("a", "c1")
    assert len(blobs_of(folder)) == 1
    await sweep_old(store, folder)
    assert blobs_of(folder) == []


async def test_a_large_request_is_a_file(store: Store, folder: Path) -> None:
    await store.queue(response_with("r1"), LARGE)
    await store.queue(response_with("r2"), SMALL)
    assert len(blobs_of(folder)) == 1
    assert {run.id: run.request for run in await store.claim(2)} == {"r1": LARGE, "r2": SMALL}
    await store.delete_response("a", "r1")
    assert blobs_of(folder) == []


async def test_items_that_responses_share_with_conversations(store: Store, folder: Path) -> None:
    await store.create_conversation("a", "c1", 1.0, b"{}", [])
    response = response_with("r1", LARGE, base=Base(None, "c1"))
    await store.finish(response, Ending(status="completed", body=b"{}"), has_begun=False)
    await store.delete_response("a", "r1")
    assert len(blobs_of(folder)) == 1
    assert (await history(store, Base(None, "c1"))).items == response.input
    await store.delete_conversation("a", "c1")
    assert blobs_of(folder) == []


async def test_an_error_leaves_no_files(url: str, folder: Path) -> None:
    async with opened(url, blobs=folder, max_bytes=10) as store:
        with pytest.raises(StoreQuotaExceeded):
            await store.begin(response_with("r1", LARGE, LARGE))
        with pytest.raises(Superseded):
            await store.finish(
                response_with("r1"), Ending(status="failed", body=b"", output=[Item("x", LARGE)]), has_begun=True
            )
        assert blobs_of(folder) == []


async def sweep_old(store: Store, folder: Path) -> None:
    """Sweeps when the files are an hour old."""
    for file in blobs_of(folder):
        os.utime(file, (time.time() - 3601, time.time() - 3601))
    await sweep(store)


async def test_files_that_a_crash_has_left_are_deleted(store: Store, folder: Path) -> None:
    await store.begin(response_with("r1", LARGE))
    await store.queue(response_with("r2"), LARGE)
    blobs = FolderBlobs(folder)
    new = new_key()
    for key in ("ab", *(new_key() for _ in range(120))):
        (folder / key[:2]).mkdir(exist_ok=True)
        (folder / key[:2] / key).write_bytes(b"left")
    (folder / "ab" / "abcd.tmp").write_bytes(b"half")
    for file in blobs_of(folder):
        os.utime(file, (time.time() - 3601, time.time() - 3601))
    blobs.put(new, b"of a transaction that runs")
    await sweep(store)
    assert len(blobs_of(folder)) == 3
    assert blobs.get(new) == b"of a transaction that runs"
    assert (await history(store, NOTHING)).items == ()
    assert {run.request for run in await store.claim(1)} == {LARGE}


async def test_a_file_that_is_missing(store: Store, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    await store.begin(response_with("r1", LARGE))
    (file,) = blobs_of(folder)
    file.unlink()
    with pytest.raises(StoreAway):
        await store.input_items("a", "r1", PageRequest())
    assert f"The blob {file.name} is missing" in caplog.text
    assert not store.is_away
    await store.delete_response("a", "r1")


async def test_a_folder_that_can_not_be_written(store: Store, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for n in range(256):
        (folder / f"{n:02x}").write_bytes(b"no folder")
    with pytest.raises(StoreAway):
        await store.begin(response_with("r1", LARGE))
    await store.begin(response_with("r2", SMALL))
    assert not store.is_away
    assert await rows(store, "responses") == 1
    assert "Not a directory" in caplog.text


async def test_reads_while_items_are_deleted(store: Store) -> None:
    """A reader whose file was deleted since its transaction began looks again."""
    await store.create_conversation("a", "c1", 1.0, b"{}", [Item(f"x{n}", LARGE) for n in range(20)])

    async def delete() -> None:
        for n in range(20):
            await store.delete_item("a", "c1", f"x{n}")

    task = asyncio.create_task(delete())
    found = 20
    while not task.done():
        page = await store.items("a", "c1", PageRequest(limit=100))
        assert len(page.items) <= found
        assert all(item.body == LARGE for item in page.items)
        found = len(page.items)
    await task


def test_values_of_a_folder(folder: Path) -> None:
    blobs = FolderBlobs(folder)
    key = new_key()
    blobs.put(key, b"value")
    assert blobs.get(key) == b"value"
    assert list(blobs.older_than(3600)) == []
    assert list(blobs.older_than(-1)) == [key]
    blobs.delete(key)
    blobs.delete(key)
    with pytest.raises(MissingBlob, match=key):
        blobs.get(key)


def test_a_folder_that_can_not_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BadStore, match="folder of the blobs"):
        FolderBlobs(tmp_path / "file" / "folder")
