"""The content of files: where it is written, and what happens when the disk is full."""

import errno
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from openai_server.core.errors import APIError
from openai_server.core.file_errors import (
    NoFiles,
    StorageFull,
)
from openai_server.core.store_errors import StoreAway
from openai_server.store.blob_folder import FolderBlobs
from openai_server.store.blobs import new_key
from openai_server.store.errors import BlobsAway, BlobsFull, MissingBlob
from openai_server.store.file_records import FilesRequest
from openai_server.store.store import Store
from tests.openai_server.store.stored_files import MIB, add_file, blobs_of, content, receive
from tests.openai_server.store.stores import opened, sweep


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
async def store(url: str, folder: Path) -> AsyncIterator[Store]:
    async with opened(url, blobs=folder) as store:
        yield store


async def test_sizes_of_files_and_of_the_room_for_them(store: Store, folder: Path) -> None:
    await add_file(store, b"x" * 1000)
    await add_file(store, b"x" * 10, owner="b")
    sizes = await store.files.sizes()
    assert (sizes.files, sizes.n_bytes) == (2, 1010)
    state = os.statvfs(folder)
    assert sizes.free_bytes is not None
    assert 0 < sizes.free_bytes <= state.f_blocks * state.f_frsize


# ---- A full disk, or none


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
async def test_a_full_disk(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    kept = await add_file(store, b"kept")
    n_written = 0

    def write(descriptor: int, data: memoryview) -> int:
        nonlocal n_written
        if n_written >= 2 * MIB:
            raise OSError(number, os.strerror(number))
        n_written += len(data)
        return len(data)

    with monkeypatch.context() as context:
        context.setattr(os, "write", write)
        with pytest.raises(StorageFull):
            await receive(store, *[b"x" * MIB] * 4)
    assert len(blobs_of(folder)) == 1
    assert await content(store, kept) == b"kept"
    assert await content(store, await add_file(store, b"later")) == b"later"


async def test_a_disk_that_is_full_when_the_file_ends(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as context:
        context.setattr(os, "fsync", sync)
        with pytest.raises(APIError) as raised:
            await receive(store, b"x")
    assert raised.value.status == 507
    assert blobs_of(folder) == []


async def test_a_folder_that_can_not_be_written(store: Store, folder: Path) -> None:
    for n in range(256):
        (folder / f"{n:02x}").write_bytes(b"no folder")
    with pytest.raises(StoreAway):
        await receive(store, b"x")
    assert not store.is_away


async def test_a_blob_that_is_missing(store: Store, folder: Path) -> None:
    file = await add_file(store, b"x")
    blobs_of(folder)[0].unlink()
    with pytest.raises(StoreAway):
        await content(store, file)


def test_the_writer_of_a_folder(folder: Path) -> None:
    blobs = FolderBlobs(folder)
    key = new_key()
    writer = blobs.create(key)
    writer.write(b"abc")
    with pytest.raises(MissingBlob):
        blobs.get(key)
    writer.write(b"def")
    writer.finish()
    writer.abandon()
    assert blobs.get(key) == b"abcdef"
    assert [blobs.read(key, start, 3) for start in (0, 2, 5, 6, 100)] == [b"abc", b"cde", b"f", b"", b""]
    with pytest.raises(MissingBlob):
        blobs.read(new_key(), 0, 1)
    abandoned = blobs.create(new_key())
    abandoned.write(b"x")
    abandoned.abandon()
    with pytest.raises(BlobsAway):
        abandoned.write(b"x")
    with pytest.raises(BlobsAway):
        abandoned.finish()
    del abandoned
    blobs.create(new_key())  # nothing receives it
    assert [path.name for path in blobs_of(folder)] == [key]


def test_a_temporary_file_that_was_deleted(folder: Path) -> None:
    writer = FolderBlobs(folder).create(new_key())
    blobs_of(folder)[0].unlink()
    with pytest.raises(BlobsAway):
        writer.finish()


def test_a_full_disk_is_an_error_of_its_own_for_whole_blobs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(descriptor: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(BlobsFull):
        FolderBlobs(folder).put(new_key(), b"x")
    assert blobs_of(folder) == []


# ---- The place of the files


async def test_without_a_folder_files_are_beside_the_database(tmp_path: Path) -> None:
    folder = tmp_path / "store.db.blobs"
    async with opened(f"sqlite:///{tmp_path / 'store.db'}") as store:
        await sweep(store)
        assert store.files.has_blobs
        assert not folder.exists()
        file = await add_file(store, b"abc")
        assert folder.stat().st_mode & 0o777 == 0o700
        assert len(blobs_of(folder)) == 1
    async with opened(f"sqlite:///{tmp_path / 'store.db'}") as store:
        assert await content(store, await store.files.get("a", file.id)) == b"abc"
        await store.files.delete("a", file.id)
    assert blobs_of(folder) == []


async def test_files_of_a_store_in_memory_end_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai_server.store.link.gettempdir", lambda: str(tmp_path))
    async with opened("sqlite://") as store:
        assert os.listdir(tmp_path) == []
        assert await content(store, await add_file(store, b"abc")) == b"abc"
        (name,) = os.listdir(tmp_path)
        assert stat.S_IMODE(os.stat(tmp_path / name).st_mode) == 0o700
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
async def test_without_a_folder_postgresql_has_no_place_for_files(request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue("postgres")
    async with opened(server.url("store")) as store:
        assert not store.files.has_blobs
        for attempt in (receive(store, b"x"), store.files.check_quota("a")):
            with pytest.raises(NoFiles, match="--blobs"):
                await attempt
        assert (await store.files.list("a", FilesRequest(limit=10))).files == []


async def test_many_files_at_a_time_hold_little_memory(store: Store) -> None:
    pieces = [store.files.content([await receive(store, b"x" * MIB)]) for _ in range(64)]
    sizes = [len(await anext(read)) for read in pieces]
    assert sizes == [MIB] * 32 + [(32 * MIB) // n for n in range(33, 65)]
    for read in pieces:
        await read.aclose()
