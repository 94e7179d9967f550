"""Objects of a schema that are closed, compared with the JSON Schema validator."""

import copy
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from openai_server.core.closing import MAX_VISITS, closed
from tests.examples import examples

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}


def named(*names: str, **more: Any) -> Schema:
    return {"type": "object", "properties": dict.fromkeys(names, TEXT), **more}


def is_valid(schema: Schema, value: Any) -> bool:
    return bool(Draft202012Validator(schema).is_valid(value))


# ---- Closed objects

POINT, POINT_AND_MORE = {"x": "1"}, {"x": "1", "z": "1"}


@pytest.mark.parametrize(
    ("schema", "wrap"),
    [
        (named("x"), lambda value: value),
        (named("x", required=["x"], title="T", description="d", default=None), lambda value: value),
        ({"properties": {"x": TEXT}}, lambda value: value),
        (named("x", type=["object", "null"]), lambda value: value),
        (named("x", required=["x"], minProperties=1), lambda value: value),
        (named("x", minProperties=1), lambda value: value),
        (named("x", "y", dependentRequired={"y": ["x"]}), lambda value: value),
        (named("x", "y", dependencies={"y": ["x"]}), lambda value: value),
        (named("x", propertyNames={"maxLength": 3}), lambda value: value),
        ({"type": "object", "properties": {"a": named("x")}}, lambda value: {"a": value}),
        ({"type": "object", "additionalProperties": named("x")}, lambda value: {"a": value}),
        ({"type": "object", "patternProperties": {"^a": named("x")}}, lambda value: {"a": value}),
        ({"type": "array", "items": named("x")}, lambda value: [value, value]),
        ({"type": "array", "items": named("x"), "uniqueItems": True}, lambda value: [value]),
        ({"type": "array", "prefixItems": [TEXT, named("x")]}, lambda value: ["", value]),
        ({"$ref": "#/$defs/P", "description": "d", "$defs": {"P": named("x")}}, lambda value: value),
        ({"$ref": "#/definitions/a~1b%20c", "definitions": {"a/b c": named("x")}}, lambda value: value),
        (
            {"type": "object", "properties": {"a": named("x"), "b": {"$ref": "#/properties/a"}}},
            lambda value: {"b": value},
        ),
        (
            {"type": "object", "properties": {"x": TEXT, "more": {"type": "array", "items": {"$ref": "#"}}}},
            lambda value: {"more": [{"more": [value]}]},
        ),
        *(({key: [named("x"), {"type": "null"}], "default": None}, lambda value: value) for key in ("anyOf", "oneOf")),
        # a combiner next to it that does not concern its inside
        (
            {"type": "object", "properties": {"a": named("x")}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
            lambda value: {"a": value},
        ),
        (
            {
                "type": "object",
                "properties": {"a": named("x"), "kind": TEXT},
                "if": {"properties": {"kind": {"const": "a"}}},
                "then": {"required": ["a"]},
            },
            lambda value: {"a": value, "kind": "a"},
        ),
        (
            {
                "type": "object",
                "properties": {"a": named("x")},
                "allOf": [{"$ref": "#/$defs/Base"}],
                "$defs": {"Base": named("b")},
            },
            lambda value: {"a": value, "b": ""},
        ),
    ],
)
def test_an_object_without_additional_properties_is_closed(schema: Schema, wrap: Any) -> None:
    before = copy.deepcopy(schema)
    result = closed(schema)
    assert schema == before
    assert is_valid(schema, wrap(POINT))
    assert is_valid(schema, wrap(POINT_AND_MORE))
    assert is_valid(result, wrap(POINT))
    assert not is_valid(result, wrap(POINT_AND_MORE))


def test_closing_changes_nothing_else() -> None:
    assert closed(named("x", title="T", required=["x"])) == named(
        "x", title="T", required=["x"], additionalProperties=False
    )
    schema = {"$ref": "#/$defs/P", "$defs": {"P": named("x"), "unused": {}}}
    assert closed(schema) == {"$ref": "#/$defs/P", "$defs": {"P": named("x", additionalProperties=False)}}


def test_data_in_a_schema_is_unchanged() -> None:
    """Nulls, and values that look like schemas."""
    looks = {"type": "object", "properties": {"a": None}, "$ref": "#/nowhere"}
    schema = named("x", default=None, examples=[looks, None])
    schema["properties"] = {"x": {"const": looks}, "y": {"enum": [looks, None]}, "$ref": TEXT, "enum": named("z")}
    result = closed(schema)
    assert result["examples"] == [looks, None]
    assert result["default"] is None
    assert result["properties"]["x"] == {"const": looks}
    assert result["properties"]["y"] == {"enum": [looks, None]}
    assert result["properties"]["$ref"] == TEXT
    assert result["properties"]["enum"] == named("z", additionalProperties=False)


# ---- Unchanged schemas

BASE = {"$ref": "#/$defs/B"}
CONDITION = {"required": ["y"]}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": {}},
        {"type": "object", "required": ["x"]},
        named("x", required=["x", "y"]),
        named("x", additionalProperties=True),
        named("x", additionalProperties=TEXT),
        named("x", patternProperties={"^y": TEXT}),
        named("x", unevaluatedProperties=TEXT),
        named("x", minProperties=2),
        named("x", dependentRequired={"x": ["y"]}),
        named("x", dependencies={"x": ["y"]}),
        named("x", dependentSchemas={"x": CONDITION}),
        named("x", dependencies={"x": CONDITION}),
        named("x", const={"x": "1", "y": "1"}),
        named("x", enum=[{"x": "1", "y": "1"}]),
        *(named("x", **{key: [CONDITION, {}]}) for key in ("allOf", "anyOf", "oneOf")),
        named("x", **{"not": {"required": ["x"]}}),
        named("x", **{"if": {"required": ["x"]}, "then": CONDITION}),
        {**named("x"), **BASE, "$defs": {"B": named("y", required=["y"])}},
        # inside the branches of a combiner, also by reference
        *({key: [named("x"), named("y")]} for key in ("allOf", "anyOf", "oneOf")),
        {"anyOf": [named("x"), {"type": "null"}], "required": ["y"]},
        {"anyOf": [named("x"), named("y"), {"type": "null"}]},
        {"allOf": [BASE, named("y")], "$defs": {"B": named("x")}},
        {"allOf": [BASE], "$defs": {"B": {"type": "object", "properties": {"a": named("x")}}}},
        {"not": named("x")},
        {"if": named("x"), "then": named("y"), "else": named("z")},
        {"dependentSchemas": {"x": named("x")}},
        {"type": "array", "contains": named("x")},
        {"type": "array", "contains": named("x"), "items": named("y")},
        {"propertyNames": named("x")},
        {"type": "array", "unevaluatedItems": named("x")},
        # another part concerns the same member, item or value
        {"properties": {"a": named("x")}, "allOf": [{"properties": {"a": CONDITION}}]},
        {"properties": {"a": named("x")}, "allOf": [{"additionalProperties": CONDITION}]},
        {"properties": {"a": named("x")}, "allOf": [BASE], "$defs": {"B": {"properties": {"a": CONDITION}}}},
        {"properties": {"a": named("x")}, "allOf": [{"anyOf": [{"not": {"properties": {"a": CONDITION}}}]}]},
        {"properties": {"a": named("x")}, "patternProperties": {"a": CONDITION}},
        {"patternProperties": {"a": named("x"), "b": CONDITION}},
        {"items": named("x"), "allOf": [{"items": CONDITION}]},
        {"items": named("x"), "uniqueItems": True, "minItems": 3},
        {"properties": {"a": named("x")}, "enum": [{"a": {"y": 1}}]},
        {**BASE, "required": ["y"], "$defs": {"B": named("x")}},
        # references that can't be followed
        {"properties": {"a": named("x"), "b": {"$ref": "#/$defs/nowhere"}}},
        {"properties": {"a": named("x"), "b": {"$ref": "https://example.com/b"}}},
        {"properties": {"a": named("x"), "b": {"$ref": "#b"}}, "$defs": {"b": {"$anchor": "b"}}},
        {"properties": {"a": {"$id": "a", **named("x")}}},
        {"properties": {"a": named("x"), "b": {"$ref": 5}}},
        # not a schema
        {"properties": None, "items": None, "allOf": None, "$defs": None},
        {"properties": [named("x")], "dependencies": None},
    ],
)
def test_a_schema_that_cannot_be_closed_safely_is_unchanged(schema: Schema) -> None:
    assert closed(schema) is schema


