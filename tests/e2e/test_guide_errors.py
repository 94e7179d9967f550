"""Guides that can't be compiled, through both programs: the error has the field and a reason, but no grammar of
ours."""

import json
import re
import urllib.error
import urllib.request
from typing import Any

import grpc
import pytest

from protos import contract
from protos.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from tests.e2e.conftest import SMOLLM2, Pair
from tests.e2e.messages import infer

USER = [{"role": "user", "content": "x"}]
LONG = "a" * 900 + "(" + "b" * 900
DEEP = json.loads('{"items":' * 130 + "{}" + "}" * 130)
SLOW = {"type": "integer", "multipleOf": 999983}
OUR_GRAMMAR = re.compile(r"%json|%llguidance|start:|\br\d+:|x-guidance|tool_call|lark|\|")
"""Matches text that only our own grammars contain."""


def function(name: str, schema: Any, **fields: Any) -> dict[str, Any]:
    return {"name": name, "parameters": {"type": "object", "properties": {"a": schema}, "required": ["a"]}, **fields}


def tools(schema: Any, **fields: Any) -> list[dict[str, Any]]:
    """Returns two tools, the second one with this schema."""
    functions = (function("first", {"type": "string"}, **fields), function("second", schema, **fields))
    return [{"type": "function", "function": tool_function} for tool_function in functions]


def refused(pair: Pair, path: str, **body: Any) -> dict[str, Any]:
    request = urllib.request.Request(
        pair.url + path,
        json.dumps({"model": SMOLLM2, "max_tokens": 3, **body}).encode(),
        {"content-type": "application/json"},
    )
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=60).read()
    assert error.value.code == 400
    return dict(json.load(error.value)["error"])


REASONS: dict[str, tuple[Any, str]] = {
    "a pattern": ({"type": "string", "pattern": "[z-a]"}, "'[z-a]' (character 2): invalid character class range"),
    "a long pattern": ({"type": "string", "pattern": LONG}, "(character 901): unclosed group"),
    "bounds": (
        {"type": "integer", "minimum": 5, "maximum": 3},
        "Unsatisfiable schema: required property 'a' is unsatisfiable",
    ),
    "a length": ({"type": "string", "maxLength": 10**15}, "'minLength' or 'maxLength' is too large"),
    "a type": ({"type": "text"}, "Invalid type: text"),
    "a reference": ({"$ref": "#/$defs/nothing"}, "does not exist"),
    "a reference to another document": (
        {"$ref": "http://example.com/schema"},
        "'http://example.com/schema' is outside the schema; only references within it are supported",
    ),
    "too many levels": (DEEP, "more than 127 nested levels"),
    "too slow to compile": (SLOW, "too complex"),
}


@pytest.mark.parametrize(("schema", "reason"), REASONS.values(), ids=REASONS)
def test_the_error_names_the_second_of_two_tools(pair: Pair, schema: Any, reason: str) -> None:
    named = {"type": "function", "function": {"name": "second"}}
    for fields in (
        {"tools": tools(schema), "tool_choice": "required"},
        {"tools": tools(schema), "tool_choice": named, "stream": True},
        {"tools": tools(schema, strict=True)},
        {"tools": tools(schema), "response_format": {"type": "json_object"}, "stream": True},
    ):
        error = refused(pair, "/v1/chat/completions", messages=USER, **fields)
        assert error["param"] == "tools[1].function.parameters", error
        assert error["message"].startswith("'tools[1].function.parameters' of the function 'second': "), error
        assert reason in error["message"]
        assert not OUR_GRAMMAR.search(error["message"].replace(reason, ""))
        assert len(error["message"]) < 400


def test_the_error_names_an_older_function(pair: Pair) -> None:
    functions = [function("first", {}), function("second", {"type": "string", "pattern": "("})]
    call = {"name": "second"}
    error = refused(pair, "/v1/chat/completions", messages=USER, functions=functions, function_call=call)
    assert error["param"] == "functions[1].parameters"
    assert "of the function 'second': invalid regular expression '(' (character 1): unclosed group" in error["message"]


BAD_SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}, "required": ["a"]}
GUIDES: dict[str, dict[str, Any]] = {
    "json_schema": {"json_schema": BAD_SCHEMA},
    "response_format": {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": BAD_SCHEMA}}},
    "regex": {"regex": "("},
    "a long regex": {"regex": LONG},
    "grammar": {"grammar": "root ::= [z-a]"},
}


@pytest.mark.parametrize("name", GUIDES)
def test_the_error_names_the_field_of_a_guide(pair: Pair, name: str) -> None:
    guide = GUIDES[name]
    (param,) = guide
    errors = [
        refused(pair, "/v1/completions", prompt="x", **guide),
        refused(pair, "/v1/chat/completions", messages=USER, **guide),
    ]
    if param != "grammar":  # a grammar can't be combined with tools
        errors.append(refused(pair, "/v1/chat/completions", messages=USER, tools=tools({}), **guide))
    for error in errors:
        assert error["param"] == param, error
        assert error["message"].startswith(f"'{param}': invalid regular expression '"), error
        assert not OUR_GRAMMAR.search(error["message"])
        assert len(error["message"]) < 200


def test_the_worker_refuses_a_regex_that_ends_within_an_escape(service: GRPCInferenceServiceStub) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        service.ModelInfer(infer(SMOLLM2, "x", regex="a\\", max_tokens=1))
    error: Any = failed.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "tensor 'regex': it ends with a backslash that escapes nothing"


LARK = '%llguidance {}\nstart: a | b\n// part: one\na: %json {"type": "string"}\n// part: two\nb: %json {"type": "x"}\n'


@pytest.mark.parametrize(
    ("source", "part", "reason"),
    [
        (LARK, "two", "tensor 'lark': Invalid type: x"),
        (LARK.replace('"x"', f'"integer", "multipleOf": {SLOW["multipleOf"]}'), "two", "tensor 'lark': too complex"),
        (LARK.replace("// part: two\n", ""), "", "tensor 'lark': line 5: Invalid type: x"),
        ("start: /(/\n", "", "tensor 'lark': line 1: invalid regular expression '(' (character 1): unclosed group"),
    ],
)
def test_the_worker_names_the_part_of_the_grammar(
    service: GRPCInferenceServiceStub, source: str, part: str, reason: str
) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        service.ModelInfer(infer(SMOLLM2, "x", lark=source, max_tokens=1))
    error: Any = failed.value
    assert error.details().startswith(reason)
    assert "%json" not in error.details()
    assert dict(error.trailing_metadata()).get(contract.ERROR_PART, "") == part
    (response,) = service.ModelStreamInfer(iter([infer(SMOLLM2, "x", lark=source, max_tokens=1)]))
    assert response.error_message == error.details()
    assert response.infer_response.parameters[contract.ERROR_PART].string_param == part
