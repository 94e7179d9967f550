from dataclasses import replace

import pytest

from openai_server.core.messages import (
    AssistantMessage,
    DeveloperMessage,
    FunctionCall,
    FunctionMessage,
    Message,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from openai_server.prompting.messages import SHORT_ID, Form, template_messages, template_tools

MOST = Form()


def call(id: str, arguments: str = '{"x": [1]}') -> ToolCall:
    return ToolCall(id, FunctionCall("f", arguments))


def test_developer_is_system_to_templates_that_do_not_know_it() -> None:
    message = DeveloperMessage("x", name="me")
    assert template_messages([message], MOST) == [{"role": "system", "content": "x", "name": "me"}]
    assert template_messages([message], Form(developer=True)) == [{"role": "developer", "content": "x", "name": "me"}]


def test_content_is_one_string_or_parts() -> None:
    messages: list[Message] = [UserMessage("a"), UserMessage([TextPart("b"), TextPart("c")])]
    assert [seen["content"] for seen in template_messages(messages, MOST)] == ["a", "b\nc"]
    assert [seen["content"] for seen in template_messages(messages, Form(parts=True))] == [
        [{"type": "text", "text": "a"}],
        [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}],
    ]


def test_a_call_and_its_result() -> None:
    messages: list[Message] = [AssistantMessage(tool_calls=[call("1")]), ToolMessage("t", "1", name="f")]
    assert template_messages(messages, MOST) == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": [1]}}}],
        },
        {"role": "tool", "content": "t", "name": "f", "tool_call_id": "1"},
    ]


@pytest.mark.parametrize("arguments", ["{not json", "[1]", '"x"', "", "1" * 5000, "[" * 5000])
def test_arguments_that_are_no_object_stay_as_they_are(arguments: str) -> None:
    (seen,) = template_messages([AssistantMessage(tool_calls=[call("1", arguments)])], MOST)
    assert seen["tool_calls"][0]["function"]["arguments"] == arguments


def test_what_few_templates_want() -> None:
    message = AssistantMessage(tool_calls=[call("1")])
    (seen,) = template_messages([message], Form(null_content=True, text_arguments=True))
    assert seen["content"] is None
    assert seen["tool_calls"][0]["function"]["arguments"] == '{"x": [1]}'
    (seen,) = template_messages([AssistantMessage("a")], Form(null_content=True))
    assert seen["content"] == "a"
    both = AssistantMessage("a", tool_calls=[call("1")], reasoning_content="r")
    assert [template_messages([both], form)[0]["content"] for form in (MOST, Form(content_or_reasoning=True))] == [
        "a",
        "",
    ]


def test_reasoning_has_every_name_that_templates_look_for() -> None:
    (seen,) = template_messages([AssistantMessage("a", reasoning_content="r")], MOST)
    assert {name for name, value in seen.items() if value == "r"} == {"reasoning_content", "reasoning", "thinking"}
    assert template_messages([AssistantMessage("a")], MOST) == [{"role": "assistant", "content": "a"}]


def test_the_older_api() -> None:
    messages: list[Message] = [
        UserMessage("u"),
        AssistantMessage(function_call=FunctionCall("f", "{}")),
        FunctionMessage("f", "1"),
        AssistantMessage(function_call=FunctionCall("f", "{}")),
        FunctionMessage("f"),
        FunctionMessage("g", "nobody asked"),
    ]
    _, first, one, second, two, three = template_messages(messages, MOST)
    assert first["tool_calls"] == [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": {}}}]
    assert second["tool_calls"][0]["id"] == "call_3"
    assert (one, two, three) == (
        {"role": "tool", "content": "1", "name": "f", "tool_call_id": "call_1"},
        {"role": "tool", "content": "", "name": "f", "tool_call_id": "call_3"},
        {"role": "tool", "content": "nobody asked", "name": "g", "tool_call_id": "call_5"},
    )
    _, first, one, *_ = template_messages(messages, Form(function=True))
    assert first["function_call"] == {"name": "f", "arguments": {}}
    assert one == {"role": "function", "content": "1", "name": "f"}


def test_short_ids() -> None:
    ids = ["call_8Yq2mLwRkP0sTzVbN4xJ", "call_XK3vd71hQeUo9aGcMf5W", "Ab3456789", "123456é89", "", "\ud800"]
    messages: list[Message] = [AssistantMessage(tool_calls=[call(id) for id in ids])]
    messages += [ToolMessage("", id) for id in reversed(ids)]
    calls, *results = template_messages(messages, Form(short_ids=True))
    short = [each["id"] for each in calls["tool_calls"]]
    assert short == [result["tool_call_id"] for result in reversed(results)]
    assert len(set(short)) == len(ids)
    assert all(len(id) == SHORT_ID and id.isascii() and id.isalnum() for id in short)
    assert short[2] == "Ab3456789"
    # It depends on nothing else, so that a longer chat begins as the shorter one did.
    (alone,) = template_messages([ToolMessage("", ids[1])], Form(short_ids=True))
    assert alone["tool_call_id"] == short[1]


def test_tools() -> None:
    bare = {"type": "function", "function": {"parameters": {}, "name": "f"}}
    assert template_tools([], MOST) is None
    assert template_tools([bare], MOST) == [bare]
    (whole,) = template_tools([bare], replace(MOST, whole_tools=True)) or []
    assert list(whole["function"].items()) == [("parameters", {}), ("name", "f"), ("description", "")]