def test_an_invalid_reference_in_an_unused_definition_is_ignored() -> None:
    schema = named("x", **{"$defs": {"unused": {"$ref": "#/$defs/nowhere"}}})
    assert closed(schema)["additionalProperties"] is False


def test_a_definition_that_is_used_open_and_closed_becomes_two() -> None:
    schema = {
        "type": "object",
        "properties": {
            "home": {"$ref": "#/$defs/Place"},
            "other": {"anyOf": [{"$ref": "#/$defs/Place"}, {"type": "string"}]},
            "all": {"type": "array", "items": {"$ref": "#/$defs/Place"}},
        },
        "$defs": {
            "Place": {"type": "object", "properties": {"x": TEXT, "in": {"anyOf": [{"$ref": "#/$defs/Place"}]}}},
            "Place-2": {"type": "integer"},
        },
    }
    result = closed(schema)
    assert is_valid(result, {"home": POINT, "all": [POINT], "other": POINT_AND_MORE})
    assert is_valid(result, {"home": {"in": {"in": POINT_AND_MORE}}})
    assert not is_valid(result, {"home": POINT_AND_MORE})
    assert not is_valid(result, {"all": [POINT_AND_MORE]})
    assert len(result["$defs"]) == 2


def test_the_root_can_be_a_branch_of_itself() -> None:
    schema = {"type": "object", "properties": {"x": TEXT, "up": {"anyOf": [{"$ref": "#"}, {"type": "string"}]}}}
    result = closed(schema)
    assert not is_valid(result, POINT_AND_MORE)
    assert is_valid(result, {"up": {"up": POINT_AND_MORE}})


