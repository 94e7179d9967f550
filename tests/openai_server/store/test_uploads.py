"""Uploads of the store: files that arrive in parts."""

import asyncio
import hashlib
import itertools
import os
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from openai_server.core.errors import InvalidRequest
from openai_server.core.file_errors import (
    FileNotFound,
    FileQuotaExceeded,
    PartsTooLarge,
    TooManyParts,
    UploadEnded,
    UploadNotFound,
    WrongUploadSize,
)
from openai_server.core.store_errors import StoreAway
from openai_server.store.blob_folder import FolderBlobs
from openai_server.store.errors import BlobsAway
from openai_server.store.file_records import NewUpload, StoredUpload
from openai_server.store.ids import new_id
from openai_server.store.link import Link
from openai_server.store.store import Store
from tests.openai_server.store.stored_files import blobs_of, content, counted, receive
from tests.openai_server.store.stores import execute, opened, rows, sweep

_numbers = itertools.count()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
async def store(url: str, folder: Path) -> AsyncIterator[Store]:
    async with opened(url, blobs=folder) as store:
        yield store


async def begin(store: Store, n_bytes: int, **fields: Any) -> StoredUpload:
    at = time.time()
    values: dict[str, Any] = {
        "id": new_id("upload_", at),
        "owner": "a",
        "created_at": at,
        "expires_at": at + 60,
        "filename": "f.bin",
        "purpose": "batch",
        "mime_type": "text/plain",
        "n_bytes": n_bytes,
        "file_seconds": None,
        **fields,
    }
    return await store.files.create_upload(NewUpload(**values))


async def add(store: Store, upload: StoredUpload, *texts: bytes, owner: str = "a") -> list[str]:
    ids = [f"part_{next(_numbers)}" for _ in texts]
    for id, text in zip(ids, texts, strict=True):
        await store.files.add_part(owner, upload.id, id, time.time(), await receive(store, text))
    return ids


async def complete(
    store: Store, upload: StoredUpload, ids: Sequence[str], *, owner: str = "a", md5: str | None = None
) -> StoredUpload:
    at = time.time()
    return await store.files.complete_upload(owner, upload.id, ids, new_id("file-", at), at, md5)


async def test_an_upload(store: Store, folder: Path) -> None:
    upload = await begin(store, 6, file_seconds=100.0)
    assert upload.status == "pending"
    assert await store.files.upload("a", upload.id) == upload
    first, second, unused = await add(store, upload, b"abc", b"def", b"unused")
    assert await counted(store) == (1, 12)
    completed = await complete(store, upload, [second, first])
    file = completed.file
    assert file is not None
    assert (completed.status, file.filename, file.purpose, file.n_bytes) == ("completed", "f.bin", "batch", 6)
    assert file.expires_at == file.created_at + 100
    assert await content(store, file) == b"defabc"
    assert await store.files.get("a", file.id) == file
    assert await store.files.upload("a", upload.id) == completed
    assert len(blobs_of(folder)) == 2
    assert await counted(store) == (1, 6)
    await store.files.delete("a", file.id)
    assert await counted(store) == (0, 0)
    assert blobs_of(folder) == []
    assert (await store.files.upload("a", upload.id)).file is None
    assert unused


async def test_parts_at_the_same_time(store: Store) -> None:
    upload = await begin(store, 20)
    ids = await asyncio.gather(*(add(store, upload, f"{n:02}".encode()) for n in range(10)))
    completed = await complete(store, upload, [id for (id,) in ids])
    assert completed.file is not None
    assert await content(store, completed.file) == b"00010203040506070809"
    assert await counted(store) == (1, 20)


