"""JSON Schemas as clients write them, with a real model: pydantic's objects are closed, and constraints that can't be
enforced are dropped unless the schema is strict. A JSON Schema validator checks every result."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from jsonschema import Draft202012Validator
from openai import BadRequestError, OpenAI
from openai.types.chat import ChatCompletionMessageFunctionToolCall
from pydantic import BaseModel, ConfigDict, Field

from tests.e2e.conftest import SMOLLM2, Pair

MESSAGES: list[Any] = [{"role": "user", "content": "Describe a person as JSON, with everything that you know of them."}]


class Address(BaseModel):
    street: str = Field(max_length=12)
    zip: int | None = Field(default=None, le=999)


class Pet(BaseModel):
    name: str = Field(max_length=8)
    kind: Literal["cat", "dog"] = "cat"


class Person(BaseModel):
    name: str = Field(max_length=10)
    home: Address
    nickname: str | None = Field(default=None, max_length=8)
    pets: list[Pet] = Field(max_length=2)
    by_room: dict[str, Pet] = Field(default_factory=dict, max_length=0)


class Exact(Person):
    """A Person without further members; pydantic ignores them by default."""

    model_config = ConfigDict(extra="forbid")


SAMPLING: dict[str, Any] = {"max_tokens": 300, "temperature": 1.0}
"""At this temperature a small model invents members wherever the schema allows it."""
NAMES = {"name", "home", "nickname", "pets", "by_room"}


@pytest.fixture(scope="module")
def client(pair: Pair) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{pair.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def chat(client: OpenAI, *, stream: bool, **body: Any) -> tuple[str, str | None]:
    """Returns content and finish reason."""
    body = {"model": SMOLLM2, "messages": MESSAGES, **SAMPLING, **body}
    if not stream:
        [choice] = client.chat.completions.create(**body).choices
        return choice.message.content or "", choice.finish_reason
    content, reason = "", None
    for chunk in client.chat.completions.create(**body, stream=True):
        for part in chunk.choices:
            content += part.delta.content or ""
            reason = part.finish_reason or reason
    return content, reason


def complete(client: OpenAI, *, stream: bool, **body: Any) -> tuple[str, str | None]:
    body = {"model": SMOLLM2, "prompt": "A person as JSON:\n", **SAMPLING, **body}
    if not stream:
        [choice] = client.completions.create(**body).choices
        return choice.text, choice.finish_reason
    text, reason = "", None
    for chunk in client.completions.create(**body, stream=True):
        for part in chunk.choices:
            text += part.text
            reason = part.finish_reason or reason
    return text, reason


def named(schema: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, **options}}


def forms(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        "json_schema": {"response_format": named(schema)},
        "json_schema, not strict": {"response_format": named(schema, strict=False)},
        "json_schema, strict": {"response_format": named(schema, strict=True)},
        "json_object": {"response_format": {"type": "json_object", "schema": schema}},
        "llama-server": {"extra_body": {"json_schema": schema}},
    }


def check(text: str, reason: str | None) -> None:
    """Checks that the text is a Person without further members."""
    assert reason == "stop", text
    value = json.loads(text)
    assert Draft202012Validator(Person.model_json_schema()).is_valid(value), text
    Person.model_validate(value)
    assert value.keys() <= NAMES
    for inner, names in ((value["home"], {"street", "zip"}), *((pet, {"name", "kind"}) for pet in value["pets"])):
        assert inner.keys() <= names


@pytest.mark.parametrize(
    ("form", "stream"),
    [
        ("json_schema", False),
        ("json_schema", True),
        ("json_schema, strict", False),
        ("json_object", True),
        ("llama-server", False),
    ],
)
def test_pydantics_objects_have_their_members_and_no_others(client: OpenAI, form: str, stream: bool) -> None:
    body = forms(Person.model_json_schema())[form]
    check(*chat(client, stream=stream, seed=len(form), **body))
    if "response_format" in body:
        body = {"extra_body": body}
    check(*complete(client, stream=not stream, seed=len(form), **body))


def test_the_sdks_parse_returns_the_model(client: OpenAI) -> None:
    completion = client.chat.completions.parse(
        model=SMOLLM2, messages=MESSAGES, response_format=Exact, seed=1, temperature=1, max_tokens=300
    )
    [choice] = completion.choices
    assert choice.finish_reason == "stop"
    assert isinstance(choice.message.parsed, Exact)


@pytest.mark.parametrize("strict", [None, True])
def test_arguments_have_their_members_and_no_others(client: OpenAI, strict: bool | None) -> None:
    function = {"name": "save", "parameters": Person.model_json_schema(), "strict": strict}
    tools: Any = [{"type": "function", "function": function}]
    completion = client.chat.completions.create(
        model=SMOLLM2,
        messages=MESSAGES,
        tools=tools,
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=300,
        temperature=1,
        seed=3,
    )
    [choice] = completion.choices
    assert choice.finish_reason == "tool_calls"
    [call] = choice.message.tool_calls or []
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    check(call.function.arguments, "stop")


def test_a_format_beside_tools_is_closed_too(client: OpenAI) -> None:
    tools: Any = [{"type": "function", "function": {"name": "no_such_thing"}}]
    format = named(Person.model_json_schema())
    text, reason = chat(client, stream=False, tools=tools, response_format=format, seed=2, logit_bias={"44": -100})
    check(text, reason)


# ---- Constraints that can't be enforced

AB: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"enum": [1, 2]}, "b": {"enum": ["x", None]}},
    "required": ["a", "b"],
}
LIST: dict[str, Any] = {"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 3}
UNENFORCEABLE: dict[str, dict[str, Any]] = {
    "uniqueItems": {**LIST, "uniqueItems": True},
    "contains": {**LIST, "contains": {"const": 1}},
    "minContains": {**LIST, "contains": {"const": 1}, "minContains": 2},
    "not": {**AB, "not": {"properties": {"a": {"const": 1}}}},
    "propertyNames": {**AB, "propertyNames": {"maxLength": 1}},
    "dependentRequired": {**AB, "dependentRequired": {"a": ["b"]}},
    "dependentSchemas": {**AB, "dependentSchemas": {"a": {"required": ["b"]}}},
    "dependencies": {**AB, "dependencies": {"a": ["b"]}},
    "then": {**AB, "if": {"required": ["a"]}, "then": {"required": ["b"]}},
    "else": {**AB, "if": {"required": ["z"]}, "else": {"required": ["b"]}},
    "unevaluatedProperties": {**AB, "unevaluatedProperties": False, "additionalProperties": False},
    "oneOf": {"oneOf": [LIST, {**LIST, "minItems": 3}]},
    "format": {"type": "string", "format": "iri", "maxLength": 5},
    "pattern": {"type": "string", "pattern": "^(?!x)", "maxLength": 5},
}
"""Schemas by the keyword that llguidance can't enforce."""


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Closes the schema, as further members are not the subject here."""
    return {**schema, "additionalProperties": False} if "properties" in schema else schema


def named_by(refused: pytest.ExceptionInfo[BadRequestError], keyword: str) -> bool:
    return {"pattern": "look-ahead", "format": "iri"}.get(keyword, keyword) in refused.value.message


@pytest.mark.parametrize("keyword", UNENFORCEABLE)
def test_a_constraint_that_cant_be_enforced_is_dropped_unless_the_schema_is_strict(
    client: OpenAI, keyword: str
) -> None:
    schema = closed(UNENFORCEABLE[keyword])
    bodies = forms(schema)
    with pytest.raises(BadRequestError) as refused:
        chat(client, stream=False, **bodies.pop("json_schema, strict"))
    assert refused.value.param == "response_format"
    assert named_by(refused, keyword)
    with pytest.raises(BadRequestError):
        chat(client, stream=False, **forms({**schema, "x-guidance": {"lenient": True}})["json_schema, strict"])
    enforced = Draft202012Validator({key: value for key, value in schema.items() if key not in ("if", keyword)})
    n = list(UNENFORCEABLE).index(keyword)
    for body in list(bodies.values()) if n == 0 else [list(bodies.values())[n % len(bodies)]]:
        text, reason = chat(client, stream=n % 2 == 0, seed=1, **body)
        assert reason == "stop", text
        assert enforced.is_valid(json.loads(text)), text


@pytest.mark.parametrize("keyword", ["uniqueItems", "not", "pattern"])
def test_a_constraint_in_the_arguments_of_a_call_is_dropped_unless_strict(client: OpenAI, keyword: str) -> None:
    parameters = {"type": "object", "properties": {"v": closed(UNENFORCEABLE[keyword])}, "required": ["v"]}

    def call(strict: bool | None) -> str:
        function = {"name": "f", "parameters": parameters, "strict": strict}
        tools: Any = [{"type": "function", "function": function}]
        completion = client.chat.completions.create(
            model=SMOLLM2,
            messages=MESSAGES,
            tools=tools,
            tool_choice={"type": "function", "function": {"name": "f"}},
            max_tokens=60,
            temperature=1,
            seed=1,
        )
        [call] = completion.choices[0].message.tool_calls or []
        assert isinstance(call, ChatCompletionMessageFunctionToolCall)
        return call.function.arguments

    assert json.loads(call(None)).keys() == {"v"}
    assert json.loads(call(False)).keys() == {"v"}
    with pytest.raises(BadRequestError) as refused:
        call(True)
    assert named_by(refused, keyword)
