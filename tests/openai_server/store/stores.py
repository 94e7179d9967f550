"""Stores for tests: in memory, in a file, and in a real PostgreSQL."""

import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import Connection, text

from openai_server.store.link import Link
from openai_server.store.records import NOTHING, Base, Ending, History, Item, NewResponse, Page, PageRequest, Status
from openai_server.store.store import Store, StoreSettings
from openai_server.store.tables import metadata
from tests.postgres import Postgres, running_postgres

POSTGRES = pytest.param("postgres", marks=pytest.mark.slow)
KINDS = ("memory", "file", POSTGRES)
SHARED_KINDS = ("file", POSTGRES)
"""Kinds of stores that several processes can use together."""

OpenStore = Callable[..., AbstractAsyncContextManager[Store]]
_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        server.create_database("store")
        yield server


@asynccontextmanager
async def database(server: Postgres) -> AsyncIterator[str]:
    """A new database without tables; the value is its URL."""
    name = f"store{next(_numbers)}"
    await server.execute(f"CREATE DATABASE {name} STRATEGY = FILE_COPY")
    try:
        yield server.url(name)
    finally:
        await server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@asynccontextmanager
async def store_url(kind: str, request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[str]:
    """The URL of an empty store. All tests share a database of PostgreSQL, since creating one takes longer than most
    tests."""
    if kind == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        yield server.url("store")
        await server.execute(f"TRUNCATE {', '.join(metadata.tables)}", database="store")
    else:
        yield "sqlite://" if kind == "memory" else f"sqlite:///{folder / 'store.db'}"


@asynccontextmanager
async def opened(url: str, *, runner: str = "runner", **settings: Any) -> AsyncIterator[Store]:
    store = Store(StoreSettings(url=url, **settings), runner=runner)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


# ---- Parts of a store that only tests use


def link_of(store: Store) -> Link:
    return store._link


async def execute(store: Store, statement: str, **parameters: Any) -> Sequence[Any]:
    """Returns the rows of a statement, or an empty list."""

    def run(connection: Connection) -> Sequence[Any]:
        result = connection.execute(text(statement), parameters)
        return result.all() if result.returns_rows else ()

    return await link_of(store).write("test", run)


async def sweep(store: Store) -> None:
    await link_of(store).parts.sweeper.sweep(link_of(store))


async def rows(store: Store, table: str) -> int:
    return cast(int, (await execute(store, f"SELECT count(*) FROM {table}"))[0][0])


# ---- Short forms


def item(id: str, body: str = "") -> Item:
    return Item(id, f'{{"id":"{id}","text":"{body}"}}'.encode())


def ids(found: Sequence[Item] | History | Page) -> list[str]:
    return [item.id for item in (found if isinstance(found, Sequence) else found.items)]


def new_response(
    id: str, *, base: Base = NOTHING, owner: str = "a", created_at: float | None = None, end: int | None = None
) -> NewResponse:
    """A response with one item as its input, whose id is `in_` and the id of the response."""
    return NewResponse(
        id=id,
        owner=owner,
        created_at=time.time() if created_at is None else created_at,
        model="m",
        body=b'{"body":1}',
        base=base,
        conversation_end=end,
        input=[item(f"in_{id}")],
    )


def ending(id: str, status: Status = "completed") -> Ending:
    """An ending with one item as output, whose id is `out_` and the id of the response."""
    return Ending(status=status, body=b'{"body":"final"}', output=[item(f"out_{id}")])


async def add(
    store: Store,
    id: str,
    *,
    previous: str | None = None,
    conversation: str | None = None,
    owner: str = "a",
    created_at: float | None = None,
    status: Status = "completed",
    has_begun: bool = False,
) -> None:
    """Stores a response that was generated from the history of its base."""
    base = Base(previous, conversation)
    end = (await history(store, base, owner=owner)).conversation_end
    response = new_response(id, base=base, owner=owner, created_at=created_at, end=end)
    if has_begun:
        await store.begin(response)
    await store.finish(response, ending(id, status), has_begun=has_begun)


async def history(store: Store, base: Base, *, owner: str = "a") -> History:
    return await store.history(owner, base, max_bytes=10**6, max_items=10**4)


async def history_ids(store: Store, response_id: str, *, owner: str = "a") -> list[str]:
    return ids(await history(store, Base(response_id), owner=owner))


async def all_pages(fetch: Callable[[PageRequest], Any], **request: Any) -> list[str]:
    """Returns the ids of all items of a list, page by page."""
    found: list[str] = []
    page = await fetch(PageRequest(**request))
    found += ids(page)
    while page.has_more:
        page = await fetch(PageRequest(**{**request, "after": found[-1]}))
        found += ids(page)
    return found
