"""Lists of items, page by page."""

from collections.abc import Awaitable, Callable

import pytest

from openai_server.core.store_errors import ItemNotFound, ResponseNotFound
from openai_server.store import pages
from openai_server.store.records import Item, Order, Page, PageRequest
from openai_server.store.store import Store
from tests.openai_server.store.stores import add, all_pages, execute, ids, item, sweep

ORDERS: tuple[Order, ...] = ("asc", "desc")


def in_order(expected: list[str], order: Order) -> list[str]:
    return expected if order == "asc" else expected[::-1]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
async def test_pages_of_a_conversation(store: Store, limit: int, order: Order) -> None:
    names = [f"i{n}" for n in range(7)]
    await store.create_conversation("a", "c1", 1.0, b"{}", [item(name) for name in names])
    page = await store.items("a", "c1", PageRequest(limit=limit, order=order))
    assert (ids(page), page.has_more) == (in_order(names, order)[:limit], limit < 7)
    assert await all_pages(lambda page: store.items("a", "c1", page), limit=limit, order=order) == in_order(
        names, order
    )


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("limit", [1, 2, 3, 9, 100])
async def test_pages_of_the_items_that_a_response_was_generated_from(store: Store, limit: int, order: Order) -> None:
    await store.create_conversation("a", "c1", 1.0, b"{}", [item("x"), item("y"), item("z")])
    await add(store, "r1", conversation="c1")
    await store.add_items("a", "c1", [item("later")])
    await add(store, "r2", previous="r1")
    await add(store, "r3", previous="r2")
    expected = ["x", "y", "z", "in_r1", "out_r1", "in_r2", "out_r2", "in_r3"]
    found = await all_pages(lambda page: store.input_items("a", "r3", page), limit=limit, order=order)
    assert found == in_order(expected, order)
    assert await all_pages(lambda page: store.input_items("a", "r1", page), limit=limit, order=order) == in_order(
        expected[:4], order
    )
    for n, name in enumerate(in_order(expected, order)):
        page = await store.input_items("a", "r3", PageRequest(limit=2, order=order, after=name))
        assert ids(page) == in_order(expected, order)[n + 1 : n + 3]
        assert page.has_more == (n + 3 < len(expected))


