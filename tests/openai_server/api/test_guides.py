"""The guide fields of vLLM, SGLang and llama-server become one guide."""

import json
from typing import Any

import orjson
import pytest

from openai_server.access.caps import Caps
from openai_server.api.chat import request as chat_request
from openai_server.api.schemas import bounds, parse_chat, parse_completion
from openai_server.api.schemas.guides import without_additional_properties
from openai_server.core.errors import AboveLimit, InvalidRequest
from openai_server.core.turn import Guide

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
GBNF = 'root ::= "a" b\nb   ::= "::=" # start: x'
LARK = 'start: "a" b\nb: "::=" // root ::= "x"\n'
MESSAGES = [{"role": "user", "content": "x"}]
TOOL = {"type": "function", "function": {"name": "f"}}


def guide(**body: Any) -> Guide:
    """Returns the guide of a request with these fields, the same for completions and chats."""
    guides = [
        parse_completion(orjson.dumps({"prompt": "x", **body})).turn().guide,
        parse_chat(orjson.dumps({"messages": MESSAGES, **body})).turn().guide,
    ]
    assert guides[0] == guides[1]
    return guides[0]


def refused(**body: Any) -> InvalidRequest:
    errors = []
    for parse, prompt in ((parse_completion, {"prompt": "x"}), (parse_chat, {"messages": MESSAGES})):
        with pytest.raises(InvalidRequest) as caught:
            parse(orjson.dumps({**prompt, **body}))
        errors.append(caught.value)
    assert (errors[0].message, errors[0].param) == (errors[1].message, errors[1].param)
    return errors[0]


FIELDS: list[tuple[str, str, Any, dict[str, Any]]] = [
    ("json_schema", "json_schema", SCHEMA, {"json_schema": SCHEMA}),
    ("json_schema", "json_schema", json.dumps(SCHEMA), {"json_schema": SCHEMA}),
    ("guided_json", "guided_json", SCHEMA, {"json_schema": SCHEMA}),
    ("guided_json", "guided_json", json.dumps(SCHEMA), {"json_schema": SCHEMA}),
    ("regex", "regex", "a|b", {"regex": "a|b"}),
    ("guided_regex", "guided_regex", "a|b", {"regex": "a|b"}),
    ("guided_choice", "guided_choice", ["a", "", '"\n'], {"choice": ["a", "", '"\n']}),
    ("grammar", "grammar", GBNF, {"grammar": GBNF}),
    ("grammar", "grammar", f"%llguidance {{}}\n{LARK}", {"lark": f"%llguidance {{}}\n{LARK}"}),
    ("ebnf", "ebnf", GBNF, {"grammar": GBNF}),
    ("ebnf", "ebnf", LARK, {"lark": LARK}),
    ("guided_grammar", "guided_grammar", GBNF, {"grammar": GBNF}),
    ("guided_grammar", "guided_grammar", LARK, {"lark": LARK}),
    ("structured_outputs", "structured_outputs.json", {"json": SCHEMA}, {"json_schema": SCHEMA}),
    ("structured_outputs", "structured_outputs.json", {"json": json.dumps(SCHEMA)}, {"json_schema": SCHEMA}),
    ("structured_outputs", "structured_outputs.regex", {"regex": "ab"}, {"regex": "ab"}),
    ("structured_outputs", "structured_outputs.choice", {"choice": ["ab"]}, {"choice": ["ab"]}),
    ("structured_outputs", "structured_outputs.grammar", {"grammar": GBNF}, {"grammar": GBNF}),
    ("structured_outputs", "structured_outputs.grammar", {"grammar": LARK}, {"lark": LARK}),
    (
        "structured_outputs",
        "structured_outputs.json_object",
        {"json_object": True},
        {"json_schema": {"type": "object"}},
    ),
]


@pytest.mark.parametrize(("field", "name", "value", "expected"), FIELDS)
def test_each_field_becomes_a_guide_that_names_it(field: str, name: str, value: Any, expected: dict[str, Any]) -> None:
    assert guide(**{field: value}) == Guide(field=name, **expected)


@pytest.mark.parametrize(
    "grammar",
    [GBNF, "root::=[a]", "a-b ::= x\nroot ::= a-b", "# root\n\n  root\t::= []", "1 ::= root"],
)
def test_gbnf_defines_rules_with_its_own_sign(grammar: str) -> None:
    assert guide(guided_grammar=grammar).grammar == grammar


