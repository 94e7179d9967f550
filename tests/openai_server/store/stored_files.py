"""Short forms for files of the store."""

import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from openai_server.store.blob_folder import MARK
from openai_server.store.file_records import FilesRequest, NewFile, Part, StoredFile
from openai_server.store.ids import new_id
from openai_server.store.store import Store
from tests.openai_server.store.stores import execute

MIB = 1 << 20


def blobs_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != MARK]


async def in_pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def receive(store: Store, *pieces: bytes, max_bytes: int = 1 << 30, owner: str | None = None) -> Part:
    return await store.files.receive(in_pieces(*pieces), max_bytes=max_bytes, owner=owner)


def new_file(parts: Sequence[Part], *, owner: str = "a", at: float | None = None, **fields: Any) -> NewFile:
    at = time.time() if at is None else at
    values: dict[str, Any] = {"expires_at": None, "filename": "f.txt", "purpose": "user_data", **fields}
    return NewFile(**{"id": new_id("file-", at), "owner": owner, "created_at": at, "parts": parts, **values})


async def add_file(store: Store, *pieces: bytes, **fields: Any) -> StoredFile:
    return await store.files.create(new_file([await receive(store, *pieces)], **fields))


async def content(store: Store, file: StoredFile, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([piece async for piece in store.files.content(file.parts, start, end)])


async def add_batch(store: Store, file_id: str, status: str) -> None:
    values = {
        **dict.fromkeys(("n_total", "n_completed", "n_failed", "created_at", "deadline"), 0),
        **dict.fromkeys(("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens"), 0),
        "id": "batch_1",
        "owner": "a",
        "endpoint": "",
        "completion_window": "",
        "metadata": b"null",
        "input_file_id": file_id,
        "status": status,
    }
    names = ", ".join(values)
    await execute(store, f"INSERT INTO batches ({names}) VALUES ({', '.join(f':{name}' for name in values)})", **values)


async def counted(store: Store, owner: str = "a") -> tuple[int, int]:
    found = await execute(store, "SELECT n_files, n_file_bytes FROM owners WHERE owner = :owner", owner=owner)
    return tuple(found[0]) if found else (0, 0)


async def all_ids(store: Store, **request: Any) -> list[str]:
    found: list[str] = []
    page = await store.files.list("a", FilesRequest(**request))
    while True:
        found += [file.id for file in page.files]
        if not page.has_more:
            return found
        assert len(page.files) == request["limit"]
        page = await store.files.list("a", FilesRequest(**{**request, "after": found[-1]}))
