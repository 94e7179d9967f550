"""An error in a grammar is attributed to the tool or guide that caused it, in every format."""

import pytest
from llguidance import LLMatcher

from anyserve_worker.guides.errors import explain, parts
from openai_server.core import guide_parts
from openai_server.core.tools import FunctionDefinition, Tool
from protos import contract
from tests.openai_server.parsing.grammars import tokenizer
from tests.openai_server.parsing.tools.cases import FORMATS

LARK = contract.LARK.name
IMPOSSIBLE = {"type": "integer", "minimum": 5, "maximum": 3}


def tools(*schemas: object) -> list[Tool]:
    return [
        Tool(
            FunctionDefinition(f"f{i}", parameters={"type": "object", "properties": {"a": schema}, "required": ["a"]}),
        )
        for i, schema in enumerate(schemas)
    ]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("bad", [0, 1])
def test_an_error_names_the_tool_that_caused_it(name: str, bad: int) -> None:
    schemas = [{"type": "integer"}, {"type": "integer"}]
    schemas[bad] = IMPOSSIBLE  # type: ignore[assignment]
    for grammar in (
        FORMATS[name].grammar(tools(*schemas), parallel=True),
        FORMATS[name].strict_grammar(tools(*schemas)),
        FORMATS[name].guided_grammar(tools(*schemas), body="/a|b/", parallel=True),
    ):
        error = LLMatcher(tokenizer(), LLMatcher.grammar_from_lark(grammar), log_level=0).get_error()
        reason, part = explain(LARK, grammar, error)
        assert part == guide_parts.of_function(f"f{bad}"), error
        assert "nsatisfiable" in reason
        assert "json" not in reason
        assert {part for part, _ in parts(LARK, grammar)} >= {guide_parts.of_function(f"f{i}") for i in (0, 1)}


@pytest.mark.parametrize("name", FORMATS)
def test_an_error_in_the_guide_of_the_content_names_the_guide(name: str) -> None:
    grammar = FORMATS[name].guided_grammar(tools({"type": "integer"}), body="/a(/", parallel=True)
    error = LLMatcher(tokenizer(), LLMatcher.grammar_from_lark(grammar), log_level=0).get_error()
    assert explain(LARK, grammar, error) == (
        "invalid regular expression 'a(' (character 2): unclosed group",
        guide_parts.GUIDE,
    )