@pytest.mark.parametrize(
    "grammar", [LARK, '?start: NAME "::=" NAME', "start: x\n// x ::= y", "nonsense", "\n" * 10_000]
)
def test_other_grammars_are_lark(grammar: str) -> None:
    assert guide(guided_grammar=grammar).lark == grammar


def test_values_that_set_nothing_are_no_constraint() -> None:
    for body in (
        {"grammar": ""},
        {"guided_decoding_backend": "xgrammar:no-fallback"},
        {"response_format": {"type": "text"}},
    ):
        assert not guide(**body)
    outputs = {
        "json": SCHEMA,
        "json_object": False,
        "disable_any_whitespace": False,
        "disable_additional_properties": False,
        "disable_fallback": True,
        "regex": None,
        "structural_tag": None,
    }
    assert guide(structured_outputs=outputs) == Guide(field="structured_outputs.json", json_schema=SCHEMA)


ONE_OF_EACH = {field: value for field, _, value, _ in FIELDS} | {"response_format": {"type": "json_object"}}


@pytest.mark.parametrize("first", ONE_OF_EACH)
@pytest.mark.parametrize("second", ONE_OF_EACH)
def test_a_request_has_at_most_one_constraint(first: str, second: str) -> None:
    if first != second:
        error = refused(**{first: ONE_OF_EACH[first], second: ONE_OF_EACH[second]})
        assert error.param is not None
        assert error.param.split(".")[0] in (first, second)
        assert all(field in error.message for field in (first, second))


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("structured_outputs", {"structured_outputs": {}}),
        ("structured_outputs", {"structured_outputs": {"json_object": False, "whitespace_pattern": " "}}),
        ("structured_outputs", {"structured_outputs": []}),
        ("structured_outputs.regex", {"structured_outputs": {"json": {}, "regex": "a"}}),
        ("structured_outputs.regex", {"structured_outputs": {"regex": "a\\"}}),
        ("structured_outputs.choice", {"structured_outputs": {"choice": []}}),
        ("structured_outputs.choice[0]", {"structured_outputs": {"choice": [1]}}),
        ("structured_outputs.structural_tag", {"structured_outputs": {"structural_tag": "{}"}}),
        ("structured_outputs.other", {"structured_outputs": {"other": 1}}),
        ("structured_outputs.json", {"structured_outputs": {"json": "{"}}),
        ("structured_outputs.json", {"structured_outputs": {"json": [1]}}),
        ("guided_json", {"guided_json": "[]"}),
        ("guided_json", {"guided_json": "a"}),
        ("guided_json", {"guided_json": ""}),
        ("guided_json", {"guided_json": True}),
        ("json_schema", {"json_schema": "1"}),
        ("guided_regex", {"guided_regex": "a\\"}),
        ("guided_regex", {"guided_regex": ""}),
        ("guided_choice", {"guided_choice": "a"}),
        ("guided_choice", {"guided_choice": ["a"] * (bounds.MAX_GUIDE_CHOICES + 1)}),
        ("guided_grammar", {"guided_grammar": ""}),
        ("ebnf", {"ebnf": 1}),
        ("guided_whitespace_pattern", {"guided_whitespace_pattern": " "}),
        ("guided_whitespace_pattern", {"guided_whitespace_pattern": " ", "regex": "a"}),
        ("guided_whitespace_pattern", {"guided_whitespace_pattern": "(", "guided_json": {}}),
        ("guided_whitespace_pattern", {"guided_whitespace_pattern": " " * 257, "guided_json": {}}),
        (
            "structured_outputs.disable_any_whitespace",
            {"structured_outputs": {"regex": "a", "disable_any_whitespace": True}},
        ),
        (
            "structured_outputs.disable_additional_properties",
            {"structured_outputs": {"choice": ["a"], "disable_additional_properties": True}},
        ),
        (
            "structured_outputs.disable_any_whitespace",
            {"structured_outputs": {"json": {}, "disable_any_whitespace": True, "whitespace_pattern": " "}},
        ),
        (
            "structured_outputs.whitespace_pattern",
            {"structured_outputs": {"json": {}, "whitespace_pattern": " "}, "guided_whitespace_pattern": " "},
        ),
    ],
)
def test_a_wrong_value_is_refused_by_the_clients_name(param: str, body: dict[str, Any]) -> None:
    assert refused(**body).param == param


