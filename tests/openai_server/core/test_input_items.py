"""The messages of a turn as input items: the Responses API's own parser reads the same messages from them."""

import json
from typing import Any

import pytest
from openai.types.responses import ResponseInputItemParam
from pydantic import TypeAdapter

from openai_server.core.input_items import input_items
from openai_server.core.messages import (
    AnswerPart,
    AssistantMessage,
    CustomCall,
    CustomToolCall,
    DeveloperMessage,
    FunctionCall,
    FunctionMessage,
    Message,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from tests.openai_server.api.responses.bodies import assistant, call, messages, reasoning, result, user

CUSTOM = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "call_2", "name": "c", "input": "x"}
CUSTOM_OUTPUT = {"type": "custom_tool_call_output", "call_id": "call_2", "output": "y"}
PARTS = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
_ITEMS: TypeAdapter[Any] = TypeAdapter(list[ResponseInputItemParam])


@pytest.mark.parametrize(
    "items",
    [
        [user("a")],
        [{"role": "system", "content": "s"}, {"role": "developer", "content": "d"}, user("")],
        [{"role": "user", "content": PARTS}, assistant("a", "b"), user("c")],
        [user(), reasoning("think"), call(), result(), assistant("done")],
        [user(), assistant("first"), call(), call("call_3", "g", '{"x": 1}'), result(), result("call_3", PARTS)],
        [user(), CUSTOM, CUSTOM_OUTPUT, call(), result()],
        [user(), reasoning("think"), assistant("a"), user("again"), reasoning("more"), assistant("b")],
    ],
)
def test_items_and_messages_are_the_same_conversation(items: list[dict[str, Any]]) -> None:
    turn_messages = messages(*items)
    written = input_items(turn_messages)
    assert messages(*json.loads(json.dumps(written))) == turn_messages
    assert input_items(messages(*written)) == written


@pytest.mark.parametrize(
    "conversation",
    [
        [SystemMessage("s"), DeveloperMessage("d", name="n"), UserMessage([TextPart("a"), TextPart("b")])],
        [UserMessage("a"), AssistantMessage("b"), AssistantMessage([AnswerPart("c"), AnswerPart("d")])],
        [
            AssistantMessage(
                reasoning_content="r",
                tool_calls=[ToolCall("1", FunctionCall("f", "{}")), CustomToolCall("2", CustomCall("c", "x"))],
            ),
            ToolMessage("t", "1"),
            ToolMessage([TextPart("u"), TextPart("v")], "2"),
        ],
        [
            AssistantMessage(function_call=FunctionCall("f", "{}")),
            FunctionMessage("f", "z"),
            AssistantMessage(""),
        ],
    ],
)
def test_items_have_the_types_of_the_openai_package(conversation: list[Message]) -> None:
    written = input_items(conversation)
    assert written
    _ITEMS.validate_python(written, strict=False)


def test_the_result_of_a_call_without_an_id_refers_to_it() -> None:
    older_call, output = input_items(
        [AssistantMessage(function_call=FunctionCall("f", "{}")), FunctionMessage("f", None)]
    )
    assert older_call["call_id"] == output["call_id"] != ""
    assert output["output"] == ""


def test_ids_differ_and_are_the_same_each_time() -> None:
    conversation = [AssistantMessage("a", reasoning_content="r"), AssistantMessage("b", reasoning_content="s")]
    written = input_items(conversation)
    ids = [item["id"] for item in written]
    assert len(set(ids)) == len(ids) == 4
    assert input_items(conversation) == written
