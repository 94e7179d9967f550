"""Stored items satisfy the openai package's types, are accepted as input again, and mean the same to the model."""

import copy
import json
import re
from itertools import count
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import to_builtins
from openai.types.responses import ResponseInputItemParam

from openai_server.access.caps import Caps
from openai_server.api.chat.answer import ChatToken, LikelyToken
from openai_server.api.responses.answer import (
    ResponseCompaction,
    ResponseCustomToolCall,
    ResponseFunctionCall,
    ResponseInputText,
    ResponseItem,
    ResponseMessage,
    ResponseReasoning,
    ResponseReasoningText,
    ResponseRefusal,
    ResponseText,
    ResponseUserMessage,
)
from openai_server.api.responses.input import fields
from openai_server.api.responses.input.stored import MAX_ID, stored_items
from openai_server.api.responses.request import parse
from openai_server.api.responses.settings import ResponsesRequest
from openai_server.api.schemas import load
from openai_server.core.errors import APIError
from tests.examples import examples
from tests.openai_server.api.responses.bodies import Json, assistant, call, parsed, reasoning, result, user
from tests.openai_server.api.responses.input.stored_items import ITEMS, checked
from tests.openai_server.api.responses.input.test_fields import types, variants
from tests.openai_server.api.responses.test_any_body import item

KEY = "0a"


def stored(*items: Json, taken: frozenset[str] = frozenset()) -> list[Json]:
    return [checked(item) for item in stored_items(items, KEY, taken)]


def meaning(request: ResponsesRequest) -> Any:
    """Returns messages, tools and settings of the turn, with numbers for the ids of calls. A result belongs to the
    last call with its id."""
    opened = request.with_opened(["opened" for _ in request.sealed_items])
    ids: dict[str, str] = {}
    numbers = count()

    def renamed(value: Any) -> Any:
        if isinstance(value, list):
            return [renamed(item) for item in value]
        if not isinstance(value, dict):
            return value
        named = {name: renamed(item) for name, item in value.items()}
        if "id" in named:
            ids[named["id"]] = named["id"] = str(next(numbers))
        elif id := named.get("tool_call_id"):
            named["tool_call_id"] = ids[id] if id in ids else ids.setdefault(id, str(next(numbers)))
        return named

    turn = opened.turn
    use = turn.tool_use
    guide = turn.guide
    return (
        [(type(message).__name__, renamed(to_builtins(message))) for message in turn.messages],
        turn.tools,
        use and [tool.name for tool in use.tools],
        turn.template.reasoning_effort,
        (guide.json_schema, guide.strict) if guide else None,
    )


def check_meaning(items: list[Json]) -> list[Json]:
    """Checks the stored form of items, and returns it."""
    body = {"input": [*copy.deepcopy(items), user("end")]}
    original = copy.deepcopy(items)
    kept = stored(*items)
    assert items == original
    assert meaning(parsed(input=[*kept, user("end")])) == meaning(parse(json.dumps(body).encode(), Caps()))
    assert stored(*kept) == kept
    return kept


def test_the_items_have_all_types() -> None:
    found = {item.get("type", "message") for item in ITEMS}
    params = {kind for typed in variants(ResponseInputItemParam) for kind in types(typed)}
    assert found == (params & fields.ITEM_FIELDS.keys()) - {"item_reference", "compaction_trigger"}


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.get("type", "message"))
def test_every_item_keeps_its_type_and_meaning(item: Json) -> None:
    [kept] = check_meaning([item])
    assert kept["type"] == item.get("type", "message")
    same = item.keys() - {"content", "tools", "status"}
    without_effect = {name for name in same if item[name] is None}
    assert {name: kept[name] for name in same - without_effect} == {name: item[name] for name in same - without_effect}


@pytest.mark.parametrize(
    ("item", "field", "value"),
    [
        ({"type": "computer_call_output", "call_id": "c", "output": {}}, "output", {"type": "computer_screenshot"}),
        (
            {"type": "web_search_call", "action": {"type": "search", "queries": ["q"], "sources": [{"url": "u"}]}},
            "action",
            {"type": "search", "queries": ["q"], "sources": [{"type": "url", "url": "u"}]},
        ),
    ],
)
def test_objects_of_the_only_kind_get_their_type(item: Json, field: str, value: Json) -> None:
    [kept] = check_meaning([item])
    assert kept[field] == value


