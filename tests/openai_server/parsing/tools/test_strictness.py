"""Schemas that count as enforceable are enforced by llguidance, and its unsupported keywords are all known."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher

from openai_server.core.errors import InvalidRequest
from openai_server.core.tools import CustomFormat, FunctionDefinition, Tool, custom_tool
from openai_server.parsing.tools.strictness import first_unenforceable, resolved, unenforceable
from tests.examples import examples
from tests.openai_server.parsing.grammars import accepted
from tests.openai_server.parsing.tools.cases import FORMATS
from tests.openai_server.parsing.tools.examples import EXAMPLES

STRING = {"type": "string"}

_WORDS = """
$anchor $comment $defs $dynamicAnchor $dynamicRef $id $recursiveAnchor $recursiveRef $vocabulary
additionalItems additionalProperties allOf anyOf const contains contentEncoding contentMediaType contentSchema
default definitions dependencies dependentRequired dependentSchemas deprecated description else enum examples
exclusiveMaximum exclusiveMinimum format if items maxContains maxItems maxLength maxProperties maximum
minContains minItems minLength minProperties minimum multipleOf not nullable oneOf pattern patternProperties
prefixItems properties propertyNames readOnly required then title type unevaluatedItems unevaluatedProperties
uniqueItems writeOnly x-other
"""
VOCABULARY = _WORDS.split()
"""All keywords of the drafts 4 to 2020-12, except for `$ref` and `$schema`."""
_FORMAT_NAMES = """
date-time time date duration email hostname ipv4 ipv6 uuid uri uri-reference iri regex json-pointer int32
int64 float double binary byte password idn-email idn-hostname relative-json-pointer uri-template unknown
"""
ALL_FORMATS = _FORMAT_NAMES.split()
VALUES: dict[str, Any] = {
    "additionalItems": False,
    "additionalProperties": False,
    "allOf": [STRING],
    "anyOf": [STRING],
    "const": "a",
    "enum": ["a"],
    "format": "date",
    "items": STRING,
    "oneOf": [STRING],
    "pattern": "^a",
    "patternProperties": {"^b": STRING},
    "prefixItems": [STRING],
    "properties": {},
    "required": [],
    "title": "a",
    "type": "string",
    **dict.fromkeys(("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf"), 1),
    **dict.fromkeys(("maxItems", "maxLength", "maxProperties", "minItems", "minLength", "minProperties"), 1),
}


def refusal(schema: Any) -> str:
    """llguidance's error for a schema; empty if it enforces all of it."""
    return str(LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(json.dumps(schema))))


@pytest.mark.parametrize("keyword", VOCABULARY)
def test_a_keyword_is_enforceable_exactly_if_llguidance_supports_it(keyword: str) -> None:
    schema = {keyword: VALUES.get(keyword, {})}
    found = first_unenforceable(schema)
    assert found in (None, keyword)
    assert (found is None) == (not refusal(schema)), refusal(schema)


@pytest.mark.parametrize(
    "format",
    ALL_FORMATS,
)
def test_a_format_is_enforceable_exactly_if_llguidance_supports_it(format: str) -> None:
    schema = {"type": "string", "format": format}
    assert (first_unenforceable(schema) is None) == (not refusal(schema))
    assert first_unenforceable({"type": "integer", "format": format}) is None
    assert not refusal({"type": "integer", "format": format})


