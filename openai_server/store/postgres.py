"""A store in PostgreSQL. Its connections have an event loop and a thread of their own, beside the server's."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import uvloop
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

from openai_server.store.blobs import Blobs
from openai_server.store.database import Release, released_blobs, to_its_end
from openai_server.store.errors import BadStore, Lost, NotConnected, Overloaded
from openai_server.store.migrate import migrate

P = ParamSpec("P")
T = TypeVar("T")

MAX_CONNECTIONS = 8
"""Open connections of a process."""
CONNECT_SECONDS = 3.0
STATEMENT_SECONDS = 5.0
ATTEMPTS = 3
"""Executions of a transaction that PostgreSQL rolls back because of a deadlock."""

SETTINGS = {
    "statement_timeout": f"{STATEMENT_SECONDS:.0f}s",
    "idle_in_transaction_session_timeout": f"{STATEMENT_SECONDS:.0f}s",  # of a process that is stopped
    "jit": "off",  # compiling a statement takes longer than any of them runs
}
_MIGRATION_LOCK = 0x616E7973  # any number that no other program uses
_REPEATED = ("40P01", "40001", "0A000")  # deadlock, serialization failure, a prepared statement of the old tables
_OVERLOADED = ("57014", "55P03", "25P03", "53300")  # timeouts of statements and locks, too many connections
_LOST = ("57P01", "57P02", "57P03", "25006", "3D000")  # shutdown, start, read-only replica, no such database
_LOST_CLASSES = ("08", "28", "53", "58")  # connection, authorization, resources, system errors
_REFUSALS = ("28", "3D")  # wrong settings of this server, when it starts


class Postgres:
    """A `Database`. `dsn`: as `asyncpg.connect` parses it."""

    def __init__(self, dsn: str, release: Release) -> None:
        self._dsn = dsn
        self._release = release
        self._engine: AsyncEngine | None = None
        self._is_connected = False
        self._has_connected = False
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="store-postgres", daemon=True)
        self._thread.start()

    @property
    def is_connected(self) -> bool:
        return self._is_connected

    async def connect(self) -> None:
        await self._result_of(self._connect())

    async def write(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        transaction = _Transaction(lambda connection: fn(connection, *args, **kwargs), is_read=False)
        return await self._result_of(self._run(transaction))

    async def read(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        transaction = _Transaction(lambda connection: fn(connection, *args, **kwargs), is_read=True)
        return await self._result_of(self._run(transaction))

    async def erase_log(self) -> None:
        """Does nothing: PostgreSQL's administrator decides how long its log stays."""

    async def close(self) -> None:
        await self._result_of(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)
        self._loop.close()

    async def _result_of(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs `work` on the thread's loop, to its end even if this task is cancelled."""
        return await to_its_end(asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop)))

    async def _connect(self) -> None:
        try:
            if self._engine is None:
                self._engine = self._create_engine()
            else:
                await self._engine.dispose()
            async with self._engine.begin() as connection:
                await connection.run_sync(_migrate)
        except Exception as error:
            failure = _failure_of(error)
            if not self._has_connected and (_is_refusal(error) or failure is None):
                raise BadStore(f"The store can't be opened: {_reason(error)}") from error
            if failure is None:
                raise
            raise Lost(str(failure)) from error
        self._has_connected = self._is_connected = True

    def _create_engine(self) -> AsyncEngine:
        return create_async_engine(
            "postgresql+asyncpg://",
            pool_size=MAX_CONNECTIONS,
            max_overflow=0,
            pool_timeout=CONNECT_SECONDS,
            connect_args={
                "dsn": self._dsn,
                "timeout": CONNECT_SECONDS,
                "command_timeout": STATEMENT_SECONDS + 1,  # for a server that vanished; a slow one ends its statement
                "server_settings": SETTINGS,
                "prepared_statement_cache_size": 500,
            },
        )

    async def _run(self, transaction: "_Transaction[T]") -> T:
        for attempt in range(1, ATTEMPTS + 1):
            if not self._is_connected or self._engine is None:
                raise NotConnected
            try:
                value, released = await transaction.run(self._engine)
                break
            except Exception as error:
                failure = _failure_of(error)
                if attempt < ATTEMPTS and transaction.may_repeat(error, failure, attempt):
                    continue
                if isinstance(failure, Lost):
                    self._is_connected = False
                if failure is None:
                    raise
                raise failure from error
        if released:
            await asyncio.to_thread(self._release, released)
        return value

    async def _close(self) -> None:
        self._is_connected = False
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)
        if self._engine is not None:
            await self._engine.dispose()
        await self._loop.shutdown_default_executor()


class _Transaction(Generic[T]):
    def __init__(self, fn: Callable[[Connection], T], *, is_read: bool) -> None:
        self._fn = fn
        self._options = _READ if is_read else _WRITE
        self._has_connection = self._is_committing = False

    async def run(self, engine: AsyncEngine) -> tuple[T, list[str]]:
        """Returns the result, and the keys of the blobs that the transaction has released."""
        self._has_connection = self._is_committing = False
        async with engine.connect() as connection:
            await connection.execution_options(**self._options)
            self._has_connection = True
            return await connection.run_sync(self._run)

    def _run(self, connection: Connection) -> tuple[T, list[str]]:
        released_blobs(connection)
        value = self._fn(connection)
        self._is_committing = True
        connection.commit()
        return value, released_blobs(connection)

    def may_repeat(self, error: Exception, failure: Exception | None, attempt: int) -> bool:
        """Whether the server has rolled this attempt back, and another one may succeed."""
        if _state(error) in _REPEATED:
            return True
        is_stale = isinstance(failure, Lost) and not isinstance(error, TimeoutError) and attempt == 1
        return is_stale and self._has_connection and not self._is_committing


_WRITE: dict[str, Any] = {"isolation_level": "READ COMMITTED"}
_READ: dict[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}


class AwaitedBlobs:
    """`Blobs` for transactions on the thread's loop, which goes on with others meanwhile."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    def get(self, key: str) -> bytes:
        return await_only(asyncio.to_thread(self._blobs.get, key))


def _migrate(connection: Connection) -> None:
    connection.execute(_LOCK)
    connection.execute(_WITHOUT_TIMEOUT)
    migrate(connection)


_LOCK = text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
_WITHOUT_TIMEOUT = text("SET LOCAL statement_timeout = 0")


def _failure_of(error: Exception) -> Lost | Overloaded | None:
    """Returns what the error is to the users of the database; None for an error of a statement."""
    state = _state(error)
    if isinstance(error, PoolTimeout) or state in _OVERLOADED:
        return Overloaded(_reason(error))
    is_closed = isinstance(error, DBAPIError) and error.connection_invalidated
    is_lost = is_closed or state in _LOST or state[:2] in _LOST_CLASSES or "connection is closed" in str(error)
    return Lost(_reason(error)) if is_lost or isinstance(error, OSError) else None


def _is_refusal(error: Exception) -> bool:
    return _state(error)[:2] in _REFUSALS


def _state(error: Exception) -> str:
    """Returns the SQLSTATE, or an empty text."""
    return getattr(_driver_error(error), "sqlstate", None) or ""


def _driver_error(error: Exception) -> BaseException:
    return error.orig or error if isinstance(error, DBAPIError) else error


def _reason(error: Exception) -> str:
    cause = _driver_error(error)
    return str(cause) or type(cause).__name__
