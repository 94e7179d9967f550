"""Transactions: cancelled ones, failing ones, and those of several processes at once."""

import asyncio
import threading
from contextlib import suppress

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from openai_server.core.store_errors import ItemExists, PreviousResponseNotFound, ResponseNotFound
from openai_server.store.records import Base, PageRequest
from openai_server.store.store import Store, StoreSettings
from tests.openai_server.store.stores import (
    add,
    all_pages,
    ending,
    history,
    history_ids,
    ids,
    item,
    link_of,
    new_response,
    opened,
    rows,
)


async def test_an_error_rolls_the_transaction_back(store: Store) -> None:
    def fail(connection: Connection) -> None:
        connection.execute(text("INSERT INTO runners VALUES ('x', 1)"))
        raise KeyError("x")

    with pytest.raises(KeyError):
        await link_of(store).write("test", fail)
    assert await rows(store, "runners") == 1
    with pytest.raises(SQLAlchemyError):
        await link_of(store).write("test", lambda connection: connection.execute(text("SELECT nothing")))
    assert not store.is_away
    await add(store, "r1")


async def test_a_cancelled_transaction_is_completed(store: Store) -> None:
    has_begun, may_end = threading.Event(), threading.Event()
    response = new_response("r1")
    begin = link_of(store).parts.responses.begin

    def slow(connection: Connection) -> None:
        begin(connection, response)
        has_begun.set()
        assert may_end.wait(30)
        connection.execute(text("SELECT 1"))  # a cancelled task of asyncpg would end here

    task = asyncio.create_task(link_of(store).write("test", slow))
    await asyncio.to_thread(has_begun.wait, 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    may_end.set()
    await store.finish(response, ending("r1"), has_begun=True)
    assert (await store.response("a", "r1")).status == "completed"


async def test_cancelled_tasks_lose_no_connection(store: Store) -> None:
    """More tasks than connections are cancelled, at any point of their transactions."""
    await add(store, "r1")
    for n in range(60):
        tasks = [asyncio.create_task(store.response("a", "r1")), asyncio.create_task(add(store, f"x{n}"))]
        for _ in range(n % 7):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.gather(*(store.response("a", "r1") for _ in range(30)))
    n_responses = (await store.sizes()).responses
    assert n_responses == await rows(store, "responses")
    assert await rows(store, "items") == 2 * n_responses
    for n in range(60):
        with suppress(ResponseNotFound):
            await store.delete_response("a", f"x{n}")
    await store.delete_response("a", "r1")
    assert (await store.sizes()).bytes == 0


async def test_a_closed_store_has_completed_its_transactions(shared_url: str) -> None:
    store = Store(StoreSettings(url=shared_url), runner="first")
    await store.open()
    tasks = [asyncio.create_task(add(store, f"r{n}")) for n in range(20)]
    await asyncio.gather(*tasks)
    late = asyncio.create_task(store.begin(new_response("late")))
    await asyncio.sleep(0)
    await store.close()
    await late
    async with opened(shared_url, runner="second") as other:
        assert (await other.sizes()).responses == 21


async def test_transactions_are_observed(url: str) -> None:
    observed: list[tuple[str, bool]] = []

    def observe(name: str, seconds: float, has_answered: bool) -> None:
        assert 0 < seconds < 30
        assert threading.current_thread() is threading.main_thread()
        observed.append((name, has_answered))

    store = Store(StoreSettings(url=url), runner="runner", observe=observe)
    await store.open()
    try:
        await add(store, "r1", has_begun=True)
        with pytest.raises(PreviousResponseNotFound):
            await history(store, Base("lost"))
    finally:
        await store.close()
    assert observed == [("history", True), ("begin", True), ("finish", True), ("history", True)]


# ---- Several processes


async def test_two_stores_append_to_one_conversation(shared_url: str) -> None:
    async with opened(shared_url, runner="first") as first, opened(shared_url, runner="second") as second:
        await first.create_conversation("a", "c1", 1.0, b"{}", [])
        work = [
            store.add_items("a", "c1", [item(f"{name}{n}a"), item(f"{name}{n}b")])
            for n in range(25)
            for name, store in (("first", first), ("second", second))
        ]
        await asyncio.gather(*work)
        found = await all_pages(lambda page: second.items("a", "c1", page), limit=30, order="asc")
        assert len(found) == 100
        assert all(found[n][:-1] == found[n + 1][:-1] for n in range(0, 100, 2))
        for name in ("first", "second"):
            own = [id for id in found if id.startswith(name)]
            assert len(own) == 50


async def test_two_stores_add_the_same_item(shared_url: str) -> None:
    async with opened(shared_url, runner="first") as first, opened(shared_url, runner="second") as second:
        await first.create_conversation("a", "c1", 1.0, b"{}", [])
        results = await asyncio.gather(
            *(store.add_items("a", "c1", [item("x")]) for store in (first, second) for _ in range(5)),
            return_exceptions=True,
        )
        assert results.count(None) == 1
        assert sum(isinstance(result, ItemExists) for result in results) == 9
        assert ids(await first.items("a", "c1", PageRequest())) == ["x"]


async def test_a_response_is_continued_while_it_is_deleted(shared_url: str) -> None:
    """Either the new response is refused, or it has a complete history."""
    async with opened(shared_url, runner="first") as first, opened(shared_url, runner="second") as second:
        for n in range(20):
            await add(first, f"r{n}")
            response = new_response(f"next{n}", base=Base(f"r{n}"))
            results = await asyncio.gather(
                first.delete_response("a", f"r{n}"),
                second.finish(response, ending(f"next{n}"), has_begun=False),
                return_exceptions=True,
            )
            assert results[0] is None
            if results[1] is None:
                assert len(await history_ids(first, f"next{n}")) == 4
                await first.delete_response("a", f"next{n}")
            else:
                assert isinstance(results[1], PreviousResponseNotFound)
        assert await rows(first, "items") == await rows(first, "responses") == 0
        assert (await first.sizes()).bytes == 0


async def test_both_sides_of_items_are_deleted_at_once(shared_url: str) -> None:
    async with opened(shared_url, runner="first") as first, opened(shared_url, runner="second") as second:
        for n in range(15):
            await first.create_conversation("a", f"c{n}", 1.0, b"{}", [])
            for k in range(4):
                await add(first, f"r{n}_{k}", conversation=f"c{n}")
            await asyncio.gather(
                second.delete_conversation("a", f"c{n}"), *(first.delete_response("a", f"r{n}_{k}") for k in range(4))
            )
        assert await rows(first, "items") == await rows(first, "responses") == await rows(first, "conversations") == 0
        assert (await first.sizes()).bytes == 0


async def test_siblings_are_deleted_at_once(shared_url: str) -> None:
    async with opened(shared_url, runner="first") as first, opened(shared_url, runner="second") as second:
        for n in range(15):
            await add(first, f"root{n}")
            await add(first, f"left{n}", previous=f"root{n}")
            await add(first, f"right{n}", previous=f"root{n}")
            await first.delete_response("a", f"root{n}")
            await asyncio.gather(first.delete_response("a", f"left{n}"), second.delete_response("a", f"right{n}"))
        assert await rows(first, "items") == await rows(first, "responses") == 0
        assert (await first.sizes()).bytes == 0