@pytest.mark.parametrize("form", ["text", "object"])
@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("guided_json", lambda schema: {"guided_json": schema}),
        ("structured_outputs", lambda schema: {"structured_outputs": {"json": schema}}),
        ("json_schema", lambda schema: {"json_schema": schema}),
    ],
)
def test_a_schema_is_limited_in_depth_and_values(field: str, body: Any, form: str) -> None:
    deep: Any = {}
    for _ in range(bounds.MAX_DEPTH):
        deep = {"items": deep}
    for schema in (deep, {"enum": [1] * (bounds.MAX_NESTED_VALUES + 1)}):
        error = refused(**body(schema if form == "object" else json.dumps(schema)))
        assert isinstance(error, AboveLimit)
        assert error.param in (field, f"{field}.json")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "[1,2", '{"a": NaN}', '"\ud800"', "1" * 5000], ids=lambda text: text[:5]
)
def test_a_hostile_text_of_a_schema_is_refused(text: str) -> None:
    body = json.dumps({"prompt": "x", "guided_json": text}).encode()
    with pytest.raises(InvalidRequest):
        parse_completion(body)


def test_whitespace_in_json() -> None:
    expected: dict[str, Any] = {"json_schema": SCHEMA, "whitespace": "[ ]?"}
    pattern = "guided_whitespace_pattern"
    for body, field, option in (
        ({"guided_json": SCHEMA, pattern: "[ ]?"}, "guided_json", pattern),
        ({"json_schema": SCHEMA, pattern: "[ ]?"}, "json_schema", pattern),
        (
            {"response_format": {"type": "json_object", "schema": SCHEMA}, pattern: "[ ]?"},
            "response_format",
            pattern,
        ),
        (
            {"structured_outputs": {"json": SCHEMA, "whitespace_pattern": "[ ]?"}},
            "structured_outputs.json",
            "structured_outputs.whitespace_pattern",
        ),
    ):
        assert guide(**body) == Guide(field=field, whitespace_field=option, **expected)
    outputs = {"json_object": True, "disable_any_whitespace": True}
    compact = guide(structured_outputs=outputs)
    assert (compact.whitespace, compact.whitespace_field) == ("", "structured_outputs.disable_any_whitespace")


def test_members_that_are_not_named_can_be_ruled_out() -> None:
    schema = {
        "properties": {
            "default": {"properties": {}},
            "a": {"anyOf": [{"properties": {"b": {}}}, {"properties": {}, "additionalProperties": True}]},
        },
        "enum": [{"properties": {}}],
        "$defs": {"enum": {"patternProperties": {"x": {"properties": {}}}}},
    }
    text = json.dumps(schema)
    closed = guide(structured_outputs={"json": schema, "disable_additional_properties": True}).json_schema
    assert closed == {
        "properties": {
            "default": {"properties": {}, "additionalProperties": False},
            "a": {
                "anyOf": [
                    {"properties": {"b": {}}, "additionalProperties": False},
                    {"properties": {}, "additionalProperties": True},
                ]
            },
        },
        "enum": [{"properties": {}}],
        "$defs": {
            "enum": {
                "patternProperties": {"x": {"properties": {}, "additionalProperties": False}},
                "additionalProperties": False,
            }
        },
        "additionalProperties": False,
    }
    assert json.dumps(schema) == text
    assert without_additional_properties(True) is True


@pytest.mark.parametrize(
    ("field", "value"), [("grammar", GBNF), ("guided_grammar", GBNF), ("structured_outputs", {"grammar": GBNF})]
)
def test_gbnf_excludes_tools(field: str, value: Any) -> None:
    body = {"messages": MESSAGES, "tools": [TOOL], field: value}
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(orjson.dumps(body))
    assert str(caught.value.param).startswith(field)
    assert parse_chat(orjson.dumps({**body, "tool_choice": "none"})).turn().guide.grammar == GBNF


def test_lark_does_not_exclude_tools() -> None:
    assert parse_chat(orjson.dumps({"messages": MESSAGES, "tools": [TOOL], "ebnf": LARK})).turn().guide.lark == LARK


@pytest.mark.parametrize(("field", "name", "value", "expected"), FIELDS)
def test_every_guide_counts_against_the_limit_on_schemas(
    field: str, name: str, value: Any, expected: dict[str, Any]
) -> None:
    [content] = expected.values()
    size = (
        len(content.encode())
        if isinstance(content, str)
        else sum(len(text.encode()) for text in content)
        if isinstance(content, list)
        else len(orjson.dumps(content))
    )
    body = orjson.dumps({"messages": MESSAGES, field: value})
    assert chat_request.parse(body, Caps(schema=size)).turn.guide.field == name
    with pytest.raises(AboveLimit) as caught:
        chat_request.parse(body, Caps(schema=size - 1))
    assert caught.value.param == name