def test_a_schema_that_is_too_large_or_too_deep_is_unchanged() -> None:
    wide = {"type": "object", "properties": {f"p{i}": TEXT for i in range(MAX_VISITS)}}
    assert closed(wide) is wide
    deep = named("x")
    for _ in range(3000):
        deep = {"items": deep}
    assert closed(deep) is deep
    # references multiply the nodes to visit
    nested = named("x")
    for i in range(100):
        nested = {"type": "object", "properties": {"a": nested, **{f"p{i}-{j}": TEXT for j in range(10)}}}
    pointers = ["#" + "/properties/a" * i for i in range(1, 100)]
    nested["properties"] |= {f"r{i}": {"$ref": pointer} for i, pointer in enumerate(pointers)}
    assert closed(nested) is nested


# ---- Random schemas

KEYWORDS = (
    *("properties", "required", "items", "allOf", "anyOf", "not", "if", "$ref", "$defs", "const", "enum", "type"),
    *("patternProperties", "additionalProperties", "dependencies", "dependentRequired", "dependentSchemas"),
    *("minProperties", "minItems", "uniqueItems", "prefixItems", "contains", "$id", "definitions"),
)


@settings(max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(
        st.sampled_from(KEYWORDS),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["#", "#/a~2", "#/$defs/a", "x"]),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYWORDS), inner, max_size=3),
        ),
    )
)
def test_any_value_is_accepted_and_not_modified(anything: Schema) -> None:
    before = repr(anything)
    closed(anything)
    assert repr(anything) == before


