"""Transactions on files."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, insert, or_, select

from openai_server.core.file_errors import FileInUse, FileNotFound
from openai_server.store.batch_records import BATCH_ENDINGS
from openai_server.store.database import release_blobs
from openai_server.store.file_records import FilesPage, FilesRequest, NewFile, Part, StoredFile
from openai_server.store.quota import Quota, count_files
from openai_server.store.tables import batches, file_parts, files, now

_f, _p, _b = files.c, file_parts.c, batches.c
_INSERT = insert(files)
_INSERT_PARTS = insert(file_parts)
_UNFINISHED = _b.status.not_in(sorted(BATCH_ENDINGS))
IN_USE = select(_b.id).where(_b.input_file_id == _f.id, _UNFINISHED).exists()
"""Whether a batch that has not ended reads the file, which then doesn't expire."""
_ALIVE = or_(_f.expires_at.is_(None), _f.expires_at > now(), IN_USE)
_COLUMNS = (_f.id, _f.owner, _f.created_at, _f.expires_at, _f.filename, _f.purpose, _f.n_bytes)
_OWN = select(*_COLUMNS).where(_f.owner == bindparam("of_owner"))
_FILE = _OWN.where(_f.id == bindparam("file"), _ALIVE)
_HELD = _FILE.with_for_update(read=True)
_LOCK = _OWN.where(_f.id == bindparam("file")).with_for_update()
_ANY = select(*_COLUMNS).where(_f.id == bindparam("file"))
_PARTS = select(_p.blob, _p.n_bytes).where(_p.file_id == bindparam("file")).order_by(_p.position)
_USER = select(_b.id).where(_b.input_file_id == bindparam("file"), _UNFINISHED).limit(1)
_DELETE = delete(files).where(_f.id == bindparam("file"))
_DELETE_PARTS = delete(file_parts).where(_p.file_id == bindparam("file")).returning(_p.blob)


class Files:
    def __init__(self, quota: Quota) -> None:
        self._quota = quota

    def create(self, connection: Connection, file: NewFile, *, is_limited: bool = True) -> StoredFile:
        """Adds the file, unless it is there: a transaction may be repeated after its commit was not confirmed. Raises
        FileQuotaExceeded if it `is_limited`."""
        row = connection.execute(_ANY, {"file": file.id}).one_or_none()
        if row is not None:
            return _stored(connection, row)
        insert_file(connection, file)
        if is_limited:
            self._quota.add_files(connection, file.owner, files=1, n_bytes=file.n_bytes)
        else:
            count_files(connection, file.owner, files=1, n_bytes=file.n_bytes)
        return as_stored(file)

    def get(self, connection: Connection, owner: str, id: str) -> StoredFile:
        """Raises FileNotFound."""
        return _stored(connection, _found(connection, _FILE, owner, id))

    def list(self, connection: Connection, owner: str, page: FilesRequest) -> FilesPage:
        is_ascending = page.order == "asc"
        statement = _OWN.where(_ALIVE)
        if page.after is not None:
            statement = statement.where(_f.id > page.after if is_ascending else _f.id < page.after)
        if page.purpose is not None:
            statement = statement.where(_f.purpose == page.purpose)
        statement = statement.order_by(_f.id if is_ascending else _f.id.desc()).limit(page.limit + 1)
        rows = connection.execute(statement, {"of_owner": owner}).all()
        return FilesPage([StoredFile(**row._mapping) for row in rows[: page.limit]], has_more=len(rows) > page.limit)

    def check_quota(self, connection: Connection, owner: str, n_bytes: int) -> int:
        return self._quota.check_files(connection, owner, n_bytes)


def hold_file(connection: Connection, owner: str, id: str, param: str) -> StoredFile:
    """Like `Files.get`. The file can't be deleted before the commit. `param` is the request's field with the id."""
    return _stored(connection, _found(connection, _HELD, owner, id, param))


def insert_file(connection: Connection, file: NewFile) -> None:
    """Adds the rows without counting them."""
    connection.execute(
        _INSERT,
        {
            "id": file.id,
            "owner": file.owner,
            "created_at": file.created_at,
            "expires_at": file.expires_at,
            "filename": file.filename,
            "purpose": file.purpose,
            "n_bytes": file.n_bytes,
        },
    )
    rows = [
        {"file_id": file.id, "position": position, "blob": part.blob, "n_bytes": part.n_bytes}
        for position, part in enumerate(file.parts)
    ]
    if rows:
        connection.execute(_INSERT_PARTS, rows)


def find_file(connection: Connection, owner: str, id: str) -> StoredFile | None:
    row = connection.execute(_FILE, {"file": id, "of_owner": owner}).one_or_none()
    return None if row is None else _stored(connection, row)


def delete_file(connection: Connection, owner: str, id: str) -> None:
    """Raises FileNotFound and FileInUse. Deletes a file that has expired, too."""
    row = _found(connection, _LOCK, owner, id)
    user = connection.scalar(_USER, {"file": id})
    if user is not None:
        raise FileInUse(id, user)
    connection.execute(_DELETE, {"file": id})
    release_blobs(connection, connection.scalars(_DELETE_PARTS, {"file": id}).all())
    count_files(connection, owner, files=-1, n_bytes=-row.n_bytes)


def as_stored(file: NewFile) -> StoredFile:
    return StoredFile(
        id=file.id,
        owner=file.owner,
        created_at=file.created_at,
        expires_at=file.expires_at,
        filename=file.filename,
        purpose=file.purpose,
        n_bytes=file.n_bytes,
        parts=file.parts,
    )


def _found(connection: Connection, statement: Any, owner: str, id: str, param: str | None = None) -> Row[Any]:
    row: Row[Any] | None = connection.execute(statement, {"file": id, "of_owner": owner}).one_or_none()
    if row is None:
        raise FileNotFound(id, param)
    return row


def _stored(connection: Connection, row: Any) -> StoredFile:
    return StoredFile(**row._mapping, parts=_parts(connection, row.id))


def _parts(connection: Connection, id: str) -> Sequence[Part]:
    return [Part(row.blob, row.n_bytes) for row in connection.execute(_PARTS, {"file": id})]
