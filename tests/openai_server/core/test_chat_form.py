"""The body for a backend that takes chats has the client's fields in the form of OpenAI's chat, whatever the API."""

import json
from contextlib import suppress
from typing import Any

import orjson
import pytest

from openai_server.access.caps import Caps
from openai_server.api.chat.request import parse as parse_chat
from openai_server.api.messages.request import parse as parse_messages
from openai_server.api.responses.request import parse as parse_responses
from openai_server.core.chat_form import chat_fields, messages_form
from openai_server.core.errors import AboveLimit, InvalidRequest

Json = dict[str, Any]
CAPS = Caps()
USER = [{"role": "user", "content": "a"}]
PARAMETERS = {"type": "object", "properties": {"x": {"type": "integer"}}}
FUNCTION = {"type": "function", "function": {"name": "f", "description": "d", "parameters": PARAMETERS, "strict": True}}
OTHER = {"type": "function", "function": {"name": "g"}}
CUSTOM = {"type": "custom", "custom": {"name": "c"}}
GRAMMAR = {
    "type": "custom",
    "custom": {"name": "e", "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: /a/"}}},
}


def body_of(turn: Any) -> Json:
    return {"messages": messages_form(turn.messages), **chat_fields(turn, "default", streams=False)}


def of_chat(**fields: Any) -> Json:
    """The body without the fields that every body has."""
    body = body_of(parse_chat(json.dumps({"messages": USER, **fields}).encode(), CAPS).turn)
    assert (body.pop("model"), body.pop("messages"), body.pop("stream")) == ("default", USER, False)
    return body


def of_responses(**fields: Any) -> Json:
    return body_of(parse_responses(json.dumps({"input": "a", **fields}).encode(), CAPS).turn)


def of_messages(**fields: Any) -> Json:
    return body_of(parse_messages(json.dumps({"messages": USER, "max_tokens": 5, **fields}).encode(), CAPS).turn)


def schema(**more: Any) -> Json:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": PARAMETERS, **more}}


def test_absent_fields_stay_absent() -> None:
    assert of_chat() == {}
    assert of_responses() == {"model": "default", "messages": USER, "stream": False}
    assert of_messages() == {"model": "default", "messages": USER, "stream": False, "max_tokens": 5}


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.5, "top_p": 0.9, "top_k": 3, "min_p": 0.1, "seed": 7, "logit_bias": {"5": 1}},
        {"presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.1, "priority": 2, "min_tokens": 3},
        {"max_tokens": 5},
        {"max_completion_tokens": 5},
        {"n": 3},
        {"stop": ["a", "b"]},
        {"reasoning_effort": "low"},
        {"enable_thinking": False},
        {"chat_template_kwargs": {"x": 1}},
        {"thinking_token_budget": 9},
        {"reasoning_budget_tokens": 9},
        {"response_format": {"type": "json_object"}},
        {"response_format": schema()},
        {"response_format": schema(description="d", strict=True)},
        {"structured_outputs": {"regex": "a+"}},
        {"structured_outputs": {"choice": ["a", "b"]}},
        {"structured_outputs": {"grammar": 'root ::= "a"'}},
        {"structured_outputs": {"grammar": "start: /a/"}},
        {"structured_outputs": {"json": PARAMETERS, "whitespace_pattern": " ?"}},
        {"tools": [FUNCTION, OTHER, CUSTOM, GRAMMAR]},
        {"tools": [FUNCTION], "tool_choice": "none"},
        {"tools": [FUNCTION], "tool_choice": "required", "parallel_tool_calls": False},
        {"tools": [FUNCTION, OTHER], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        {"tools": [FUNCTION, CUSTOM], "tool_choice": {"type": "custom", "custom": {"name": "c"}}},
        {
            "tools": [FUNCTION, OTHER, CUSTOM],
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [
                        {"type": "function", "function": {"name": "f"}},
                        {"type": "custom", "custom": {"name": "c"}},
                    ],
                },
            },
        },
        {
            "user": "u",
            "metadata": {"a": "b"},
            "safety_identifier": "s",
            "service_tier": "flex",
            "store": True,
            "prompt_cache_key": "k",
            "prompt_cache_retention": "24h",
            "prediction": {"type": "content", "content": "x"},
            "verbosity": "low",
        },
    ],
)
def test_a_chats_fields_are_unchanged(fields: Json) -> None:
    assert of_chat(**fields) == fields