@pytest.mark.parametrize("order", ORDERS)
async def test_pages_of_large_items_have_fewer(store: Store, order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MAX_PAGE_BYTES", 100)
    large = [Item(f"i{n}", b" " * size) for n, size in enumerate((101, 40, 60, 1, 100))]
    await store.create_conversation("a", "c1", 1.0, b"{}", large)
    await add(store, "r1", conversation="c1", status="failed")
    found = [["i0"], ["i1", "i2"], ["i3"], ["i4"]] if order == "asc" else [["i4"], ["i3", "i2"], ["i1"], ["i0"]]
    assert await _parts(lambda page: store.items("a", "c1", page), order) == found
    found.insert(len(found) if order == "asc" else 0, ["in_r1"])
    assert await _parts(lambda page: store.input_items("a", "r1", page), order) == found


async def _parts(get: Callable[[PageRequest], Awaitable[Page]], order: Order) -> list[list[str]]:
    """The ids on each page."""
    page = await get(PageRequest(limit=3, order=order))
    parts = [ids(page)]
    while page.has_more:
        page = await get(PageRequest(limit=3, order=order, after=parts[-1][-1]))
        parts.append(ids(page))
    return parts


async def test_bodies_are_those_of_the_items(store: Store) -> None:
    await add(store, "r1")
    await add(store, "r2", previous="r1")
    page = await store.input_items("a", "r2", PageRequest())
    assert page.items == [item("in_r2"), item("out_r1"), item("in_r1")]


async def test_the_input_of_a_response_that_runs(store: Store) -> None:
    await store.create_conversation("a", "c1", 1.0, b"{}", [item("x")])
    await add(store, "r1", conversation="c1", has_begun=True)
    assert ids(await store.input_items("a", "r1", PageRequest(order="asc"))) == ["x", "in_r1"]


async def test_lists_that_begin_after_a_missing_item(store: Store) -> None:
    await store.create_conversation("a", "c1", 1.0, b"{}", [item("x")])
    await add(store, "r1", conversation="c1")
    await store.create_conversation("a", "c2", 1.0, b"{}", [item("other")])
    await add(store, "r2")
    for after in ("lost", "other", "in_r2", "out_r1"):
        with pytest.raises(ItemNotFound) as raised:
            await store.input_items("a", "r1", PageRequest(after=after))
        assert raised.value.param == "after"
    for after in ("lost", "other"):
        with pytest.raises(ItemNotFound) as raised:
            await store.items("a", "c1", PageRequest(after=after))
        assert raised.value.param == "after"
    for owner, id in (("b", "r1"), ("a", "lost")):
        with pytest.raises(ResponseNotFound):
            await store.input_items(owner, id, PageRequest())


@pytest.mark.parametrize("order", ORDERS)
async def test_a_list_goes_on_after_an_item_that_was_deleted(store: Store, order: Order) -> None:
    names = ["v", "w", "x", "y", "z"]
    await store.create_conversation("a", "c1", 1.0, b"{}", [item(name) for name in names])
    await add(store, "r1", conversation="c1")
    await store.delete_item("a", "c1", "x")
    rest = ["y", "z", "in_r1", "out_r1"] if order == "asc" else ["w", "v"]
    request = PageRequest(order=order, after="x")
    assert ids(await store.items("a", "c1", request)) == rest
    assert ids(await store.input_items("a", "r1", request)) == [name for name in rest if name != "out_r1"]


async def test_a_list_goes_on_after_an_item_that_only_its_response_has(store: Store) -> None:
    await store.create_conversation("a", "c1", 1.0, b"{}", [item("x")])
    await add(store, "r1", conversation="c1")
    await add(store, "r2", conversation="c1")
    await store.delete_item("a", "c1", "out_r1")
    assert ids(await store.items("a", "c1", PageRequest(order="asc", after="out_r1"))) == ["in_r2", "out_r2"]
    assert ids(await store.input_items("a", "r2", PageRequest(order="asc", after="out_r1"))) == ["in_r2"]


async def test_the_place_of_a_deleted_item_is_kept_for_an_hour(store: Store) -> None:
    await store.create_conversation("a", "c1", 1.0, b"{}", [item("x"), item("y")])
    await store.delete_item("a", "c1", "x")
    await sweep(store)
    assert ids(await store.items("a", "c1", PageRequest(order="asc", after="x"))) == ["y"]
    await execute(store, "UPDATE items SET deleted_at = deleted_at - 3601 WHERE id = 'x'")
    await sweep(store)
    with pytest.raises(ItemNotFound):
        await store.items("a", "c1", PageRequest(order="asc", after="x"))


async def test_pages_while_items_are_added_and_deleted(store: Store) -> None:
    """Every item that was there all the time is listed once."""
    names = [f"i{n:02}" for n in range(30)]
    await store.create_conversation("a", "c1", 1.0, b"{}", [item(name) for name in names])
    found: list[str] = []
    deleted: set[str] = set()
    after = None
    for n in range(100):
        page = await store.items("a", "c1", PageRequest(limit=4, order="asc", after=after))
        found += ids(page)
        if not page.has_more:
            break
        after = found[-1]
        await store.add_items("a", "c1", [item(f"new{n}")] if n < 5 else [])
        for victim in (after, names[-1 - n]):
            if victim not in deleted:
                deleted.add(victim)
                await store.delete_item("a", "c1", victim)
    assert len(found) == len(set(found))
    assert set(names) - deleted <= set(found)
    assert {f"new{n}" for n in range(5)} <= set(found)


async def test_many_items_of_a_long_chain(store: Store) -> None:
    await add(store, "r0")
    for n in range(1, 40):
        await add(store, f"r{n}", previous=f"r{n - 1}")
    expected = [id for n in range(40) for id in (f"in_r{n}", f"out_r{n}")][:-1]
    for order in ORDERS:
        found = await all_pages(lambda page: store.input_items("a", "r39", page), limit=15, order=order)
        assert found == in_order(expected, order)