names = st.sampled_from(["a", "b", "c"])
scalars = st.none() | st.integers(0, 1)
values = st.recursive(
    scalars,
    lambda inner: st.dictionaries(names, inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=6,
)
leaves = st.sampled_from(
    [
        {},
        True,
        {"type": "integer"},
        {"type": "null"},
        {"const": 1},
        {"type": ["object", "null"]},
        {"$ref": "#"},
        {"$ref": "#/$defs/D"},
        {"$ref": "#/$defs/E"},
    ]
)


def schemas_of(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    by_name = st.dictionaries(names, inner, max_size=3)
    some = st.lists(inner, min_size=1, max_size=2)
    required = st.lists(names, max_size=2, unique=True)
    optional: dict[str, st.SearchStrategy[Any]] = {
        "required": required,
        "type": st.sampled_from(["object", "array"]),
        "additionalProperties": inner,
        "patternProperties": st.dictionaries(st.sampled_from(["a", "b|c"]), inner, min_size=1, max_size=2),
        "unevaluatedProperties": inner,
        "propertyNames": st.just({"enum": ["a", "b"]}),
        "minProperties": st.integers(0, 2),
        "maxProperties": st.integers(1, 3),
        "dependentRequired": st.dictionaries(names, required, max_size=1),
        "dependentSchemas": st.dictionaries(names, inner, max_size=1),
        "items": inner,
        "prefixItems": some,
        "contains": inner,
        "uniqueItems": st.just(True),
        "minItems": st.integers(0, 2),
        "allOf": some,
        "anyOf": some | inner.map(lambda schema: [schema, {"type": "null"}]),
        "oneOf": some | inner.map(lambda schema: [schema, {"type": "null"}]),
        "not": inner,
        "if": inner,
        "then": inner,
        "else": inner,
        "$ref": st.sampled_from(["#", "#/$defs/D", "#/properties/a"]),
    }
    kept = {"properties": by_name, "required": optional.pop("required")}
    drawn = st.lists(st.sampled_from(sorted(optional)), max_size=2, unique=True)
    return drawn.flatmap(
        lambda keys: st.fixed_dictionaries({key: optional[key] for key in keys}, optional=kept)
    ) | st.fixed_dictionaries({"properties": by_name})


schemas = st.recursive(leaves, schemas_of, max_leaves=8)
roots = st.builds(
    lambda root, d, e: {**root, "properties": {"a": True, **root.get("properties", {})}, "$defs": {"D": d, "E": e}},
    schemas.filter(lambda root: isinstance(root, dict)),
    schemas,
    schemas,
)


def smaller(value: Any) -> Iterator[Any]:
    """Yields the value and all versions of it without some members or items."""
    if isinstance(value, dict):
        inner = {key: list(smaller(item)) for key, item in value.items()}
        yield from _products(list(inner.items()), {})
    elif isinstance(value, list):
        for n in range(len(value) + 1):
            for items in combinations(value, n):
                yield from map(list, _sequences(items))
    else:
        yield value


def _products(remaining: list[tuple[str, list[Any]]], members: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if not remaining:
        yield members
        return
    (key, choices), *rest = remaining
    yield from _products(rest, members)
    for choice in choices:
        yield from _products(rest, {**members, key: choice})


def _sequences(items: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    if not items:
        yield ()
        return
    for first in smaller(items[0]):
        for rest in _sequences(items[1:]):
            yield (first, *rest)


def assume_valid(schema: Schema, value: Any) -> None:
    try:
        assume(is_valid(schema, value))
    except RecursionError:  # a reference to itself
        assume(False)


@settings(max_examples=examples(200), deadline=None, suppress_health_check=list(HealthCheck))
@given(schema=roots, value=values)
def test_a_schema_with_a_valid_value_still_has_one(schema: Schema, value: Any) -> None:
    """The value may lose members that the schema doesn't name, and gain named ones."""
    assume_valid(schema, value)
    result = closed(schema)
    assume(result is not schema)
    candidates = [value, *({**value, name: 1} for name in "abc" if isinstance(value, dict) and name not in value)]
    assert any(is_valid(result, candidate) for whole in candidates for candidate in smaller(whole)), result


@settings(max_examples=examples(200), deadline=None, suppress_health_check=list(HealthCheck))
@given(schema=roots, value=values)
def test_a_value_that_is_valid_after_closing_was_valid_before(schema: Schema, value: Any) -> None:
    result = closed(schema)
    assume(result is not schema)
    assume_valid(result, value)
    assert is_valid(schema, value)
