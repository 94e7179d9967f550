"""A store in an SQLite file, or in memory."""

import asyncio
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from openai_server.store.database import Release, released_blobs, to_its_end
from openai_server.store.errors import BadStore, Lost, NotConnected
from openai_server.store.migrate import migrate

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

BUSY_MILLISECONDS = 5000
"""Longest wait for a transaction of another process."""
WRITES_PER_CHECKPOINT = 32
"""Transactions after which the log is written to the file, by a thread of its own, since that waits for the disk."""
TRUNCATE_MILLISECONDS = 50
"""Longest wait for readers before the log is emptied. Transactions that write wait behind it."""
RETRY_SECONDS = 0.02
"""Time between two attempts to open a file that another process creates."""
N_READERS = 2
"""Threads that read a file beside the one that writes. A database in memory has none."""

_LOSSES = frozenset(
    (
        *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY),
        *(sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB),
        *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_PROTOCOL),
    )
)
_PRAGMAS = (
    f"busy_timeout = {BUSY_MILLISECONDS}",
    "journal_mode = WAL",
    "synchronous = NORMAL",
    "secure_delete = ON",
    "wal_autocheckpoint = 20000",  # pages of 4 KiB; only if that thread is too slow
)


class SQLite:
    """A `Database`. `file` None: memory. One thread writes; it alone uses the connection that writes."""

    def __init__(self, file: Path | None, release: Release) -> None:
        self._file = file
        self._release = release
        self._writer = ThreadPoolExecutor(1, "store-writer")
        self._readers = self._writer if file is None else ThreadPoolExecutor(N_READERS, "store-reader")
        self._write_connection: Connection | None = None
        self._checkpointer = ThreadPoolExecutor(1, "store-checkpoint")
        self._n_writes = 0
        self._of_thread = threading.local()
        self._read_connections: list[Connection] = []
        self._n_connects = 0
        self._is_connected = False
        self._identity: tuple[int, int] | None = None
        """Device and inode of the file that is open; None before `connect`, and in memory."""

    @property
    def is_connected(self) -> bool:
        return self._is_connected

    async def connect(self) -> None:
        await _result_of(self._writer, self._connect)

    async def write(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await _result_of(self._writer, lambda: self._write(lambda connection: fn(connection, *args, **kwargs)))

    async def read(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await _result_of(self._readers, lambda: self._read(lambda connection: fn(connection, *args, **kwargs)))

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    async def erase_log(self) -> None:
        if self._file is not None and self._is_connected:
            await _result_of(self._checkpointer, self._checkpoint)
            await _result_of(self._writer, self._truncate)

    def _connect(self) -> None:
        if self._file is None and self._write_connection is not None:
            self._is_connected = True
            return  # another connection would be another database
        if self._write_connection is not None:
            _close(self._write_connection)
            self._write_connection = None
        is_first = self._n_connects == 0
        self._check_file()
        try:
            self._write_connection = self._open_writer()
        except DBAPIError as error:
            if is_first and _code(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL):
                raise BadStore(f"The store can't be opened: {_reason(error, self._file)}") from error
            raise Lost(_reason(error, self._file)) from error
        self._identity = _identity(self._file)
        self._n_connects += 1
        self._is_connected = True

    def _open_writer(self) -> Connection:
        """Opens the file and migrates its tables. Raises DBAPIError."""
        deadline = monotonic() + BUSY_MILLISECONDS / 1000
        while True:
            connection = None
            try:
                connection = _open(self._file, is_writer=True)
                with connection.begin():
                    migrate(connection)
                return connection
            except DBAPIError as error:
                if connection is not None:
                    _close(connection)
                # SQLite doesn't wait for another process that creates the log of a new file.
                if _code(error) != sqlite3.SQLITE_BUSY or monotonic() > deadline:
                    raise
            sleep(RETRY_SECONDS)

    def _check_file(self) -> None:
        """Raises Lost if another file, or none, has the name of the open one: what is written would be lost. It isn't
        opened, since this process' other connections would take the new file's log for that of theirs."""
        if self._identity is not None and _identity(self._file) != self._identity:
            self._is_connected = False
            raise Lost(f"{self._file} was moved, deleted or replaced; restart this server")

    def _write(self, fn: Callable[[Connection], T]) -> T:
        if not self._is_connected or self._write_connection is None:
            raise NotConnected
        self._check_file()
        with self._losing():
            released_blobs(self._write_connection)
            with self._write_connection.begin():
                value = fn(self._write_connection)
        if keys := released_blobs(self._write_connection):
            self._release(keys)
        self._n_writes += 1
        if self._n_writes % WRITES_PER_CHECKPOINT == 0 and self._file is not None:
            self._checkpointer.submit(self._checkpoint)
        return value

    def _read(self, fn: Callable[[Connection], T]) -> T:
        if self._file is None:
            return self._write(fn)
        if not self._is_connected:
            raise NotConnected
        with self._losing():
            connection = self._read_connection()
            with connection.begin():
                return fn(connection)

    def _read_connection(self) -> Connection:
        """Returns this thread's connection, a new one after each `connect`."""
        thread = self._of_thread
        if getattr(thread, "n_connects", 0) != self._n_connects:
            if hasattr(thread, "connection"):
                self._read_connections.remove(thread.connection)
                _close(thread.connection)
                del thread.connection
            thread.connection = _open(self._file, is_writer=False)
            self._read_connections.append(thread.connection)
            thread.n_connects = self._n_connects
        connection: Connection = thread.connection
        return connection

    @contextmanager
    def _losing(self) -> Iterator[None]:
        """Turns errors of the file into Lost."""
        try:
            yield
        except DBAPIError as error:
            if _code(error) not in _LOSSES:
                raise
            self._is_connected = False
            raise Lost(_reason(error, self._file)) from error

    def _checkpoint(self) -> None:
        """Writes the log to the file. Transactions don't wait for it."""
        try:
            _driver(self._read_connection()).execute("PRAGMA wal_checkpoint(PASSIVE)")
        except (DBAPIError, sqlite3.Error) as error:
            log.info("The log of the store wasn't written to its file: %s", error)

    def _truncate(self) -> None:
        """Empties the log, unless a reader needs it for longer than TRUNCATE_MILLISECONDS."""
        if self._write_connection is None:
            return
        driver = _driver(self._write_connection)
        driver.execute(f"PRAGMA busy_timeout = {TRUNCATE_MILLISECONDS}")
        try:
            driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.OperationalError as error:
            log.info("The log of the store wasn't emptied: %s", error)
        finally:
            driver.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")

    def _close(self) -> None:
        for threads in (self._writer, self._readers, self._checkpointer):
            threads.shutdown()
        self._is_connected = False
        for connection in (*self._read_connections, self._write_connection):
            if connection is not None:
                _close(connection)
        self._read_connections, self._write_connection = [], None


async def _result_of(executor: Executor, fn: Callable[[], T]) -> T:
    """Runs `fn` in a thread, to its end even if this task is cancelled."""
    return await to_its_end(asyncio.get_running_loop().run_in_executor(executor, fn))


def _open(file: Path | None, *, is_writer: bool) -> Connection:
    def connect() -> sqlite3.Connection:
        if file is not None and is_writer:
            _create(file)
        driver = sqlite3.connect(
            *(file or ":memory:", BUSY_MILLISECONDS / 1000), isolation_level=None, check_same_thread=False
        )
        for pragma in (*_PRAGMAS, "query_only = OFF" if is_writer else "query_only = ON"):
            driver.execute(f"PRAGMA {pragma}")
        return driver

    engine = create_engine("sqlite://", creator=connect, poolclass=StaticPool)
    begin = "BEGIN IMMEDIATE" if is_writer else "BEGIN"
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine.connect()


def _identity(file: Path | None) -> tuple[int, int] | None:
    if file is None:
        return None
    try:
        status = os.stat(file)
    except OSError:
        return (0, 0)
    return status.st_dev, status.st_ino


def _create(file: Path) -> None:
    """Creates a missing file that only this account can read. SQLite gives its other files the same mode."""
    with suppress(OSError):  # SQLite reports it
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600))


def _driver(connection: Connection) -> sqlite3.Connection:
    driver = connection.connection.dbapi_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


def _close(connection: Connection) -> None:
    connection.close()
    connection.engine.dispose()


def _code(error: DBAPIError) -> int:
    """Returns SQLite's primary code of the error."""
    return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF


def _reason(error: DBAPIError, file: Path | None) -> str:
    return f"{error.orig} ({getattr(error.orig, 'sqlite_errorname', 'no code')}, {file or 'memory'})"
