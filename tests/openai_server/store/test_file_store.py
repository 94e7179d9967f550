"""Files of the store: their rows, and what counts them."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from openai_server.core.file_errors import (
    FileInUse,
    FileNotFound,
    FileQuotaExceeded,
    FileTooLarge,
)
from openai_server.core.store_errors import StoreAway
from openai_server.store.file_records import FilesRequest, Part, StoredFile
from openai_server.store.ids import is_id, new_id
from openai_server.store.link import Link
from openai_server.store.store import Store
from tests.openai_server.store.stored_files import (
    MIB,
    add_batch,
    add_file,
    all_ids,
    blobs_of,
    content,
    counted,
    new_file,
    receive,
)
from tests.openai_server.store.stores import execute, opened, rows, sweep


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
async def store(url: str, folder: Path) -> AsyncIterator[Store]:
    async with opened(url, blobs=folder) as store:
        yield store


async def test_a_file(store: Store, folder: Path) -> None:
    pieces = [os.urandom(n) for n in (1, MIB, 3, 2 * MIB + 5, 0, 7)]
    file = await add_file(store, *pieces, filename="../é\u202e.txt", expires_at=time.time() + 60)
    assert await store.files.get("a", file.id) == file
    assert file.n_bytes == sum(map(len, pieces))
    whole = b"".join(pieces)
    assert await content(store, file) == whole
    for start, end in ((0, 1), (1, 1), (MIB - 1, MIB + 2), (len(whole) - 1, None), (5, 10**12), (len(whole), None)):
        assert await content(store, file, start, end) == whole[start:end]
    assert len(blobs_of(folder)) == 1
    assert {path.stat().st_mode & 0o777 for path in blobs_of(folder)} == {0o600}
    await store.files.delete("a", file.id)
    assert blobs_of(folder) == []
    with pytest.raises(FileNotFound):
        await store.files.get("a", file.id)
    with pytest.raises(FileNotFound):
        await store.files.delete("a", file.id)
    assert await rows(store, "file_parts") == 0


async def test_content_of_several_parts(store: Store) -> None:
    parts = [await receive(store, text) for text in (b"abc", b"", b"de", b"f")]
    file = await store.files.create(new_file(parts))
    for start in range(8):
        for end in range(8):
            assert await content(store, file, start, end) == b"abcdef"[start:end]


async def test_an_empty_file(store: Store) -> None:
    file = await add_file(store)
    assert (file.n_bytes, await content(store, file)) == (0, b"")


async def test_others_see_nothing_of_a_file(store: Store) -> None:
    file = await add_file(store, b"secret")
    with pytest.raises(FileNotFound):
        await store.files.get("b", file.id)
    with pytest.raises(FileNotFound):
        await store.files.delete("b", file.id)
    assert (await store.files.list("b", FilesRequest(limit=10))).files == []
    assert await content(store, await store.files.get("a", file.id)) == b"secret"


async def test_a_file_that_is_too_large_leaves_nothing(store: Store, folder: Path) -> None:
    assert (await receive(store, b"ab", b"cd", max_bytes=4)).n_bytes == 4
    n = len(blobs_of(folder))
    with pytest.raises(FileTooLarge, match="4 bytes"):
        await receive(store, b"ab", b"cd", b"e", max_bytes=4)
    assert len(blobs_of(folder)) == n


async def test_a_client_that_leaves_leaves_nothing(store: Store, folder: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 3 * MIB
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await store.files.receive(broken(), max_bytes=1 << 30)
    assert blobs_of(folder) == []


async def test_a_cancelled_task_leaves_nothing(store: Store, folder: Path) -> None:
    is_waiting = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"x" * 3 * MIB
        is_waiting.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(store.files.receive(endless(), max_bytes=1 << 30))
    await is_waiting.wait()
    assert len(blobs_of(folder)) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert blobs_of(folder) == []


async def test_blobs_that_are_discarded(store: Store, folder: Path) -> None:
    await store.files.discard([await receive(store, b"x"), Part("00" * 16, 5)])
    assert blobs_of(folder) == []


async def test_the_same_file_is_created_once(store: Store) -> None:
    """A caller may repeat it, if no response confirmed the first attempt."""
    file = new_file([await receive(store, b"abc")])
    first = await store.files.create(file)
    assert await store.files.create(file) == first
    assert await counted(store) == (1, 3)


async def test_a_lost_confirmation_keeps_the_blobs(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The transaction may have been committed."""
    file = new_file([await receive(store, b"abc")])
    write = Link.write

    async def lost(link: Link, *args: Any, **kwargs: Any) -> Any:
        await write(link, *args, **kwargs)
        raise StoreAway

    with monkeypatch.context() as context:
        context.setattr(Link, "write", lost)
        with pytest.raises(StoreAway):
            await store.files.create(file)
    assert len(blobs_of(folder)) == 1
    assert await content(store, await store.files.get("a", file.id)) == b"abc"


