"""Requests of `/v1/conversations`: their items in stored form, and errors that name a field."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.conversations import conversation_create_params, conversation_update_params, item_create_params

from openai_server.access.caps import Caps
from openai_server.api.conversations.request import (
    CONVERSATION_UPDATE_FIELDS,
    MAX_ITEMS,
    NEW_CONVERSATION_FIELDS,
    NEW_CONVERSATION_ITEMS_FIELDS,
    Addition,
    Reference,
    parse_items,
    parse_new,
    parse_update,
)
from openai_server.api.schemas import Fields
from openai_server.core.errors import APIError, InvalidRequest
from openai_server.store.records import Item
from tests.openai_server.api.responses.bodies import Json, assistant, function, user
from tests.openai_server.api.responses.input.stored_items import ITEMS, checked
from tests.openai_server.api.responses.input.test_fields import keys
from tests.openai_server.api.responses.test_any_body import item
from tests.openai_server.api.test_any_body import check, values

Parse = Callable[[bytes, Caps], Any]


def parsed(parse: Parse, **body: Any) -> Any:
    return parse(json.dumps(body).encode(), Caps())


def added(*items: Json) -> list[Json | Reference]:
    """The items to add, by both requests that have items."""
    results: list[list[Json | Reference]] = []
    for parse in (parse_new, parse_items):
        addition: Addition = parsed(parse, items=items)
        results.append([checked(item) if isinstance(item, Item) else item for item in addition.items])
    assert _without_ids(results[0]) == _without_ids(results[1])
    return results[0]


def _without_ids(items: list[Json | Reference]) -> list[object]:
    return [{**item, "id": ""} if isinstance(item, dict) else item for item in items]


@pytest.mark.parametrize(
    ("params", "table", "elsewhere"),
    [
        (conversation_create_params.ConversationCreateParams, NEW_CONVERSATION_FIELDS, set()),
        (conversation_update_params.ConversationUpdateParams, CONVERSATION_UPDATE_FIELDS, set()),
        (item_create_params.ItemCreateParams, NEW_CONVERSATION_ITEMS_FIELDS, {"include"}),
    ],
)
def test_the_fields_are_those_of_the_openai_package(params: Any, table: Fields, elsewhere: set[str]) -> None:
    """`elsewhere` are in the query."""
    assert keys(params) - elsewhere == table.mapped


def test_items_get_their_stored_form() -> None:
    first, second = added({**user("a"), "id": "x"}, assistant("b"))
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert (first["id"], first["content"]) == ("x", [{"type": "input_text", "text": "a"}])
    assert second == assistant("b")


@pytest.mark.parametrize("start", range(0, len(ITEMS), MAX_ITEMS))
def test_all_types_of_items_can_be_added(start: int) -> None:
    items = ITEMS[start : start + MAX_ITEMS]
    types = [item["type"] for item in added(*items) if isinstance(item, dict)]
    assert types == [item.get("type", "message") for item in items]


def test_references_keep_their_places() -> None:
    before, first, between, second, last = added(
        user("a"), {"type": "item_reference", "id": "msg_1"}, {**user("b"), "id": "msg_2"}, {"id": "msg_2"}, user("c")
    )
    assert (first, second) == (Reference("msg_1", "items[1]"), Reference("msg_2", "items[3]"))
    contents = [item["content"][0]["text"] for item in (before, between, last) if isinstance(item, dict)]
    assert contents == ["a", "b", "c"]
    ids = [item["id"] for item in (before, between, last) if isinstance(item, dict)]
    assert len({*ids, "msg_1", "msg_2"}) == 5


def test_new_ids_differ_between_requests() -> None:
    ids = {parsed(parse_new, items=[user()]).items[0].id for _ in range(100)}
    assert len(ids) == 100


@pytest.mark.parametrize("empty", [{}, {"items": None, "metadata": None}, {"items": [], "metadata": {"a": None}}])
def test_everything_is_optional(empty: Json) -> None:
    addition = parsed(parse_new, **empty)
    assert (list(addition.items), addition.metadata) == ([], {})


def test_metadata() -> None:
    metadata = {"k" * 64: "v" * 512, **{str(i): "" for i in range(15)}}
    assert parsed(parse_new, metadata=metadata).metadata == metadata
    assert parsed(parse_update, metadata=metadata).metadata == metadata
    assert parsed(parse_update, metadata=None).metadata is None


REFUSALS: list[tuple[Parse, Json, str]] = [
    *((parse, {"x": 1}, "x") for parse in (parse_new, parse_items)),
    (parse_update, {"metadata": {}, "items": []}, "items"),
    (parse_update, {}, "metadata"),
    (parse_items, {}, "items"),
    (parse_items, {"items": None}, "items"),
    (parse_items, {"items": [], "include": []}, "include"),
    *((parse, {"metadata": {"a": 1}}, "metadata[...]") for parse in (parse_new, parse_update)),
    *((parse, {"metadata": {"a": "v" * 513}}, "metadata.a") for parse in (parse_new, parse_update)),
    *((parse, {"metadata": {str(i): "" for i in range(17)}}, "metadata") for parse in (parse_new, parse_update)),
    *((parse, {"items": [user()] * 21}, "items") for parse in (parse_new, parse_items)),
    *((parse, {"items": "text"}, "items") for parse in (parse_new, parse_items)),
    *((parse, {"items": [user(), {"type": "x"}]}, "items[1].type") for parse in (parse_new, parse_items)),
    (parse_items, {"items": [{"type": "compaction_trigger"}]}, "items[0]"),
    (parse_items, {"items": [{"role": "user", "content": [{"type": "input_image"}]}]}, "items[0].content[0]"),
    (parse_items, {"items": [{**user(), "x": 1}]}, "items[0].x"),
    (parse_items, {"items": [{"type": "item_reference"}]}, "items[0].id"),
    (
        parse_items,
        {"items": [{"type": "additional_tools", "role": "developer", "tools": [function(), function("a b")]}]},
        "items[0].tools[1].name",
    ),
]


@pytest.mark.parametrize(("parse", "body", "param"), REFUSALS)
def test_an_error_names_the_field(parse: Parse, body: Json, param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parsed(parse, **body)
    assert raised.value.param == param
    assert param in raised.value.message


def test_arguments_above_the_limit_name_the_item() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": f"[{'1,' * 70_000}1]"}
    with pytest.raises(InvalidRequest) as raised:
        parsed(parse_items, items=[user(), call])
    assert raised.value.param == "items[1].arguments"


BODIES = st.fixed_dictionaries(
    {},
    optional={
        "items": st.lists(item, max_size=3) | values,
        "metadata": st.dictionaries(st.text(max_size=3), st.text(max_size=3) | values, max_size=2) | values,
        "x": values,
    },
)


@given(st.sampled_from([parse_new, parse_update, parse_items]), BODIES.map(lambda body: json.dumps(body).encode()))
def test_any_body_is_parsed_or_rejected(parse: Parse, body: bytes) -> None:
    try:
        parse(body, Caps())
    except APIError as error:
        check(error)