CORPUS: list[tuple[Any, str | None]] = [
    ({}, None),
    (True, None),
    ({"type": "object", "properties": {"a": STRING}, "required": ["a"], "additionalProperties": False}, None),
    ({"type": ["string", "null"], "description": "…"}, None),
    ({"anyOf": [STRING, {"type": "null"}]}, None),
    ({"type": "array", "items": {"type": "number", "minimum": 0, "multipleOf": 0.5}, "maxItems": 3}, None),
    ({"$ref": "#/$defs/a", "$defs": {"a": STRING}}, None),
    ({"properties": {"a": {"$ref": "#"}}}, None),
    ({"definitions": {"a/b": STRING}, "items": {"$ref": "#/definitions/a~1b"}}, None),
    ({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": STRING}}, None),
    ({"oneOf": [STRING, {"type": "integer"}, {"type": ["null", "array"]}]}, None),
    ({"type": "string", "pattern": r"^[a-z]+(-\d{2})?$", "minLength": 1, "maxLength": 40}, None),
    ({"type": "object", "additionalProperties": STRING, "minProperties": 1, "maxProperties": 4}, None),
    ({"type": "object", "patternProperties": {"^x-": STRING}}, None),
    ({"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"}, None),
    ({"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}, None),
    ({"enum": [1, "a", None, {"a": [1]}]}, None),
    ({"const": None}, None),
    ({"items": None, "minItems": None}, None),
    ({"type": "array", "prefixItems": [STRING], "items": False}, None),
    # not enforceable
    (False, "schema"),
    ({"properties": {"a": False}, "required": ["a"]}, "schema"),
    ({"type": "text"}, "type"),
    ({"type": "string", "pattern": "^(?=a)"}, "pattern"),
    ({"type": "string", "pattern": "a^b"}, "pattern"),
    ({"type": "string", "pattern": r"\bword\b"}, "pattern"),
    ({"type": "string", "pattern": r"(a)\1"}, "pattern"),
    ({"$ref": "https://example.com/a"}, "$ref"),
    ({"$ref": "#/$defs/b", "$defs": {"a": STRING}}, "$ref"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "$ref"),
    ({"$schema": "https://example.com/schema"}, "$schema"),
    ({"oneOf": [STRING, {"const": "a"}]}, "oneOf"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
    ({"patternProperties": {"^a": STRING, "b$": STRING}}, "patternProperties"),
    ({"type": "object", "properties": {"a": STRING}, "maxProperties": 1}, "maxProperties"),
    ({"items": {"properties": {"a": {"not": STRING}}}}, "not"),
    ({"minimum": "1"}, "minimum"),
    ({"maximum": 1.8e308}, "maximum"),
    ({"maxLength": -1}, "maxLength"),
    ({"properties": []}, "properties"),
    ({"enum": []}, "enum"),
]


@pytest.mark.parametrize(("schema", "expected"), CORPUS)
def test_the_first_keyword_that_cannot_be_enforced_is_found(schema: Any, expected: str | None) -> None:
    assert first_unenforceable(schema) == expected
    if expected is None:
        assert not refusal(_without_nulls(schema))


def _without_nulls(schema: Any) -> Any:
    if not isinstance(schema, dict) or "const" in schema:
        return schema
    return {key: value for key, value in schema.items() if value is not None}


LEAVES = st.sampled_from(
    [
        *(
            {},
            True,
            STRING,
            {"type": "integer", "minimum": 1},
            {"enum": ["a", 1]},
            {"type": "string", "format": "date"},
        ),
        *({"not": {}}, {"type": "string", "pattern": "^a|b$"}, {"uniqueItems": True}, {"$ref": "#/$defs/d"}),
    ]
)


def _objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {"type": st.just("object"), "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=3)},
        optional={
            "required": st.lists(st.sampled_from("abc"), unique=True),
            "additionalProperties": st.just(False) | inner,
            "patternProperties": st.dictionaries(st.sampled_from(["^x", "y$"]), inner, max_size=2),
            "minProperties": st.integers(0, 2),
        },
    )


SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: (
        _objects(inner)
        | st.fixed_dictionaries({"type": st.just("array"), "items": inner}, optional={"minItems": st.integers(0, 2)})
        | st.lists(inner, min_size=1, max_size=3).flatmap(
            lambda branches: st.sampled_from([{key: branches} for key in ("anyOf", "oneOf", "allOf", "prefixItems")])
        )
    ),
    max_leaves=8,
)


@settings(max_examples=examples(300))
@given(SCHEMAS)
def test_an_enforceable_schema_is_never_refused(schema: Any) -> None:
    whole = {**schema, "$defs": {"d": STRING}} if isinstance(schema, dict) else schema
    if first_unenforceable(whole) is None:
        assert "nsatisfiable" in refusal(whole) or not refusal(whole), refusal(whole)


def test_a_schema_that_is_too_large_is_not_enforced() -> None:
    properties = {f"p{i}": STRING for i in range(5000)}
    assert first_unenforceable({"properties": properties}) == "type"


# ---- Tools


@pytest.mark.parametrize("strict", [True, False])
def test_a_client_decides(strict: bool) -> None:
    tool = Tool(FunctionDefinition("f", parameters={"not": {}}, strict=strict))
    assert resolved(tool, "object", can_guide=True) is tool
    assert resolved(tool, "object", can_guide=False) is tool


def test_without_a_decision_a_tool_is_strict_where_that_is_possible() -> None:
    def strict(parameters: dict[str, Any] | None, can_guide: bool = True) -> bool | None:
        return resolved(
            Tool(FunctionDefinition("f", parameters=parameters)), "object", can_guide=can_guide
        ).function.strict

    assert strict({"type": "object", "properties": {"a": STRING}})
    assert strict(None)
    assert strict({"type": "object", "properties": {"a": STRING}}, can_guide=False) is False
    assert strict({"type": "object", "properties": {"a": {"not": {}}}}) is False


def test_a_custom_tool_is_strict_if_its_definition_can_be_enforced() -> None:
    for format, problem in (
        (CustomFormat(), None),
        (CustomFormat("regex", "a+"), None),
        (CustomFormat("regex", r"\ba"), "\\b"),
        (CustomFormat("lark", 'start: "a"'), None),
        (CustomFormat("lark", "start: <|end|>"), "line 1"),
    ):
        tool = custom_tool("c", format=format)
        found = unenforceable(tool)
        assert (found is None) == (problem is None)
        assert problem is None or problem in (found or "")
        tool.function.strict = None
        assert resolved(tool, "object", can_guide=True).function.strict == (problem is None)


# ---- Arguments that are not one JSON object


def function(strict: bool | None, **properties: Any) -> Tool:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "$defs": {"d": {"enum": ["x"]}},
    }
    return Tool(FunctionDefinition("f", parameters=parameters, strict=strict))


TEXTS: list[tuple[Any, str | None]] = [
    (STRING, None),
    ({"type": "string", "minLength": 2, "maxLength": 3}, None),
    ({"type": "string", "pattern": "^[a-c]+/$"}, None),
    ({"type": "string", "pattern": "a|b"}, None),
    ({"type": "string", "pattern": "^a|b$"}, "pattern"),
    ({"type": "string", "format": "date"}, "format"),
    ({"enum": ["a", "b"]}, None),
    ({"$ref": "#/$defs/d"}, None),
    ({"type": ["string", "null"]}, None),
    ({"type": ["string", "null"], "minLength": 1}, "minLength"),
    ({"anyOf": [STRING, {"type": "null"}]}, None),
    ({"anyOf": [{"type": "string", "pattern": "a"}, {"type": "null"}]}, "anyOf"),
    ({"allOf": [{"$ref": "#/$defs/d"}]}, "allOf"),
    ({"type": "object", "properties": {"a": {"type": "string", "format": "date"}}}, None),
    ({}, None),
]


@pytest.mark.parametrize(("schema", "keyword"), TEXTS)
def test_a_constraint_on_a_raw_text_is_enforced_or_refused(schema: Any, keyword: str | None) -> None:
    assert unenforceable(function(True, a=schema), "texts") == keyword
    assert unenforceable(function(True, a=schema), "values") is None
    assert resolved(function(None, a=schema), "texts", can_guide=True).function.strict == (keyword is None)
    if keyword is None:
        resolved(function(True, a=schema), "texts", can_guide=True)
    else:
        with pytest.raises(InvalidRequest, match=f"'{keyword}' in the parameters of the strict tool 'f'"):
            resolved(function(True, a=schema), "texts", can_guide=True)


@pytest.mark.parametrize("arguments", ["values", "texts"])
def test_a_constraint_on_all_arguments_needs_an_object(arguments: Any) -> None:
    tool = function(None, a=STRING)
    assert tool.function.parameters is not None
    tool.function.parameters["anyOf"] = [{"required": ["a"]}]
    assert unenforceable(tool) is None
    assert unenforceable(tool, arguments) == "anyOf"


@pytest.mark.parametrize("name", ["qwen3-coder", "seed", "minimax-m2", "deepseek-v3.2", "glm"])
def test_strict_texts_follow_their_constraints(name: str) -> None:
    example = EXAMPLES[name]
    for schema, accepts, refuses in (
        ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "abc", "a\n"], ["a", "abcd"]),
        ({"type": "string", "pattern": "^[a-c/]+$"}, ["ab/c"], ["", "abd"]),
        ({"type": "string", "pattern": "a|bc"}, ["xay", "bc"], ["xyz", "b"]),
        ({"$ref": "#/$defs/d"}, ["x"], ["y"]),
    ):
        tool = function(True, city=schema)
        tool.function.name = "get_weather"
        grammar = FORMATS[name].grammar([tool], parallel=False)
        for text in accepts:
            assert accepted(grammar, example.single.replace("Paris", text)), (schema, text)
        for text in refuses:
            assert not accepted(grammar, example.single.replace("Paris", text)), (schema, text)