def test_an_object_that_the_model_reads_without_its_type_is_read_so_again() -> None:
    [kept] = check_meaning([{"type": "local_shell_call", "call_id": "c", "action": {"command": [], "env": {}}}])
    assert (kept["type"], kept["arguments"]) == ("function_call", '{"command":[],"env":{}}')


def test_all_items_keep_their_meaning_together() -> None:
    kept = check_meaning(ITEMS)
    assert [item["type"] for item in kept] == [item.get("type", "message") for item in ITEMS]
    assert len({item["id"] for item in kept}) == len(ITEMS)


# ---- Forms that differ from the input


def test_a_text_is_a_message_of_the_user() -> None:
    [item] = stored_items("hello", KEY, ())
    assert checked(item) == {
        "type": "message",
        "id": "msg_0ai00",
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_text", "text": "hello"}],
    }


def test_parts_have_the_type_that_belongs_to_the_role() -> None:
    content = [
        {"type": "text", "text": "a"},
        {"type": "refusal", "refusal": "b"},
        {"type": "summary_text", "text": "c"},
    ]
    of_user, of_assistant = check_meaning([{"role": role, "content": content} for role in ("user", "assistant")])
    assert [(part["type"], part.get("text")) for part in of_user["content"]] == [("input_text", text) for text in "abc"]
    assert [part["type"] for part in of_assistant["content"]] == ["output_text", "refusal", "output_text"]


def test_values_without_effect_that_the_types_exclude_are_left_out() -> None:
    part = {"type": "output_text", "text": "a", "annotations": [{"type": "x"}, 1], "logprobs": "x", "parsed": {}}
    [message] = check_meaning([{"role": "assistant", "content": [part], "status": "odd", "created_by": 1}])
    assert message["content"] == [{"type": "output_text", "text": "a", "annotations": [], "logprobs": []}]
    assert message.keys() == {"type", "id", "status", "role", "content"}
    [sent] = check_meaning([call(caller={"type": "x"}, created_by={}, parsed_arguments={}, **{"async": "x"})])
    assert sent.keys() == {"type", "id", "status", "call_id", "name", "arguments"}


def test_a_format_for_any_object_becomes_a_schema() -> None:
    [update] = check_meaning([{"type": "configuration_update", "text": {"format": {"type": "json_object"}}}])
    assert update["text"]["format"] == {"type": "json_schema", "name": "object", "schema": {"type": "object"}}


def test_a_trigger_is_not_stored() -> None:
    assert not stored({"type": "compaction_trigger"})


@pytest.mark.parametrize(
    ("item", "kept"),
    [
        ({"type": "mcp_call", "name": "t", "output": "o"}, ["function_call", "function_call_output"]),
        ({"type": "mcp_call", "name": 1, "error": "no"}, ["function_call", "function_call_output"]),
        ({"type": "mcp_call"}, ["function_call"]),
        ({"type": "file_search_call", "queries": 1, "results": [{"x": 1}]}, ["function_call", "function_call_output"]),
        ({"type": "file_search_call", "queries": 1}, []),
        ({"type": "code_interpreter_call", "code": "1"}, ["function_call", "function_call_output"]),
        ({"type": "local_shell_call", "id": "a", "call_id": "b", "action": {"command": "ls"}}, ["function_call"]),
        ({"type": "local_shell_call_output", "call_id": "b", "output": {"a": 1}}, ["function_call_output"]),
        ({"type": "local_shell_call_output", "id": "a", "call_id": "b", "output": "o"}, ["local_shell_call_output"]),
        ({"type": "local_shell_call_output", "call_id": "a/b", "output": "o"}, ["function_call_output"]),
        ({"type": "local_shell_call_output", "output": "o"}, ["function_call_output"]),
        ({"type": "shell_call", "call_id": "b", "action": {"commands": ["ls"], "x": 1}}, ["function_call"]),
        ({"type": "shell_call_output", "call_id": "b", "output": "text"}, ["function_call_output"]),
        ({"type": "apply_patch_call", "call_id": "b", "operation": {}}, ["function_call"]),
        ({"type": "apply_patch_call_output", "call_id": "b"}, ["function_call_output"]),
        ({"type": "program", "call_id": "b", "code": "1"}, ["function_call"]),
        ({"type": "program_output", "call_id": "b", "result": None}, ["function_call_output"]),
        ({"type": "web_search_call", "action": {"type": "x"}}, []),
        ({"type": "web_search_call", "id": "ws", "action": {"type": "search", "query": None}}, ["web_search_call"]),
        ({"type": "computer_call", "id": "cu"}, []),
        ({"type": "image_generation_call", "size": 1, "status": "completed"}, ["image_generation_call"]),
        ({"type": "tool_search_call"}, []),
        ({"type": "tool_search_call", "arguments": 1, "execution": "x"}, ["tool_search_call"]),
        ({"type": "shell_call", "call_id": "b", "action": {"commands": []}, "environment": 1}, ["shell_call"]),
    ],
)
def test_an_item_that_its_type_excludes_is_stored_as_what_the_model_reads(item: Json, kept: list[str]) -> None:
    assert [item["type"] for item in check_meaning([item])] == kept


