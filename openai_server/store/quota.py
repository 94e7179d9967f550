"""Counts what each owner has stored, and limits it."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, func, select
from sqlalchemy.dialects import postgresql, sqlite

from openai_server.core.file_errors import FileQuotaExceeded
from openai_server.core.store_errors import StoreQuotaExceeded
from openai_server.store.tables import owners


class Quota:
    """The limits of one owner; 0 is no limit."""

    def __init__(self, max_objects: int, max_bytes: int, max_file_bytes: int = 0) -> None:
        self._max_objects, self._max_bytes, self._max_file_bytes = max_objects, max_bytes, max_file_bytes

    def check(self, connection: Connection, owner: str) -> None:
        """Raises StoreQuotaExceeded if the owner can't store anything more."""
        row = connection.execute(_SELECT, {"of_owner": owner}).one_or_none()
        if row is not None:
            self._check(row.n_objects + 1, row.n_bytes + 1)

    def add(
        self, connection: Connection, owner: str, *, responses: int = 0, conversations: int = 0, n_bytes: int = 0
    ) -> None:
        """Counts what the transaction has added or, with negative numbers, deleted. It should be the last statement,
        since other transactions of the owner wait for this one from here on.

        Raises StoreQuotaExceeded if a number that has grown exceeds its limit.
        """
        total = count(connection, owner, responses=responses, conversations=conversations, n_bytes=n_bytes)
        n_objects, total_bytes = total
        self._check(n_objects if responses + conversations > 0 else 0, total_bytes if n_bytes > 0 else 0)

    def check_files(self, connection: Connection, owner: str, n_bytes: int) -> int:
        """Returns the bytes of the owner's files. Raises FileQuotaExceeded if it can't store another file with this
        number of bytes."""
        row = connection.execute(_SELECT_FILES, {"of_owner": owner}).one_or_none()
        n_files, total_bytes = (0, 0) if row is None else row
        self._check_files(n_files + 1, total_bytes + n_bytes)
        return int(total_bytes)

    def add_files(self, connection: Connection, owner: str, *, files: int = 0, n_bytes: int = 0) -> None:
        """Like `add`, for files and pending uploads. Raises FileQuotaExceeded."""
        n_files, total_bytes = count_files(connection, owner, files=files, n_bytes=n_bytes)
        self._check_files(n_files if files > 0 else 0, total_bytes if n_bytes > 0 else 0)

    def _check_files(self, n_files: int, n_bytes: int) -> None:
        if 0 < self._max_objects < n_files:
            raise FileQuotaExceeded(f"{self._max_objects} files")
        if 0 < self._max_file_bytes < n_bytes:
            raise FileQuotaExceeded(f"{self._max_file_bytes} bytes")

    def _check(self, n_objects: int, n_bytes: int) -> None:
        if 0 < self._max_objects < n_objects:
            raise StoreQuotaExceeded(f"{self._max_objects} responses and conversations")
        if 0 < self._max_bytes < n_bytes:
            raise StoreQuotaExceeded(f"{self._max_bytes} bytes")


def count(
    connection: Connection, owner: str, *, responses: int = 0, conversations: int = 0, n_bytes: int = 0
) -> tuple[int, int]:
    """Like `Quota.add` without limits. Returns the owner's numbers of objects and bytes."""
    statement = _COUNT[connection.dialect.name]
    parameters = {"owner": owner, "n_responses": responses, "n_conversations": conversations, "n_bytes": n_bytes}
    n_objects, total_bytes = connection.execute(statement, parameters).one()
    return n_objects, total_bytes


def count_files(connection: Connection, owner: str, *, files: int = 0, n_bytes: int = 0) -> tuple[int, int]:
    """Like `Quota.add_files` without limits. Returns the owner's numbers of files, with pending uploads, and of their
    bytes."""
    parameters = {"owner": owner, "n_files": files, "n_file_bytes": n_bytes, **_NOTHING}
    n_files, total_bytes = connection.execute(_COUNT_FILES[connection.dialect.name], parameters).one()
    return n_files, total_bytes


def totals(connection: Connection) -> tuple[int, int, int]:
    """Returns the numbers of responses, conversations and bytes of all owners."""
    responses, conversations, n_bytes = connection.execute(_TOTALS).one()
    return int(responses), int(conversations), int(n_bytes)


def file_totals(connection: Connection) -> tuple[int, int]:
    """Returns the numbers of files, with pending uploads, and of their bytes, of all owners."""
    files, n_bytes = connection.execute(_FILE_TOTALS).one()
    return int(files), int(n_bytes)


_c = owners.c
_SELECT = select((_c.n_responses + _c.n_conversations).label("n_objects"), _c.n_bytes).where(
    _c.owner == bindparam("of_owner")
)
_TOTALS = select(*(func.coalesce(func.sum(column), 0) for column in (_c.n_responses, _c.n_conversations, _c.n_bytes)))
_FILE_TOTALS = select(*(func.coalesce(func.sum(column), 0) for column in (_c.n_files, _c.n_file_bytes)))
_SELECT_FILES = select(_c.n_files, _c.n_file_bytes).where(_c.owner == bindparam("of_owner"))
_NOTHING = {"n_responses": 0, "n_conversations": 0, "n_bytes": 0}


def _counting(statement: sqlite.Insert | postgresql.Insert, names: Sequence[str], *total: ColumnElement[int]) -> Any:
    counted = {name: _c[name] + statement.excluded[name] for name in names}
    return statement.on_conflict_do_update(index_elements=[_c.owner], set_=counted).returning(*total)


_INSERTS = (("sqlite", sqlite.insert), ("postgresql", postgresql.insert))
_COUNT = {
    dialect: _counting(insert(owners), tuple(_NOTHING), _c.n_responses + _c.n_conversations, _c.n_bytes)
    for dialect, insert in _INSERTS
}
_COUNT_FILES = {
    dialect: _counting(insert(owners), ("n_files", "n_file_bytes"), _c.n_files, _c.n_file_bytes)
    for dialect, insert in _INSERTS
}
