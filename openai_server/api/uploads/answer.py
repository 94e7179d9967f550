"""Answers of `/v1/uploads`. PURE."""

from typing import Literal

from msgspec import Struct

from openai_server.api.files.answer import FileObject, file_object
from openai_server.store.file_records import StoredUpload, UploadStatus


class UploadObject(Struct, kw_only=True):
    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    """As the client announced it."""
    created_at: int
    """Unix seconds, as `expires_at`."""
    expires_at: int
    filename: str
    purpose: str
    status: UploadStatus
    file: FileObject | None
    """The file of a completed upload; None if it has been deleted."""


class UploadPart(Struct, kw_only=True):
    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str


def upload_object(upload: StoredUpload) -> UploadObject:
    return UploadObject(
        id=upload.id,
        bytes=upload.n_bytes,
        created_at=int(upload.created_at),
        expires_at=int(upload.expires_at),
        filename=upload.filename,
        purpose=upload.purpose,
        status=upload.status,
        file=None if upload.file is None else file_object(upload.file),
    )
