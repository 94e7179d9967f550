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

DEFAULT = Form()


def call(id: str, arguments: str = '{"x": [1]}') -> ToolCall:
    return ToolCall(id, FunctionCall("f", arguments))


def test_developer_messages_become_system_messages_unless_supported() -> None:
    message = DeveloperMessage("x", name="me")
    assert template_messages([message], DEFAULT) == [{"role": "system", "content": "x", "name": "me"}]
    assert template_messages([message], Form(developer=True)) == [{"role": "developer", "content": "x", "name": "me"}]


def test_content_is_one_string_or_parts_by_form() -> None:
    messages: list[Message] = [UserMessage("a"), UserMessage([TextPart("b"), TextPart("c")])]
    assert [rendered["content"] for rendered in template_messages(messages, DEFAULT)] == ["a", "b\nc"]
    assert [rendered["content"] for rendered in template_messages(messages, Form(parts=True))] == [
        [{"type": "text", "text": "a"}],
        [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}],
    ]


def test_a_call_has_parsed_arguments_and_its_result_its_id() -> None:
    messages: list[Message] = [AssistantMessage(tool_calls=[call("1")]), ToolMessage("t", "1", name="f")]
    assert template_messages(messages, DEFAULT) == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": [1]}}}],
        },
        {"role": "tool", "content": "t", "name": "f", "tool_call_id": "1"},
    ]


@pytest.mark.parametrize("arguments", ["{not json", "[1]", '"x"', "", "1" * 5000, "[" * 5000])
def test_arguments_that_are_not_an_object_are_unchanged(arguments: str) -> None:
    (rendered,) = template_messages([AssistantMessage(tool_calls=[call("1", arguments)])], DEFAULT)
    assert rendered["tool_calls"][0]["function"]["arguments"] == arguments


def test_rare_forms_of_messages_are_supported() -> None:
    message = AssistantMessage(tool_calls=[call("1")])
    (rendered,) = template_messages([message], Form(null_content=True, text_arguments=True))
    assert rendered["content"] is None
    assert rendered["tool_calls"][0]["function"]["arguments"] == '{"x": [1]}'
    (rendered,) = template_messages([AssistantMessage("a")], Form(null_content=True))
    assert rendered["content"] == "a"
    both = AssistantMessage("a", tool_calls=[call("1")], reasoning_content="r")
    assert [template_messages([both], form)[0]["content"] for form in (DEFAULT, Form(content_or_reasoning=True))] == [
        "a",
        "",
    ]


def test_reasoning_has_all_names_that_templates_use() -> None:
    (rendered,) = template_messages([AssistantMessage("a", reasoning_content="r")], DEFAULT)
    assert {name for name, value in rendered.items() if value == "r"} == {"reasoning_content", "reasoning", "thinking"}
    assert template_messages([AssistantMessage("a")], DEFAULT) == [{"role": "assistant", "content": "a"}]


def test_function_calls_of_the_older_api_become_tool_calls() -> None:
    messages: list[Message] = [
        UserMessage("u"),
        AssistantMessage(function_call=FunctionCall("f", "{}")),
        FunctionMessage("f", "1"),
        AssistantMessage(function_call=FunctionCall("f", "{}")),
        FunctionMessage("f"),
        FunctionMessage("g", "no call"),
    ]
    _, first, result_1, second, result_2, result_3 = template_messages(messages, DEFAULT)
    assert first["tool_calls"] == [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": {}}}]
    assert second["tool_calls"][0]["id"] == "call_3"
    assert (result_1, result_2, result_3) == (
        {"role": "tool", "content": "1", "name": "f", "tool_call_id": "call_1"},
        {"role": "tool", "content": "", "name": "f", "tool_call_id": "call_3"},
        {"role": "tool", "content": "no call", "name": "g", "tool_call_id": "call_5"},
    )
    _, first, result_1, *_ = template_messages(messages, Form(function=True))
    assert first["function_call"] == {"name": "f", "arguments": {}}
    assert result_1 == {"role": "function", "content": "1", "name": "f"}


def test_short_ids_are_unique_and_depend_only_on_the_id() -> None:
    ids = ["call_8Yq2mLwRkP0sTzVbN4xJ", "call_XK3vd71hQeUo9aGcMf5W", "Ab3456789", "123456é89", "", "\ud800"]
    messages: list[Message] = [AssistantMessage(tool_calls=[call(id) for id in ids])]
    messages += [ToolMessage("", id) for id in reversed(ids)]
    calls, *results = template_messages(messages, Form(short_ids=True))
    short = [tool_call["id"] for tool_call in calls["tool_calls"]]
    assert short == [result["tool_call_id"] for result in reversed(results)]
    assert len(set(short)) == len(ids)
    assert all(len(id) == SHORT_ID and id.isascii() and id.isalnum() for id in short)
    assert short[2] == "Ab3456789"
    # a longer chat must begin with the prompt of the shorter one
    (single,) = template_messages([ToolMessage("", ids[1])], Form(short_ids=True))
    assert single["tool_call_id"] == short[1]


def test_whole_tools_have_a_description() -> None:
    bare = {"type": "function", "function": {"parameters": {}, "name": "f"}}
    assert template_tools([], DEFAULT) is None
    assert template_tools([bare], DEFAULT) == [bare]
    (whole,) = template_tools([bare], replace(DEFAULT, whole_tools=True)) or []
    assert list(whole["function"].items()) == [("parameters", {}), ("name", "f"), ("description", "")]