# ---- Lists


async def test_lists(store: Store) -> None:
    ids = [(await add_file(store, b"x" * n, at=1e9 + n, purpose=("batch", "vision")[n % 2])).id for n in range(1, 8)]
    await add_file(store, b"of another", owner="b")
    for limit in (1, 2, 3, 7, 100):
        assert await all_ids(store, limit=limit) == ids[::-1]
        assert await all_ids(store, limit=limit, order="asc") == ids
        assert await all_ids(store, limit=limit, order="asc", purpose="batch") == ids[1::2]
        assert await all_ids(store, limit=limit, purpose="evals") == []
    page = await store.files.list("a", FilesRequest(limit=2, order="asc"))
    assert [(file.n_bytes, file.parts) for file in page.files] == [(1, ()), (2, ())]


async def test_a_list_goes_on_after_a_deleted_file(store: Store) -> None:
    ids = [(await add_file(store, at=1e9 + n)).id for n in range(5)]
    await store.files.delete("a", ids[2])
    assert await all_ids(store, limit=10, after=ids[2], order="asc") == ids[3:]
    assert await all_ids(store, limit=10, after=ids[2]) == ids[1::-1]


def test_ids_are_in_the_order_of_their_creation() -> None:
    ids = [new_id("file-", 1e9 + n / 1000) for n in range(1000)]
    assert sorted(ids) == ids
    assert all(is_id("file-", id) for id in ids)
    for wrong in ("", "file-", ids[0][:-1], ids[0] + "0", ids[0].upper(), "batch_" + ids[0][5:], ids[0] + "\n"):
        assert not is_id("file-", wrong)


# ---- Limits of an owner


async def test_the_bytes_of_an_owner_are_limited(url: str, folder: Path) -> None:
    async with opened(url, blobs=folder, max_file_bytes=10) as store:
        first = await add_file(store, b"123456")
        with pytest.raises(FileQuotaExceeded, match="10 bytes"):
            await add_file(store, b"12345")
        assert len(blobs_of(folder)) == 1
        with pytest.raises(FileQuotaExceeded):
            await store.files.check_quota("a", 5)
        await store.files.check_quota("a", 4)
        await add_file(store, b"12345", owner="b")
        await add_file(store, b"1234")
        await store.files.delete("a", first.id)
        assert await counted(store) == (1, 4)


