"""Ids that no object has, whatever characters they consist of."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from openai_server.core.store_errors import (
    ConversationNotFound,
    ItemNotFound,
    PreviousResponseNotFound,
    ResponseNotFound,
)
from openai_server.store.records import Base, PageRequest
from openai_server.store.store import Store
from tests.openai_server.store.stores import add, item

Request = Callable[[Store, str], Awaitable[Any]]
REQUESTS: list[tuple[Request, type[Exception]]] = [
    (lambda store, id: store.response("a", id), ResponseNotFound),
    (lambda store, id: store.delete_response("a", id), ResponseNotFound),
    (lambda store, id: store.cancel("a", id), ResponseNotFound),
    (lambda store, id: store.progress("a", id, 0, -1), ResponseNotFound),
    (lambda store, id: store.input_items("a", id, PageRequest()), ResponseNotFound),
    (lambda store, id: _history(store, Base(previous_response_id=id)), PreviousResponseNotFound),
    (lambda store, id: _history(store, Base(conversation_id=id)), ConversationNotFound),
    (lambda store, id: store.conversation("a", id), ConversationNotFound),
    (lambda store, id: store.set_metadata("a", id, b"{}"), ConversationNotFound),
    (lambda store, id: store.delete_conversation("a", id), ConversationNotFound),
    (lambda store, id: store.add_items("a", id, [item("i")]), ConversationNotFound),
    (lambda store, id: store.items("a", id, PageRequest()), ConversationNotFound),
    (lambda store, id: store.item("a", "c1", id), ItemNotFound),
    (lambda store, id: store.delete_item("a", "c1", id), ItemNotFound),
    (lambda store, id: store.items("a", "c1", PageRequest(after=id)), ItemNotFound),
    (lambda store, id: store.input_items("a", "r1", PageRequest(after=id)), ItemNotFound),
]


def _history(store: Store, base: Base) -> Awaitable[Any]:
    return store.history("a", base, max_bytes=1000, max_items=10)


@pytest.mark.parametrize("id", ["", "\0", "r1\0", "é%", "x" * 10_000])
async def test_unknown_ids(store: Store, id: str) -> None:
    await store.create_conversation("a", "c1", 1.0, b"{}", [item("i1")])
    await add(store, "r1")
    for request, error in REQUESTS:
        with pytest.raises(error):
            await request(store, id)
    assert await store.items_by_id("a", ["i1", id]) == {"i1": item("i1").body}