def test_other_forms_of_a_field_become_one() -> None:
    assert of_chat(stop="a") == {"stop": ["a"]}
    assert of_chat(repeat_penalty=1.5) == {"repetition_penalty": 1.5}
    assert of_chat(guided_regex="a+") == {"structured_outputs": {"regex": "a+"}}
    named = {"name": "response", "schema": PARAMETERS}
    assert of_chat(json_schema=PARAMETERS) == {"response_format": {"type": "json_schema", "json_schema": named}}
    function = FUNCTION["function"]
    assert of_chat(functions=[function], function_call={"name": "f"}) == {
        "tools": [FUNCTION],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
    }
    assert of_chat(functions=[function], function_call="none")["tool_choice"] == "none"
    assert of_chat(functions=[function]) == {"tools": [FUNCTION]}
    assert of_chat(tools=[FUNCTION], tool_choice="auto", parallel_tool_calls=True) == {"tools": [FUNCTION]}


def test_null_is_absent() -> None:
    names = ("temperature", "stop", "user", "metadata", "tools", "response_format", "reasoning_effort", "store")
    assert of_chat(**dict.fromkeys(names)) == {}


def test_the_fields_of_the_responses_api() -> None:
    body = of_responses(
        model="gpt",
        instructions="Be brief.",
        max_output_tokens=9,
        reasoning={"effort": "high"},
        text={"format": {"type": "json_schema", "name": "n", "schema": PARAMETERS, "strict": True}, "verbosity": "low"},
        tools=[{"type": "function", "name": "f", "parameters": PARAMETERS}, {"type": "custom", "name": "c"}],
        tool_choice={"type": "custom", "name": "c"},
        user="u",
        metadata={"a": "b"},
        service_tier="flex",
        store=False,
    )
    assert body == {
        "model": "gpt",
        "messages": [{"role": "system", "content": "Be brief."}, *USER],
        "stream": False,
        "max_tokens": 9,
        "reasoning_effort": "high",
        "response_format": schema(strict=True),
        "tools": [{"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}, CUSTOM],
        "tool_choice": {"type": "custom", "custom": {"name": "c"}},
        "user": "u",
        "metadata": {"a": "b"},
        "service_tier": "flex",
        "store": False,
        "verbosity": "low",
    }


def test_the_fields_of_the_messages_api() -> None:
    body = of_messages(
        system="Be brief.",
        stop_sequences=["x"],
        thinking={"type": "enabled", "budget_tokens": 2000},
        tools=[{"name": "f", "input_schema": PARAMETERS}],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        metadata={"user_id": "u"},
        output_config={"effort": "low"},
    )
    assert body == {
        "model": "default",
        "messages": [{"role": "system", "content": "Be brief."}, *USER],
        "stream": False,
        "max_tokens": 5,
        "stop": ["x"],
        "enable_thinking": True,
        "reasoning_effort": "low",
        "thinking_token_budget": 2000,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "user": "u",
    }
    assert of_messages(thinking={"type": "disabled"})["enable_thinking"] is False
    assert "user" not in of_messages(metadata={"other": 1})
    assert "user" not in of_messages(metadata="u")


def test_messages_keep_their_form() -> None:
    messages = [
        {"role": "developer", "content": "a", "name": "d"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "r",
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                {"id": "2", "type": "custom", "custom": {"name": "c", "input": "x"}},
            ],
        },
        {"role": "tool", "content": "t", "tool_call_id": "1"},
        {"role": "tool", "content": [{"type": "text", "text": "u"}], "tool_call_id": "2"},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "z"},
        {"role": "assistant", "content": "end"},
    ]
    turn = parse_chat(json.dumps({"messages": messages}).encode(), CAPS).turn
    assert messages_form(turn.messages) == messages


def test_parts_with_other_names_are_texts() -> None:
    parts = [{"type": "input_text", "text": "a"}, {"type": "text", "text": "b", "cache_control": None}]
    turn = parse_chat(json.dumps({"messages": [{"role": "user", "content": parts}]}).encode(), CAPS).turn
    expected = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert messages_form(turn.messages) == [{"role": "user", "content": expected}]


@pytest.mark.parametrize("depth", [195, 240, 900])
@pytest.mark.parametrize("field", ["metadata", "prediction", "prompt_cache_options", "service_tier", "tools"])
def test_a_deeply_nested_value_is_refused_unless_it_can_be_written(field: str, depth: int) -> None:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    tool = {"type": "function", "function": {"name": "f", "parameters": value}}
    for write, named in (
        (of_chat, [tool] if field == "tools" else value),
        (of_responses, [{"type": "function", "name": "f", "parameters": value}] if field == "tools" else value),
        (of_messages, [{"name": "f", "input_schema": value}] if field == "tools" else {"user_id": value}),
    ):
        with suppress(InvalidRequest):
            assert orjson.dumps(write(**{field: named}))


def test_the_error_about_a_deeply_nested_value_names_its_field() -> None:
    with pytest.raises(AboveLimit) as caught:
        of_chat(metadata=orjson.loads(b'{"a":' * 260 + b"1" + b"}" * 260))
    assert caught.value.param == "metadata"