async def test_completing_it_again(store: Store) -> None:
    upload = await begin(store, 2)
    first, second, unused = await add(store, upload, b"a", b"b", b"c")
    completed = await complete(store, upload, [first, second])
    assert await complete(store, upload, [first, second]) == completed
    digest = hashlib.md5(b"ab").hexdigest()
    assert await complete(store, upload, [first, second], md5=digest) == completed
    for ids in ([second, first], [first], [first, second, unused], [first, unused], []):
        with pytest.raises(UploadEnded, match="completed"):
            await complete(store, upload, ids)
    with pytest.raises(UploadEnded):
        await add(store, upload, b"x")
    with pytest.raises(UploadEnded):
        await store.files.cancel_upload("a", upload.id)
    assert await rows(store, "files") == 1
    assert await counted(store) == (1, 2)


async def test_what_can_not_be_completed(store: Store) -> None:
    upload = await begin(store, 4)
    other = await begin(store, 2)
    first, second, third = await add(store, upload, b"aa", b"bb", b"ccc")
    (foreign,) = await add(store, other, b"dd")
    with pytest.raises(WrongUploadSize, match=r"The parts have 5 bytes.*'bytes': 4"):
        await complete(store, upload, [first, third])
    with pytest.raises(WrongUploadSize, match="0 bytes"):
        await complete(store, upload, [])
    for ids, param in (([first, first], "part_ids[1]"), ([first, foreign], "part_ids[1]"), (["x"], "part_ids[0]")):
        with pytest.raises(InvalidRequest) as raised:
            await complete(store, upload, ids)
        assert raised.value.param == param
    with pytest.raises(InvalidRequest, match="MD5") as raised:
        await complete(store, upload, [first, second], md5="0" * 32)
    assert raised.value.param == "md5"
    assert (await store.files.upload("a", upload.id)).status == "pending"
    digest = hashlib.md5(b"bbaa").hexdigest().upper()
    assert (await complete(store, upload, [second, first], md5=digest)).status == "completed"


