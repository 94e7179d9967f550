"""Errors about a field of the body name the client's own field."""

import json
from typing import Any

import pytest

from openai_server.access.caps import Caps
from openai_server.api.chat.request import parse as parse_chat
from openai_server.api.messages.request import parse as parse_messages
from openai_server.api.responses.request import parse as parse_responses
from openai_server.backends.dialects.chat.fields import BodyFields
from openai_server.core.errors import BackendError, from_backend
from openai_server.core.turn import Turn

USER = {"role": "user", "content": "a"}
SCHEMA = {"type": "object"}


def chat(**fields: Any) -> Turn:
    return parse_chat(json.dumps({"messages": [USER, USER], **fields}).encode(), Caps()).turn


def response(**fields: Any) -> Turn:
    return parse_responses(json.dumps({"input": [USER, USER], **fields}).encode(), Caps()).turn


def message(**fields: Any) -> Turn:
    return parse_messages(json.dumps({"messages": [USER], "max_tokens": 5, **fields}).encode(), Caps()).turn


TOOLS = [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]
CUSTOM = {"type": "custom", "name": "c", "format": {"type": "grammar", "syntax": "lark", "definition": "start: /a/"}}


@pytest.mark.parametrize(
    ("turn", "path", "field"),
    [
        (chat(max_tokens=5), "max_tokens", "max_tokens"),
        (chat(max_completion_tokens=5), "max_tokens", "max_completion_tokens"),
        (chat(max_completion_tokens=5), "max_completion_tokens", "max_completion_tokens"),
        (chat(), "messages[1].content", "messages[1].content"),
        (chat(), "messages", "messages"),
        (chat(), "messages.1.content", "messages.1.content"),
        (response(), "messages.1.content.0.text", "input[1]"),
        (chat(tools=TOOLS), "tools.0.function.parameters.x", "tools[0].function.parameters"),
        (chat(tools=TOOLS), "tools[0].function.name", "tools[0]"),
        (chat(tools=TOOLS), "tools[0].function.parameters.x", "tools[0].function.parameters"),
        (chat(tools=TOOLS), "tools[7]", "tools"),
        (chat(functions=[TOOLS[0]["function"]]), "tools[0].function.parameters", "functions[0].parameters"),
        (chat(functions=[TOOLS[0]["function"]]), "tool_choice", "function_call"),
        (chat(regex="a"), "structured_outputs.regex", "regex"),
        (chat(reasoning_budget_tokens=5), "thinking_token_budget", "reasoning_budget_tokens"),
        (chat(), "metadata.a", "metadata.a"),
        (chat(), "unknown", "unknown"),
        (response(), "max_tokens", "max_output_tokens"),
        (response(), "messages[1].content[0].text", "input[1]"),
        (response(instructions="i"), "messages[0]", "instructions"),
        (response(), "messages[9]", "input"),
        (response(), "messages", "input"),
        (response(), "reasoning_effort", "reasoning.effort"),
        (response(), "verbosity", "text.verbosity"),
        (response(text={"format": {"type": "json_object"}}), "response_format", "text.format"),
        (response(tools=[CUSTOM]), "tools[0].custom.format", "tools[0].format.definition"),
        (response(tools=[CUSTOM]), "tools[0]", "tools[0]"),
        (message(), "max_tokens", "max_tokens"),
        (message(), "stop", "stop_sequences"),
        (message(), "user", "metadata.user_id"),
        (message(), "parallel_tool_calls", "tool_choice.disable_parallel_tool_use"),
        (message(system="s"), "messages[0]", "system"),
        (message(system="s"), "messages[1].content", "messages[0].content"),
        (
            message(tools=[{"name": "f", "input_schema": SCHEMA}]),
            "tools[0].function.parameters",
            "tools[0].input_schema",
        ),
    ],
)
def test_a_field_of_the_body_has_the_clients_name(turn: Turn, path: str, field: str) -> None:
    assert BodyFields(turn).get(path) == field
    details = {"error_tensor": "body", "error_part": path}
    error = from_backend(BackendError("INVALID_ARGUMENT", f"'{path}' is bad.", details), BodyFields(turn))
    assert (error.status, error.param, error.message) == (400, field, f"'{field}' is bad.")


def test_tensors_have_the_name_of_the_conversation() -> None:
    for tensor in ("messages", "input_items"):
        error = BackendError("INVALID_ARGUMENT", f"tensor '{tensor}': bad", {"error_tensor": tensor})
        assert from_backend(error, BodyFields(response())).param == "input"
        assert from_backend(error, BodyFields(response())).message == "'input': bad"
    body = BackendError("INVALID_ARGUMENT", "bad", {"error_tensor": "body"})
    assert from_backend(body, BodyFields(chat())).param is None
    full = BackendError("INVALID_ARGUMENT", "too long", {"error_reason": "context_length_exceeded"})
    assert from_backend(full, BodyFields(response())).param == "input"
