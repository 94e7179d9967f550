from typing import Any

import orjson
import pytest

from openai_server.access.caps import Caps
from openai_server.api.schemas import parse_chat, parse_completion
from openai_server.api.schemas_tasks import parse_detokenize, parse_embedding, parse_rerank, parse_tokenize
from openai_server.core.errors import AboveLimit
from openai_server.core.turn import Turn

MESSAGES = [{"role": "user", "content": "hi"}]


def completion(caps: Caps, **fields: Any) -> Turn:
    body = orjson.dumps({"prompt": "x", **fields})
    request = parse_completion(body)
    return caps.applied(request.turn(), request.prompt_fields(), len(body))


def chat(caps: Caps, **fields: Any) -> Turn:
    body = orjson.dumps({"messages": MESSAGES, **fields})
    request = parse_chat(body)
    return caps.applied(request.turn(), request.prompt_fields(), len(body))


def check_rejected(param: str, code: str, work: Any, *args: Any, **fields: Any) -> None:
    with pytest.raises(AboveLimit) as error:
        work(*args, **fields)
    assert (error.value.status, error.value.param, error.value.code) == (400, param, code)
    assert f"'{param}'" in error.value.message


def test_output_tokens_are_capped() -> None:
    caps, code = Caps(output_tokens=10), "integer_above_max_value"
    check_rejected("max_tokens", code, completion, caps, max_tokens=11)
    check_rejected("max_tokens", code, chat, caps, max_tokens=11)
    check_rejected("max_completion_tokens", code, chat, caps, max_completion_tokens=11)
    assert completion(caps, max_tokens=10).token_limit == 10
    assert chat(caps, max_completion_tokens=10).token_limit == 10


def test_a_request_without_a_token_limit_gets_the_cap() -> None:
    assert chat(Caps(output_tokens=10)).token_limit == 10
    assert completion(Caps(output_tokens=10)).token_limit == 10  # OpenAI's default of 16 is not set by the client
    assert completion(Caps(output_tokens=20)).token_limit == 16
    assert chat(Caps()).token_limit is None


def test_the_number_of_choices_is_capped() -> None:
    check_rejected("n", "integer_above_max_value", chat, Caps(n=2), n=3)
    check_rejected("n", "integer_above_max_value", completion, Caps(n=2), n=3)
    check_rejected("best_of", "integer_above_max_value", completion, Caps(n=2), best_of=3)
    assert chat(Caps(n=2), n=2).n_returned == 2


@pytest.mark.parametrize(
    ("prompt", "param", "code"),
    [
        ("xxxx", "prompt", "string_above_max_length"),
        (["x", "xxxx"], "prompt[1]", "string_above_max_length"),
        ([1, 2, 3, 4], "prompt", "array_above_max_length"),
        ([[1], [1, 2, 3, 4]], "prompt[1]", "array_above_max_length"),
    ],
)
def test_the_length_of_prompts_is_capped(prompt: Any, param: str, code: str) -> None:
    check_rejected(param, code, completion, Caps(prompt=3), prompt=prompt)
    several = isinstance(prompt, list) and not isinstance(prompt[0], int)
    assert completion(Caps(prompt=4), prompt=prompt).prompts == (prompt if several else [prompt])
    assert completion(Caps(), prompt=prompt).prompts == (prompt if several else [prompt])


@pytest.mark.parametrize(
    ("parse", "fields", "param"),
    [
        (parse_embedding, {"input": "xxxx"}, "input"),
        (parse_embedding, {"input": ["x", "xxxx"]}, "input[1]"),
        (parse_rerank, {"query": "xxxx", "documents": ["x"]}, "query"),
        (parse_rerank, {"query": "x", "documents": ["x", {"text": "xxxx"}]}, "documents[1]"),
        (parse_tokenize, {"content": "xxxx"}, "content"),
        (parse_tokenize, {"prompt": "xxxx"}, "prompt"),
        (parse_detokenize, {"tokens": [1, 2, 3, 4]}, "tokens"),
    ],
)
def test_inputs_of_the_other_endpoints_are_capped(parse: Any, fields: dict[str, Any], param: str) -> None:
    body = orjson.dumps(fields)
    request = parse(body)
    code = "array_above_max_length" if param == "tokens" else "string_above_max_length"
    check_rejected(param, code, Caps(prompt=3).check_fields, request.prompt_fields(), len(body))
    Caps(prompt=4).check_fields(request.prompt_fields(), len(body))


def with_schema(size: int) -> dict[str, Any]:
    schema = {"type": "object", "description": ""}
    return {**schema, "description": "x" * (size - len(orjson.dumps(schema)))}


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        (
            "response_format",
            lambda n: {
                "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": with_schema(n)}}
            },
        ),
        ("response_format", lambda n: {"response_format": {"type": "json_object", "schema": with_schema(n)}}),
        ("json_schema", lambda n: {"json_schema": with_schema(n)}),
        ("regex", lambda n: {"regex": "x" * n}),
        ("grammar", lambda n: {"grammar": "é" * (n // 2)}),
        (
            "tools[1].function.parameters",
            lambda n: {
                "tools": [
                    {"type": "function", "function": {"name": "a"}},
                    {"type": "function", "function": {"name": "b", "parameters": with_schema(n)}},
                ]
            },
        ),
        ("functions[0].parameters", lambda n: {"functions": [{"name": "b", "parameters": with_schema(n)}]}),
    ],
)
def test_the_size_of_schemas_is_capped(param: str, fields: Any) -> None:
    check_rejected(param, "string_above_max_length", chat, Caps(schema=1000), **fields(1002))
    chat(Caps(schema=1000), **fields(1000))
    chat(Caps(), **fields(100_000))
    if param in ("response_format", "json_schema", "regex", "grammar"):
        check_rejected(param, "string_above_max_length", completion, Caps(schema=1000), **fields(1002))
