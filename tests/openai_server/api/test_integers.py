"""Integers as in JSON Schema: `2.0` is an integer, `2.5` is not."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from openai_server.access.caps import Caps
from openai_server.api import schemas_tasks
from openai_server.api.responses.request import parse
from openai_server.api.responses.settings import Settings
from openai_server.api.schemas import parse_chat, parse_completion
from openai_server.core.errors import InvalidRequest

MESSAGES = {"messages": [{"role": "user", "content": "x"}]}
Parse = Callable[[bytes], Any]


def parse_response(body: bytes) -> Settings:
    return parse(body, Caps()).settings


ACCEPTED: list[tuple[Parse, dict[str, Any], str, object]] = [
    (parse_completion, {"prompt": "x", "max_tokens": 2.0}, "max_tokens", 2),
    (parse_completion, {"prompt": "x", "logprobs": 1.0}, "logprobs", 1),
    (parse_completion, {"prompt": "x", "seed": -1e18}, "seed", -(10**18)),
    (parse_completion, {"prompt": "x", "n": 1e0}, "n", 1),
    (parse_completion, {"prompt": "x", "top_k": -1.0}, "top_k", -1),
    (parse_completion, {"prompt": "x", "mirostat": 2.0}, "mirostat", 2),
    (parse_completion, {"prompt": "x", "stop_token_ids": [1, 2.0]}, "stop_token_ids", [1, 2]),
    (parse_completion, {"prompt": [1.0, 2]}, "prompts", [[1, 2]]),
    (parse_completion, {"prompt": [[1.0], [2, 3.0]]}, "prompts", [[1], [2, 3]]),
    (parse_chat, {**MESSAGES, "max_completion_tokens": 7.0, "temperature": 1}, "max_completion_tokens", 7),
    (parse_chat, {**MESSAGES, "logprobs": True, "top_logprobs": 3.0}, "top_logprobs", 3),
    (parse_chat, {**MESSAGES, "temperature": 1.0, "n": 2.0}, "temperature", 1.0),
    (parse_response, {"input": "x", "max_output_tokens": 7.0, "top_logprobs": 1.0}, "max_output_tokens", 7),
    (parse_response, {"input": [{"role": "user", "content": "x"}], "max_tool_calls": 3.0}, "max_tool_calls", 3),
    (schemas_tasks.parse_embedding, {"input": "x", "dimensions": 4.0}, "dimensions", 4),
    (schemas_tasks.parse_embedding, {"input": [5.0] * 3000}, "prompts", [[5] * 3000]),
    (schemas_tasks.parse_embedding, {"input": [[5.0], [6]]}, "prompts", [[5], [6]]),
    (schemas_tasks.parse_rerank, {"query": "q", "documents": ["d"], "top_n": 1.0}, "top_n", 1),
    (schemas_tasks.parse_detokenize, {"tokens": [0.0, -0.0, 5]}, "tokens", [0, 0, 5]),
]
REJECTED: list[tuple[Parse, dict[str, Any], str, str]] = [
    (parse_completion, {"prompt": "x", "max_tokens": 2.5}, "max_tokens", "Expected `int | null`, got `float`"),
    (
        parse_completion,
        {"prompt": "x", "n": 2.0, "max_tokens": 2.5},
        "max_tokens",
        "Expected `int | null`, got `float`",
    ),
    (parse_completion, {"prompt": "x", "max_tokens": -1.0}, "max_tokens", "Expected `int` >= 0"),
    (parse_completion, {"prompt": "x", "mirostat": 3.0}, "mirostat", "Invalid enum value 3"),
    (parse_completion, {"prompt": "x", "seed": -(2**63) - 1}, "seed", "Expected `int | null`, got `float`"),
    (parse_completion, {"prompt": "x", "seed": 1e300}, "seed", "Expected `int | null`, got `float`"),
    (parse_completion, {"prompt": [1.0, 2.5]}, "prompt[1]", "Expected `int | str | array`, got `float`"),
    (parse_completion, {"prompt": "x", "stop": 1.0}, "stop", "Expected `str | array | null`, got `float`"),
    (parse_completion, {"prompt": "x", "user": 1.0, "echo": 1.0}, "echo", "Expected `bool | null`, got `float`"),
    (schemas_tasks.parse_detokenize, {"tokens": [1.0, 0.5]}, "tokens[1]", "Expected `int`, got `float`"),
]


@pytest.mark.parametrize(("parse", "body", "field", "value"), ACCEPTED)
def test_a_float_without_a_fraction_is_an_integer(
    parse: Parse, body: dict[str, Any], field: str, value: object
) -> None:
    parsed = getattr(parse(json.dumps(body).encode()), field)
    assert (parsed, repr(parsed)) == (value, repr(value))


@pytest.mark.parametrize(("parse", "body", "param", "problem"), REJECTED)
def test_other_floats_are_rejected_like_any_wrong_type(
    parse: Parse, body: dict[str, Any], param: str, problem: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(json.dumps(body).encode())
    assert (caught.value.param, caught.value.message) == (param, f"Invalid '{param}': {problem}.")


def test_numbers_in_schemas_and_template_arguments_are_unchanged() -> None:
    schema = {"type": "number", "minimum": 1.0, "enum": [2.0]}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": schema}}}}
    format = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    body = {**MESSAGES, "n": 1.0, "response_format": format, "tools": [tool], "chat_template_kwargs": {"k": 1.0}}
    request = parse_chat(json.dumps(body).encode())
    kept = [request.turn().guide.json_schema, request.all_tools[0].function.parameters, request.chat_template_kwargs]
    assert [repr(value) for value in kept] == [repr(schema), repr({"properties": {"x": schema}}), "{'k': 1.0}"]