async def test_files_that_arrive_count_before_their_end(url: str, folder: Path) -> None:
    has_arrived, ends = asyncio.Event(), asyncio.Event()

    async def slowly(data: bytes) -> AsyncIterator[bytes]:
        yield data
        has_arrived.set()
        await ends.wait()

    async with opened(url, blobs=folder, max_file_bytes=10) as store:
        await add_file(store, b"12")
        first = asyncio.create_task(store.files.receive(slowly(b"12345"), max_bytes=10, owner="a"))
        await has_arrived.wait()
        second = store.files.receive(slowly(b"6789"), max_bytes=10, owner="a")
        with pytest.raises(FileQuotaExceeded, match="10 bytes"):
            await asyncio.wait_for(second, 10)
        await receive(store, b"1234567890", owner="b")
        ends.set()
        part = await first
        with pytest.raises(FileQuotaExceeded):
            await receive(store, b"123456789", owner="a")
        await store.files.discard([part])
        await receive(store, b"12345", owner="a")
        assert len(blobs_of(folder)) == 3
        assert not store.files._arriving._by_owner


async def test_the_number_of_files_is_limited(url: str, folder: Path) -> None:
    async with opened(url, blobs=folder, max_objects=2) as store:
        for _ in range(2):
            await add_file(store)
        with pytest.raises(FileQuotaExceeded, match="2 files"):
            await add_file(store)
        with pytest.raises(FileQuotaExceeded):
            await store.files.check_quota("a")


async def test_transactions_at_the_same_time_stay_within_the_limit(url: str, folder: Path) -> None:
    async with opened(url, blobs=folder, max_file_bytes=5) as store:
        results = await asyncio.gather(*(add_file(store, b"12") for _ in range(12)), return_exceptions=True)
        assert sum(isinstance(result, StoredFile) for result in results) == 2
        assert sum(isinstance(result, FileQuotaExceeded) for result in results) == 10
        assert await counted(store) == (2, 4)
        assert len(blobs_of(folder)) == 2


# ---- Expiry, and files that batches read


async def test_a_file_that_has_expired(store: Store, folder: Path) -> None:
    kept = await add_file(store, b"kept", expires_at=time.time() + 60)
    file = await add_file(store, b"gone", expires_at=time.time() - 1)
    with pytest.raises(FileNotFound):
        await store.files.get("a", file.id)
    assert await all_ids(store, limit=10) == [kept.id]
    assert await counted(store) == (2, 8)
    await sweep(store)
    assert await counted(store) == (1, 4)
    assert len(blobs_of(folder)) == 1
    assert await content(store, await store.files.get("a", kept.id)) == b"kept"


@pytest.mark.parametrize("status", ["validating", "in_progress", "finalizing", "cancelling"])
async def test_a_file_that_a_batch_reads(store: Store, status: str) -> None:
    file = await add_file(store, b"lines", expires_at=time.time() - 1, purpose="batch")
    await add_batch(store, file.id, status)
    with pytest.raises(FileInUse, match="batch_1"):
        await store.files.delete("a", file.id)
    await sweep(store)
    assert await store.files.get("a", file.id) == file
    await execute(store, "UPDATE batches SET status = 'completed'")
    with pytest.raises(FileNotFound):
        await store.files.get("a", file.id)
    await sweep(store)
    assert await rows(store, "files") == 0


async def test_the_sweeper_keeps_blobs_of_files_and_of_uploads_under_way(store: Store, folder: Path) -> None:
    file = await add_file(store, b"x")
    is_waiting, goes_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x" * MIB
        is_waiting.set()
        await goes_on.wait()
        yield b"end"

    task = asyncio.create_task(store.files.receive(slow(), max_bytes=1 << 30))
    lost = await receive(store, b"of a process that ended")
    for path in blobs_of(folder):
        os.utime(path, (time.time() - 3601, time.time() - 3601))
    await is_waiting.wait()
    (half,) = (path for path in blobs_of(folder) if path.suffix)
    os.utime(half)
    await sweep(store)
    goes_on.set()
    part = await task
    assert {path.name for path in blobs_of(folder)} == {part.blob, file.parts[0].blob}
    assert lost.blob not in {path.name for path in blobs_of(folder)}
    (path,) = (path for path in blobs_of(folder) if path.name == part.blob)
    os.utime(path)
    assert await content(store, await store.files.create(new_file([part]))) == b"x" * MIB + b"end"
