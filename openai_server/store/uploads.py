"""Transactions on uploads and their parts. Methods that change an upload lock its row: they run one after the other.

The rows of the parts of a completed upload stay as long as the upload, to recognize the same request to complete it.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, update

from openai_server.core.errors import InvalidRequest
from openai_server.core.file_errors import PartsTooLarge, TooManyParts, UploadEnded, UploadNotFound, WrongUploadSize
from openai_server.store.database import release_blobs
from openai_server.store.file_records import NewFile, NewUpload, Part, StoredFile, StoredUpload
from openai_server.store.files import as_stored, find_file, insert_file
from openai_server.store.quota import Quota, count_files
from openai_server.store.tables import now, upload_parts, uploads

_u, _p = uploads.c, upload_parts.c
_INSERT = insert(uploads)
_INSERT_PART = insert(upload_parts)
_ANY = select(uploads).where(_u.id == bindparam("upload"), _u.owner == bindparam("of_owner"))
_UPLOAD = _ANY.where(_u.expires_at > now())
_LOCK = _UPLOAD.with_for_update()
_LOCK_ANY = _ANY.with_for_update()
_PARTS = select(_p.id, _p.blob, _p.n_bytes).where(_p.upload_id == bindparam("upload"))
_HAS_PART = select(_p.id).where(_p.id == bindparam("part"))
_SIZE = select(func.count(), func.coalesce(func.sum(_p.n_bytes), 0)).where(_p.upload_id == bindparam("upload"))
_SET_STATUS = (
    update(uploads)
    .where(_u.id == bindparam("upload"))
    .values(status=bindparam("new_status"), file_id=bindparam("file"))
)
_DELETE = delete(uploads).where(_u.id == bindparam("upload"))
_DELETE_PARTS = delete(upload_parts).where(_p.upload_id == bindparam("upload")).returning(_p.blob, _p.n_bytes)
_DELETE_PART = delete(upload_parts).where(_p.id == bindparam("part"))


class Uploads:
    """All methods but `create` raise UploadNotFound."""

    def __init__(self, quota: Quota, *, max_parts: int) -> None:
        self._quota, self._max_parts = quota, max_parts

    def create(self, connection: Connection, upload: NewUpload) -> StoredUpload:
        """Raises FileQuotaExceeded."""
        row = connection.execute(_ANY, {"upload": upload.id, "of_owner": upload.owner}).one_or_none()
        if row is not None:  # a former transaction's commit was not confirmed
            return _stored(row)
        self._quota.check_files(connection, upload.owner, upload.n_bytes)
        fields = {name: getattr(upload, name) for name in upload.__struct_fields__}
        connection.execute(_INSERT, {**fields, "status": "pending"})
        self._quota.add_files(connection, upload.owner, files=1)
        return StoredUpload(**fields, status="pending")

    def get(self, connection: Connection, owner: str, id: str) -> StoredUpload:
        row = _found(connection, _UPLOAD, owner, id)
        return _stored(row, _file_of(connection, row))

    def add_part(
        self, connection: Connection, owner: str, id: str, part_id: str, created_at: float, part: Part
    ) -> None:
        """Raises UploadEnded, TooManyParts, PartsTooLarge and FileQuotaExceeded too."""
        upload = _found(connection, _LOCK, owner, id)
        if connection.scalar(_HAS_PART, {"part": part_id}) is not None:
            return  # a former transaction's commit was not confirmed
        if upload.status != "pending":
            raise UploadEnded(id, upload.status)
        n_parts, n_bytes = connection.execute(_SIZE, {"upload": id}).one()
        if n_parts >= self._max_parts:
            raise TooManyParts(self._max_parts)
        if n_bytes + part.n_bytes > 2 * upload.n_bytes:
            raise PartsTooLarge(upload.n_bytes)
        connection.execute(
            _INSERT_PART,
            {
                "id": part_id,
                "upload_id": id,
                "created_at": created_at,
                "blob": part.blob,
                "n_bytes": part.n_bytes,
            },
        )
        self._quota.add_files(connection, owner, n_bytes=part.n_bytes)

    def content(self, connection: Connection, owner: str, id: str, part_ids: Sequence[str]) -> Sequence[Part] | None:
        """The parts with these ids, whose size is the announced one. None: the upload is completed.

        Raises UploadEnded, and InvalidRequest (param `part_ids`).
        """
        upload = _found(connection, _UPLOAD, owner, id)
        if upload.status == "completed":
            return None
        return _chosen(connection, upload, part_ids)

    def complete(
        self, connection: Connection, owner: str, id: str, part_ids: Sequence[str], file_id: str, created_at: float
    ) -> StoredUpload:
        """Raises UploadEnded, and InvalidRequest (param `part_ids`) too."""
        upload = _found(connection, _LOCK, owner, id)
        if upload.status == "completed":
            return self._completed(connection, upload, part_ids)
        parts = _chosen(connection, upload, part_ids)
        file = NewFile(
            id=file_id,
            owner=owner,
            created_at=created_at,
            expires_at=None if upload.file_seconds is None else created_at + upload.file_seconds,
            filename=upload.filename,
            purpose=upload.purpose,
            parts=parts,
        )
        insert_file(connection, file)
        n_bytes = _drop_others(connection, id, part_ids)
        connection.execute(_SET_STATUS, {"upload": id, "new_status": "completed", "file": file_id})
        count_files(connection, owner, n_bytes=-n_bytes)  # the file replaces the upload and its parts
        return _stored(upload, as_stored(file), status="completed")

    def _completed(self, connection: Connection, upload: Row[Any], part_ids: Sequence[str]) -> StoredUpload:
        """Raises UploadEnded if these are not the parts that it was completed with."""
        file = _file_of(connection, upload)
        blobs = {row.id: row.blob for row in connection.execute(_PARTS, {"upload": upload.id})}
        chosen = [blobs.get(part_id) for part_id in part_ids]
        if None in chosen or len(chosen) != len(blobs):
            raise UploadEnded(upload.id, upload.status)
        if file is not None and chosen != [part.blob for part in file.parts]:
            raise UploadEnded(upload.id, upload.status)
        return _stored(upload, file)

    def cancel(self, connection: Connection, owner: str, id: str) -> StoredUpload:
        """Raises UploadEnded for a completed one."""
        upload = _found(connection, _LOCK, owner, id)
        if upload.status == "completed":
            raise UploadEnded(id, upload.status)
        if upload.status == "pending":
            _drop_parts(connection, owner, id)
            connection.execute(_SET_STATUS, {"upload": id, "new_status": "cancelled", "file": None})
        return _stored(upload, status="cancelled")


def delete_upload(connection: Connection, owner: str, id: str) -> None:
    """Deletes an upload that has expired, unless it is deleted. The file of a completed one stays."""
    upload = connection.execute(_LOCK_ANY, {"upload": id, "of_owner": owner}).one_or_none()
    if upload is None:
        return
    connection.execute(_DELETE, {"upload": id})
    if upload.status == "pending":
        _drop_parts(connection, owner, id)
    else:
        connection.execute(_DELETE_PARTS, {"upload": id})


def _found(connection: Connection, statement: Any, owner: str, id: str) -> Row[Any]:
    row: Row[Any] | None = connection.execute(statement, {"upload": id, "of_owner": owner}).one_or_none()
    if row is None:
        raise UploadNotFound(id)
    return row


def _chosen(connection: Connection, upload: Row[Any], part_ids: Sequence[str]) -> Sequence[Part]:
    """Raises UploadEnded, and InvalidRequest for unknown or repeated parts, or another size than the announced one."""
    if upload.status != "pending":
        raise UploadEnded(upload.id, upload.status)
    parts = {row.id: Part(row.blob, row.n_bytes) for row in connection.execute(_PARTS, {"upload": upload.id})}
    seen = set[str]()
    for n, part_id in enumerate(part_ids):
        if part_id not in parts or part_id in seen:
            problem = "is repeated" if part_id in seen else "is no part of this upload"
            raise InvalidRequest(f"'part_ids[{n}]' {problem}.", param=f"part_ids[{n}]")
        seen.add(part_id)
    chosen = [parts[part_id] for part_id in part_ids]
    n_bytes = sum(part.n_bytes for part in chosen)
    if n_bytes != upload.n_bytes:
        raise WrongUploadSize(n_bytes, upload.n_bytes)
    return chosen


def _drop_others(connection: Connection, id: str, part_ids: Sequence[str]) -> int:
    """Deletes the parts that the file doesn't have. Returns the number of bytes."""
    used = set(part_ids)
    others = [row for row in connection.execute(_PARTS, {"upload": id}).all() if row.id not in used]
    for row in others:
        connection.execute(_DELETE_PART, {"part": row.id})
    release_blobs(connection, [row.blob for row in others])
    return sum(row.n_bytes for row in others)


def _drop_parts(connection: Connection, owner: str, id: str) -> None:
    """Deletes all parts of a pending upload, and counts both."""
    rows = connection.execute(_DELETE_PARTS, {"upload": id}).all()
    release_blobs(connection, [row.blob for row in rows])
    count_files(connection, owner, files=-1, n_bytes=-sum(row.n_bytes for row in rows))


def _file_of(connection: Connection, upload: Row[Any]) -> StoredFile | None:
    return None if upload.file_id is None else find_file(connection, upload.owner, upload.file_id)


def _stored(row: Row[Any], file: StoredFile | None = None, **changes: Any) -> StoredUpload:
    fields = {name: value for name, value in row._mapping.items() if name != "file_id"}
    return StoredUpload(**{**fields, **changes}, file=file)
