"""Answers of `/v1/files`. PURE."""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from openai_server.store.file_records import FilesPage, StoredFile


class FileObject(Struct, kw_only=True):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    """Unix seconds, as `expires_at`."""
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    status_details: None = None


class FileList(Struct, kw_only=True):
    object: Literal["list"] = "list"
    data: Sequence[FileObject]
    first_id: str
    """Empty if there are no files, as is `last_id`."""
    last_id: str
    has_more: bool


class DeletedFile(Struct, kw_only=True):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


def file_object(file: StoredFile) -> FileObject:
    return FileObject(
        id=file.id,
        bytes=file.n_bytes,
        created_at=int(file.created_at),
        expires_at=None if file.expires_at is None else int(file.expires_at),
        filename=file.filename,
        purpose=file.purpose,
    )


def file_list(page: FilesPage) -> FileList:
    files = page.files
    return FileList(
        data=[file_object(file) for file in files],
        first_id=files[0].id if files else "",
        last_id=files[-1].id if files else "",
        has_more=page.has_more,
    )
