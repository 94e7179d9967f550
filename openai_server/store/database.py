"""A database as the store uses it: transactions are synchronous functions of a connection, which run beside the event
loop."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection

P = ParamSpec("P")
T = TypeVar("T")
Release = Callable[[Sequence[str]], None]
"""Called with the keys of blobs that a committed transaction has released, in the thread of the transaction."""


class Database(Protocol):
    """A transaction runs to its end even if the task that waits for it is cancelled.

    `read` and `write` raise Lost, at once if `is_connected` is false, and Overloaded. They may call `fn` again after a
    rollback. Other exceptions of `fn` roll the transaction back and are raised.
    """

    @property
    def is_connected(self) -> bool:
        """Whether the last transaction, or `connect`, reached the database."""
        ...

    async def connect(self) -> None:
        """Connects and migrates. Raises Lost and BadStore."""
        ...

    async def write(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Returns the result of `fn` after the commit."""
        ...

    async def read(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Like `write` for an `fn` that changes nothing: all of its statements see the same state of the database."""
        ...

    async def erase_log(self) -> None:
        """Removes deleted bytes from the log of a file, as far as no reader needs them."""
        ...

    async def close(self) -> None:
        """Waits for the transactions that run."""
        ...


async def to_its_end(future: asyncio.Future[T]) -> T:
    """The result of `future`, which goes on if this task is cancelled. Its error is then of interest to nothing."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # asyncio would log it
        raise


_RELEASED = "released_blobs"


def release_blobs(connection: Connection, keys: Sequence[str | None]) -> None:
    """Has these blobs deleted after the commit of the transaction."""
    connection.info.setdefault(_RELEASED, []).extend(key for key in keys if key is not None)


def released_blobs(connection: Connection) -> list[str]:
    """Returns the keys since the last call for this connection, and forgets them."""
    keys: list[str] = connection.info.pop(_RELEASED, [])
    return keys
