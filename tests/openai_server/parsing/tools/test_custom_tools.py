"""Calls of custom tools, in every format: the grammar holds the input to its definition, and the reader returns it."""

import json

import pytest
from llguidance import LLMatcher

from anyserve_worker.guides.errors import explain, parts
from openai_server.core import guide_parts
from openai_server.core.errors import InvalidRequest
from openai_server.core.events import CallArguments, CallBegun, Content, Event
from openai_server.core.tools import CustomFormat, FunctionDefinition, Tool, custom_tool
from openai_server.parsing.choice_reader import AnswerFormat, ChoiceReader
from openai_server.parsing.tools.format import ToolFormat
from protos import contract
from tests.openai_server.parsing.answers import tool
from tests.openai_server.parsing.grammars import accepted, refused_at, tokenizer
from tests.openai_server.parsing.lark.test_nested import APPLY_PATCH, PATCH
from tests.openai_server.parsing.tools.cases import FORMATS
from tests.openai_server.parsing.tools.examples import EXAMPLES

pytestmark = pytest.mark.slow

RAW_FORMATS = frozenset({"qwen3-coder", "seed", "minimax-m2", "deepseek-v3.2", "deepseek-v4", "glm"})
NOW = tool("now", {})
PATCHES = custom_tool("patch", format=CustomFormat("lark", APPLY_PATCH))
DATES = custom_tool("patch", format=CustomFormat("regex", r"\d{4}-\d\d(\n\"[^/]\")?|x/"))
TEXTS = custom_tool("patch")

each_format = pytest.mark.parametrize("name", EXAMPLES)


def call(name: str, input: str) -> str:
    written = input if name in RAW_FORMATS else json.dumps(input, ensure_ascii=False)[1:-1]
    example = EXAMPLES[name].single.replace("get_weather", "patch").replace("city", "input")
    return example.replace("Paris", written)


def events(tool_format: ToolFormat, text: str) -> list[Event]:
    format = AnswerFormat(lambda: tool_format.parser([PATCHES, NOW]), lambda: "id", custom_tools=frozenset({"patch"}))
    reader = ChoiceReader(format)
    if tool_format.name == "functionary-v3.2":
        reader.read(">>>")  # end of the prompt
    return [*(event for character in text for event in reader.read(character)), *reader.read("", ended=True)]


def read(tool_format: ToolFormat, text: str) -> str:
    first, *rest = events(tool_format, text)
    assert isinstance(first, CallBegun)
    assert (first.name, first.custom) == ("patch", True)
    assert all(isinstance(event, CallArguments) and event.custom for event in rest)
    return "".join(event.text for event in rest if isinstance(event, CallArguments))


def grammars(name: str, custom: Tool) -> list[str]:
    tool_format = FORMATS[name]
    return [
        tool_format.grammar([NOW, custom], parallel=True),
        tool_format.grammar([NOW, custom], parallel=False, function_name="patch"),
        tool_format.strict_grammar([custom, NOW]),
        tool_format.guided_grammar([NOW, custom], body="/a|b/", parallel=True),
    ]


@each_format
@pytest.mark.parametrize(
    ("custom", "inputs"),
    [(PATCHES, [PATCH, PATCH[:-1]]), (DATES, ['2026-11\n"\\"', "x/", "2026-11"]), (TEXTS, ["", "a\n", '\n"<b>\\n\t'])],
)
def test_an_input_is_accepted_and_read(name: str, custom: Tool, inputs: list[str]) -> None:
    for grammar in grammars(name, custom):
        for input in inputs:
            text = call(name, input)
            assert accepted(grammar, text), (refused_at(grammar, text), text)
            assert read(FORMATS[name], text) == input


@each_format
@pytest.mark.parametrize(
    ("custom", "inputs"),
    [(PATCHES, ["hello", PATCH.replace("@@ ", "@@"), PATCH + "x"]), (DATES, ["", "2026-1", "12026-11", "x"])],
)
def test_no_other_input_is_accepted(name: str, custom: Tool, inputs: list[str]) -> None:
    for grammar in grammars(name, custom):
        for input in inputs:
            assert not accepted(grammar, call(name, input)), input


@each_format
def test_an_input_of_a_tool_with_best_effort_is_any_text(name: str) -> None:
    for custom in (PATCHES, DATES):
        lenient = Tool(replace_strict(custom.function), custom.custom)
        for grammar in grammars(name, lenient):
            assert accepted(grammar, call(name, "hello"))


def replace_strict(function: FunctionDefinition) -> FunctionDefinition:
    return FunctionDefinition(function.name, function.description, function.parameters, strict=False)


@each_format
@pytest.mark.parametrize("syntax", ["lark", "regex"])
def test_an_error_in_a_definition_names_the_tool(name: str, syntax: str) -> None:
    definition = {"lark": "start: T /b/\nT: /a{3,2}/\n", "regex": "a{3,2}"}[syntax]
    bad = Tool(FunctionDefinition("bad", parameters=PATCHES.function.parameters, strict=True), None)
    bad.custom = CustomFormat(syntax, definition)  # type: ignore[arg-type]
    part = guide_parts.of_function("bad")
    for tools in ([bad, NOW], [NOW, PATCHES, bad]):
        grammar = FORMATS[name].strict_grammar(tools)
        error = LLMatcher(tokenizer(), LLMatcher.grammar_from_lark(grammar), log_level=0).get_error()
        reason, found = explain(contract.LARK.name, grammar, error)
        assert found == part, error
        assert reason.startswith("invalid regular expression"), reason
        alone = dict(parts(contract.LARK.name, grammar))[part]
        assert LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(alone))


@each_format
@pytest.mark.parametrize("format", [CustomFormat("lark", "start: <|eos|>"), CustomFormat("regex", "a\\")])
def test_a_definition_that_cannot_be_enforced_is_refused(name: str, format: CustomFormat) -> None:
    with pytest.raises(InvalidRequest, match="'bad' can't be enforced: ") as caught:
        FORMATS[name].grammar([custom_tool("bad", format=format)], parallel=True)
    assert caught.value.param == guide_parts.of_function("bad")


def test_an_answer_without_a_call_is_content() -> None:
    assert events(FORMATS["hermes"], "Hello.")[0] == Content("H")