def test_values_that_nest_too_deeply_are_left_out() -> None:
    nested: Any = {}
    for _ in range(300):
        nested = [nested]
    assert not stored({"type": "tool_search_call", "arguments": nested})
    output = {"type": "mcp_call", "id": "a", "arguments": "{}", "name": "t", "server_label": "s", "output": "o"}
    error = {"type": "mcp_tool_execution_error", "content": nested}
    assert [item["type"] for item in stored({**output, "error": error})] == ["function_call", "function_call_output"]


# ---- Ids


@pytest.mark.parametrize("id", ["a", "msg_1", "a:b~", "a" * MAX_ID, "...", "{}", "a?b#c%2f"])
def test_an_id_stays(id: str) -> None:
    assert stored({**user(), "id": id})[0]["id"] == id


@pytest.mark.parametrize("id", ["", " ", "a b", "a/b", ".", "..", "é", "a\n", "\0", "a" * (MAX_ID + 1), 1, [], None])
def test_an_id_that_no_path_can_have_is_replaced(id: Any) -> None:
    assert stored({**user(), "id": id})[0]["id"] == "msg_0ai00"


def test_ids_are_unique() -> None:
    items = [{**user(), "id": id} for id in ("a", "b", "a", "msg_0ai04", "c")]
    ids = [item["id"] for item in stored(*items, taken=frozenset({"b", "c", "msg_0ai01"}))]
    assert ids == ["a", "msg_0ai01x", "msg_0ai02", "msg_0ai04", "msg_0ai04x"]


def test_new_ids_differ_from_those_of_the_output() -> None:
    ids = {item["id"] for item in stored(*[user()] * 300)}
    assert len(ids) == 300
    assert not [id for id in ids if re.fullmatch(r"msg_0a[0-9a-f]+", id)]


# ---- Output

TOKEN = ChatToken("a", -0.5, [97], [LikelyToken("a", -0.5, [97])])
OUTPUT: list[ResponseItem | ResponseUserMessage] = [
    ResponseReasoning("rs_1", "completed", [], [ResponseReasoningText("t")]),
    ResponseReasoning("rs_2", "incomplete", [], [], "sealed"),
    ResponseMessage("msg_1", "completed", "assistant", [ResponseText("a", [], [TOKEN])], "commentary"),
    ResponseMessage("msg_2", "incomplete", "assistant", [ResponseText("", [], []), ResponseRefusal("no")]),
    ResponseMessage("msg_3", "completed", "assistant", []),
    ResponseFunctionCall("fc_1", "completed", "call_1", "f", "{}"),
    ResponseFunctionCall("fc_2", "incomplete", "call_2", "f", "", "crm"),
    ResponseCustomToolCall("ctc_1", "completed", "call_3", "c", "a", "crm"),
    ResponseUserMessage("msg_4", "completed", "user", [ResponseInputText("a")]),
    ResponseCompaction("cmp_1", "sealed"),
]


@pytest.mark.parametrize("item", OUTPUT, ids=lambda item: item.id)
def test_the_output_of_a_response_stays_as_it_is(item: ResponseItem) -> None:
    value = to_builtins(item)
    assert check_meaning([value]) == [value]
    [renamed] = stored(value, taken=frozenset({item.id}))
    assert renamed == {**value, "id": renamed["id"]}
    assert renamed["id"] != item.id


def test_the_output_covers_all_items() -> None:
    assert {type(item) for item in OUTPUT} == {*get_args(ResponseItem), ResponseUserMessage}


# ---- Any input

ANY_ITEM = item | st.sampled_from([*ITEMS, user(), assistant("a"), call(), result(), reasoning("r", "s")])


@settings(max_examples=examples(1000))
@given(st.lists(ANY_ITEM, max_size=4))
def test_whatever_is_accepted_keeps_its_meaning(items: list[Json]) -> None:
    body = json.dumps({"input": [*items, user("end")]}).encode()
    try:
        parse(body, Caps())
    except APIError:
        return
    check_meaning(load(body)["input"][:-1])