async def test_blobs_are_swept_if_a_process_ended_before_it_deleted_them(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(_: FolderBlobs, key: str) -> None:
        raise BlobsAway(key)

    upload = await begin(store, 5)
    completed = await complete(store, upload, await add(store, upload, b"hello"))
    assert completed.file is not None
    with monkeypatch.context() as patch:
        patch.setattr(FolderBlobs, "delete", end)
        await store.files.delete("a", completed.file.id)
    [blob] = blobs_of(folder)
    os.utime(blob, (time.time() - 3700,) * 2)
    await sweep(store)
    assert not blobs_of(folder)


async def test_a_cancelled_upload(store: Store, folder: Path) -> None:
    upload = await begin(store, 2)
    ids = await add(store, upload, b"aa")
    cancelled = await store.files.cancel_upload("a", upload.id)
    assert cancelled.status == "cancelled"
    assert await store.files.cancel_upload("a", upload.id) == cancelled
    assert blobs_of(folder) == []
    assert await counted(store) == (0, 0)
    with pytest.raises(UploadEnded, match="cancelled"):
        await complete(store, upload, ids)
    with pytest.raises(UploadEnded):
        await add(store, upload, b"x")
    assert blobs_of(folder) == []


async def test_others_see_nothing_of_an_upload(store: Store, folder: Path) -> None:
    upload = await begin(store, 2)
    ids = await add(store, upload, b"aa")
    for attempt in (
        store.files.upload("b", upload.id),
        add(store, upload, b"x", owner="b"),
        complete(store, upload, ids, owner="b"),
        complete(store, upload, ids, owner="b", md5="0" * 32),
        store.files.cancel_upload("b", upload.id),
    ):
        with pytest.raises(UploadNotFound):
            await attempt
    assert len(blobs_of(folder)) == 1


async def test_an_upload_that_has_expired(store: Store, folder: Path) -> None:
    upload = await begin(store, 2, expires_at=time.time() - 1)
    for attempt in (
        store.files.upload("a", upload.id),
        add(store, upload, b"x"),
        complete(store, upload, []),
        store.files.cancel_upload("a", upload.id),
    ):
        with pytest.raises(UploadNotFound):
            await attempt
    kept = await begin(store, 2)
    ids = await add(store, kept, b"aa")
    done = await begin(store, 1)
    completed = await complete(store, done, await add(store, done, b"x"))
    await execute(store, "UPDATE uploads SET expires_at = 1 WHERE id = :id", id=done.id)
    cancelled = await begin(store, 1)
    await store.files.cancel_upload("a", cancelled.id)
    await execute(store, "UPDATE uploads SET expires_at = 1 WHERE id = :id", id=cancelled.id)
    await sweep(store)
    assert await rows(store, "uploads") == 1
    assert await rows(store, "upload_parts") == 1
    assert await counted(store) == (2, 3)
    assert completed.file is not None
    assert await content(store, completed.file) == b"x"
    assert (await complete(store, kept, ids)).status == "completed"
    await execute(store, "UPDATE uploads SET expires_at = 1")
    await sweep(store)
    assert await counted(store) == (2, 3)
    assert len(blobs_of(folder)) == 2


async def test_parts_of_an_upload_that_expires(store: Store, folder: Path) -> None:
    upload = await begin(store, 2)
    await add(store, upload, b"aa", b"b")
    await execute(store, "UPDATE uploads SET expires_at = 1")
    await sweep(store)
    assert blobs_of(folder) == []
    assert await counted(store) == (0, 0)


async def test_the_sweeper_keeps_parts(store: Store, folder: Path) -> None:
    upload = await begin(store, 2, expires_at=time.time() + 10_000)
    ids = await add(store, upload, b"aa")
    for path in blobs_of(folder):
        os.utime(path, (time.time() - 3601, time.time() - 3601))
    await sweep(store)
    completed = await complete(store, upload, ids)
    assert completed.file is not None
    assert await content(store, completed.file) == b"aa"


async def test_the_limits_of_an_upload(url: str, folder: Path) -> None:
    async with opened(url, blobs=folder, max_upload_parts=3, max_file_bytes=10) as store:
        with pytest.raises(FileQuotaExceeded):
            await begin(store, 11)
        upload = await begin(store, 3)
        with pytest.raises(PartsTooLarge, match="twice the 3 bytes"):
            await add(store, upload, b"1234567")
        await add(store, upload, b"123", b"123")
        with pytest.raises(PartsTooLarge):
            await add(store, upload, b"1")
        with pytest.raises(FileQuotaExceeded):
            await begin(store, 5)
        another = await begin(store, 4)
        await add(store, another, b"1", b"1", b"1")
        with pytest.raises(TooManyParts, match="3 parts"):
            await add(store, another, b"1")
        last = await begin(store, 1)
        with pytest.raises(FileQuotaExceeded):
            await add(store, last, b"1", b"1")
        assert len(blobs_of(folder)) == 6
        assert await counted(store) == (3, 10)


async def test_pending_uploads_are_counted_as_files(url: str, folder: Path) -> None:
    async with opened(url, blobs=folder, max_objects=2) as store:
        await begin(store, 1)
        upload = await begin(store, 1)
        with pytest.raises(FileQuotaExceeded):
            await begin(store, 1)
        await store.files.cancel_upload("a", upload.id)
        await begin(store, 1)


async def test_transactions_whose_confirmation_was_lost(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each method can be called again with the same ids, and changes nothing then."""
    write = Link.write

    async def lost(link: Link, *args: Any, **kwargs: Any) -> Any:
        await write(link, *args, **kwargs)
        raise StoreAway

    async def twice(call: Any) -> Any:
        with monkeypatch.context() as context:
            context.setattr(Link, "write", lost)
            with pytest.raises(StoreAway):
                await call()
        return await call()

    upload = await twice(lambda: begin(store, 2, id="upload_1"))
    part = await receive(store, b"aa")
    await twice(lambda: store.files.add_part("a", upload.id, "part", 1.0, part))
    assert await counted(store) == (1, 2)
    completed = await twice(lambda: complete(store, upload, ["part"]))
    assert await counted(store) == (1, 2)
    assert await content(store, completed.file) == b"aa"
    assert await rows(store, "files") == 1
    await store.files.delete("a", completed.file.id)
    with pytest.raises(FileNotFound):
        await store.files.delete("a", completed.file.id)
    assert blobs_of(folder) == []
