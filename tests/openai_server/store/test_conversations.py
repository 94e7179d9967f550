"""Conversations and their items."""

from collections.abc import Awaitable, Callable

import pytest

from openai_server.core.store_errors import ConversationNotFound, ItemExists, ItemNotFound
from openai_server.store.records import Base, Conversation, Item, PageRequest
from openai_server.store.store import Store
from tests.openai_server.store.stores import add, history, history_ids, ids, item, rows

NO_PAGE = PageRequest()


async def test_a_conversation_is_returned_as_it_was_created(store: Store) -> None:
    await store.create_conversation("a", "c1", 12.5, b'{"k":"v"}', [item("x"), item("y")])
    assert await store.conversation("a", "c1") == Conversation(id="c1", created_at=12.5, metadata=b'{"k":"v"}')
    assert await store.item("a", "c1", "y") == item("y")
    assert (await store.sizes()).conversations == 1


async def test_metadata_are_replaced(store: Store) -> None:
    await store.create_conversation("a", "c1", 1.0, b'{"k":"v"}', [])
    changed = await store.set_metadata("a", "c1", b"{}")
    assert changed == Conversation(id="c1", created_at=1.0, metadata=b"{}")
    assert await store.conversation("a", "c1") == changed
    assert (await store.sizes()).bytes == 2


ON_A_CONVERSATION: dict[str, Callable[[Store, str, str], Awaitable[object]]] = {
    "conversation": lambda store, owner, id: store.conversation(owner, id),
    "set_metadata": lambda store, owner, id: store.set_metadata(owner, id, b""),
    "delete_conversation": lambda store, owner, id: store.delete_conversation(owner, id),
    "add_items": lambda store, owner, id: store.add_items(owner, id, [item("z")]),
    "append": lambda store, owner, id: store.append(owner, id, [item("z")]),
    "items": lambda store, owner, id: store.items(owner, id, NO_PAGE),
    "item": lambda store, owner, id: store.item(owner, id, "x"),
    "delete_item": lambda store, owner, id: store.delete_item(owner, id, "x"),
}


@pytest.mark.parametrize("method", ON_A_CONVERSATION)
async def test_a_conversation_of_another_owner_does_not_exist(store: Store, method: str) -> None:
    await store.create_conversation("a", "c1", 1.0, b"{}", [item("x")])
    await store.create_conversation("a", "deleted", 1.0, b"{}", [item("x")])
    await store.delete_conversation("a", "deleted")
    before = await store.sizes()
    for owner, id in (("b", "c1"), ("a", "lost"), ("a", "deleted")):
        with pytest.raises(ConversationNotFound):
            await ON_A_CONVERSATION[method](store, owner, id)
    assert await store.sizes() == before
    assert ids(await store.items("a", "c1", NO_PAGE)) == ["x"]


async def test_items_are_added_in_their_order(store: Store) -> None:
    await store.create_conversation("a", "c1", 1.0, b"{}", [item("x")])
    await store.add_items("a", "c1", [item("z"), item("y")])
    assert ids(await store.items("a", "c1", PageRequest(order="asc"))) == ["x", "z", "y"]


@pytest.mark.parametrize("new", [[item("y"), item("x")], [item("y"), item("y")]])
async def test_an_id_is_added_once(store: Store, new: list[Item]) -> None:
    await store.create_conversation("a", "c1", 1.0, b"{}", [item("x")])
    with pytest.raises(ItemExists, match=f"'{new[1].id}'"):
        await store.add_items("a", "c1", new)
    assert ids(await store.items("a", "c1", NO_PAGE)) == ["x"]
    await store.create_conversation("a", "c2", 1.0, b"{}", [item("x")])


async def test_a_deleted_item_is_gone(store: Store) -> None:
    await store.create_conversation("a", "c1", 1.0, b"{}", [item("x"), item("y")])
    assert await store.delete_item("a", "c1", "x") == await store.conversation("a", "c1")
    for missing in ("x", "lost"):
        with pytest.raises(ItemNotFound) as raised:
            await store.item("a", "c1", missing)
        assert raised.value.param is None
        with pytest.raises(ItemNotFound):
            await store.delete_item("a", "c1", missing)
    assert (await store.sizes()).bytes == len(b"{}") + len(item("y").body)


async def test_the_id_of_a_deleted_item_can_be_used_again(store: Store) -> None:
    await store.create_conversation("a", "c1", 1.0, b"{}", [item("x"), item("y")])
    await store.delete_item("a", "c1", "x")
    await store.add_items("a", "c1", [item("x", "new")])
    assert await store.item("a", "c1", "x") == item("x", "new")
    assert ids(await store.items("a", "c1", PageRequest(order="asc"))) == ["y", "x"]


async def test_a_deleted_item_stays_part_of_its_response(store: Store) -> None:
    await store.create_conversation("a", "c1", 1.0, b"{}", [])
    await add(store, "r1", conversation="c1")
    await store.delete_item("a", "c1", "out_r1")
    await store.delete_item("a", "c1", "in_r1")
    assert (await store.response("a", "r1")).output == [item("out_r1")]
    assert await history_ids(store, "r1") == ["in_r1", "out_r1"]
    assert ids(await history(store, Base(None, "c1"))) == []
    await store.delete_response("a", "r1")
    assert (await store.sizes()).bytes == len(b"{}")


async def test_a_deleted_conversation_leaves_its_responses(store: Store) -> None:
    await store.create_conversation("a", "c1", 1.0, b"{}", [item("x")])
    await add(store, "r1", conversation="c1")
    await store.delete_conversation("a", "c1")
    assert (await store.response("a", "r1")).output == [item("out_r1")]
    assert ids(await store.input_items("a", "r1", NO_PAGE)) == ["in_r1"]
    await store.delete_response("a", "r1")
    assert (await store.sizes()).bytes == 0
    assert await rows(store, "items") == await rows(store, "conversations") == 0


async def test_a_deleted_response_leaves_its_items_in_the_conversation(store: Store) -> None:
    await store.create_conversation("a", "c1", 1.0, b"{}", [item("x")])
    await add(store, "r1", conversation="c1")
    await store.delete_response("a", "r1")
    assert ids(await history(store, Base(None, "c1"))) == ["x", "in_r1", "out_r1"]
    await store.delete_conversation("a", "c1")
    assert (await store.sizes()).bytes == 0
    assert await rows(store, "items") == 0


async def test_a_long_conversation_is_deleted_completely(store: Store) -> None:
    await store.create_conversation("a", "c1", 1.0, b"{}", [])
    for n in range(3):
        await store.add_items("a", "c1", [item(f"{n}_{k}") for k in range(250)])
    await store.delete_conversation("a", "c1")
    assert await rows(store, "items") == await rows(store, "conversations") == 0
    assert (await store.sizes()).bytes == 0
