"""Databases for the store of a measured or tested sidecar: an SQLite file, or a PostgreSQL server of its own."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import asyncpg

from tests.postgres import running_postgres

SQLITE, POSTGRESQL = "sqlite", "postgresql"
KINDS = (SQLITE, POSTGRESQL)
Rows = list[tuple[Any, ...]]
BUSY_S = 30.0


class Database(Protocol):
    kind: str
    url: str
    """The value of --store."""

    def rows(self, sql: str) -> Rows:
        """Runs a query, beside the sidecars that use the database."""

    def execute(self, sql: str) -> None:
        """Runs a statement that changes something, in a transaction of its own."""

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Inserts the rows in one transaction."""

    def columns(self, table: str) -> list[str]: ...

    def analyze(self) -> None:
        """Updates the statistics of the planner, as the server does by itself in time."""

    def n_bytes(self) -> int:
        """Size of its files."""


class SQLiteFile:
    kind = SQLITE

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"

    def rows(self, sql: str) -> Rows:
        with closing(sqlite3.connect(self.path, timeout=BUSY_S)) as connection, connection:
            return connection.execute(sql).fetchall()

    def execute(self, sql: str) -> None:
        self.rows(sql)

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        marks = ", ".join("?" * len(columns))
        with closing(sqlite3.connect(self.path, timeout=BUSY_S)) as connection, connection:
            connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)

    def columns(self, table: str) -> list[str]:
        return [row[1] for row in self.rows(f"PRAGMA table_info({table})")]

    def analyze(self) -> None:
        """SQLite runs without statistics."""

    def n_bytes(self) -> int:
        files = (self.path, self.path.with_name(f"{self.path.name}-wal"))
        return sum(file.stat().st_size for file in files if file.exists())


class PostgreSQL:
    kind = POSTGRESQL

    def __init__(self, url: str) -> None:
        self.url = url

    def rows(self, sql: str) -> Rows:
        async def fetch(connection: Any) -> Rows:
            return [tuple(row) for row in await connection.fetch(sql)]

        return self._run(fetch)

    def execute(self, sql: str) -> None:
        self.rows(sql)

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        async def copy(connection: Any) -> Rows:
            await connection.copy_records_to_table(table, columns=list(columns), records=rows)
            return []

        self._run(copy)

    def columns(self, table: str) -> list[str]:
        query = f"SELECT column_name FROM information_schema.columns WHERE table_name = '{table}'"
        return [name for (name,) in self.rows(query)]

    def analyze(self) -> None:
        self.execute("VACUUM ANALYZE")

    def n_bytes(self) -> int:
        [(size,)] = self.rows("SELECT pg_database_size(current_database())")
        return int(size)

    def _run(self, query: Any) -> Rows:
        async def run() -> Rows:
            connection = await asyncpg.connect(self.url)
            try:
                rows: Rows = await query(connection)
                return rows
            finally:
                await connection.close()

        return asyncio.run(run())


@contextmanager
def database(kind: str) -> Iterator[SQLiteFile | PostgreSQL]:
    """Yields an empty database, which is deleted at the end. Its commits wait for the disk as in production."""
    if kind == SQLITE:
        with tempfile.TemporaryDirectory() as folder:
            yield SQLiteFile(Path(folder) / "store.db")
    else:
        with running_postgres(is_durable=True) as server:
            yield PostgreSQL(server.url("postgres"))
