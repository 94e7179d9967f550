"""The length of a grammar is limited in every format, and longer ones are rejected before they are built."""

import tracemalloc
from contextlib import suppress
from typing import Any

import pytest

from openai_server.core.errors import InvalidRequest
from openai_server.core.tools import FunctionDefinition, Tool
from openai_server.parsing.tools import schema
from openai_server.parsing.tools.format import ToolFormat
from openai_server.parsing.tools.grammar import MAX_LENGTH
from tests.openai_server.parsing.tools.cases import FORMATS

pytestmark = pytest.mark.slow

DEFINITIONS = {f"d{i}": {"type": "integer", "maximum": i} for i in range(3000)}
TOO_LARGE: dict[str, list[dict[str, Any]]] = {
    "many arguments": [{"properties": {f"p{i}": {"type": "string", "maxLength": 9} for i in range(12_000)}}],
    "many arguments with the same definitions": [
        {"$defs": DEFINITIONS, "properties": {f"p{i}": {"$ref": f"#/$defs/d{i}"} for i in range(3000)}}
    ],
    "many tools": [{"properties": {f"p{i}": {"type": "string"} for i in range(300)}}] * 128,
}


def tools(schemas: list[dict[str, Any]]) -> list[Tool]:
    return [
        Tool(FunctionDefinition(f"f{i}", parameters={"type": "object", **schema}, strict=True))
        for i, schema in enumerate(schemas)
    ]


@pytest.mark.parametrize("schemas", TOO_LARGE.values(), ids=TOO_LARGE)
@pytest.mark.parametrize("name", FORMATS)
def test_tools_with_a_too_long_grammar_are_rejected(name: str, schemas: list[dict[str, Any]]) -> None:
    format: ToolFormat = FORMATS[name]
    offered = tools(schemas)
    tracemalloc.start()
    try:
        for build in (format.grammar, format.strict_grammar):
            with suppress(InvalidRequest):
                assert len(build(offered, parallel=True)) <= MAX_LENGTH + 1000
        assert tracemalloc.get_traced_memory()[1] < 64 * MAX_LENGTH, "peak memory must be limited"
    finally:
        tracemalloc.stop()


def test_the_error_names_the_field() -> None:
    with pytest.raises(InvalidRequest) as caught:
        FORMATS["hermes"].grammar(tools(TOO_LARGE["many tools"]), parallel=True)
    assert caught.value.param == "tools"


@pytest.mark.parametrize("name", FORMATS)
def test_sixty_tools_fit(name: str) -> None:
    kinds = [
        {"type": "string"},
        {"type": "integer"},
        {"enum": ["a", "b"]},
        {"type": "array", "items": {"type": "string"}},
    ]
    sixty = tools([{"properties": {f"argument_{i}": kinds[i % 4] for i in range(8)}}] * 60)
    assert len(FORMATS[name].grammar(sixty, parallel=True)) < MAX_LENGTH // 2


def test_resolving_types_of_large_definitions_is_fast() -> None:
    """Each reference visits a limited part of the definition."""
    root = {
        "$defs": {
            "choices": {"anyOf": [{"type": "string"}, {"const": 1}, {}] * 10**5},
            "values": {"enum": ["a"] * 10**5},
        }
    }
    for _ in range(3000):
        assert schema.types({"$ref": "#/$defs/choices"}, root) is None
        assert schema.types({"$ref": "#/$defs/values"}, root) == frozenset({"string"})
    assert schema.types({"anyOf": [{"type": "string"}, {"const": 1}, {"enum": [None, []]}]}, root) == frozenset(
        ("string", "number", "null", "array")
    )
