"""Grammars, compiled by llguidance, accept exactly the texts that the parsers understand."""

import json
import random
from functools import partial
from typing import Any

import msgspec
import pytest

from openai_server.core.tools import Tool
from openai_server.parsing.reasoning import ReasoningTags
from openai_server.parsing.tools.format import ToolFormat
from openai_server.parsing.tools.glm import GLM
from openai_server.parsing.tools.grammar import Rules, is_control, literal, marker
from openai_server.parsing.tools.harmony import HARMONY
from openai_server.parsing.tools.python_calls import LFM2
from openai_server.parsing.tools.tagged import HERMES
from openai_server.parsing.tools.xml_calls import QWEN3_CODER
from tests.openai_server.parsing.answers import Answer, Call, answer, tool
from tests.openai_server.parsing.grammars import accepted, random_text, refused_at, tokens
from tests.openai_server.parsing.tools.cases import FORMATS
from tests.openai_server.parsing.tools.examples import EXAMPLES, SINGLE_CALL_FORMATS

pytestmark = pytest.mark.slow

WEATHER = tool("get_weather", {"city": {"type": "string"}, "days": {"type": "integer"}}, "city", strict=True)
NOW = tool("now", {})
PICK = tool("pick", {"one": {"enum": ["a", "b"]}, "numbers": {"type": "array", "items": {"type": "integer"}}})
TOOLS = [WEATHER, NOW, PICK]
THINK, CONTROL_THINK = ReasoningTags("<think>", "</think>"), ReasoningTags("[THINK]", "[/THINK]")

each_format = pytest.mark.parametrize("name", EXAMPLES)


def parse(tool_format: ToolFormat, text: str, tools: list[Tool] = TOOLS) -> Answer:
    parser = tool_format.parser(tools)
    if tool_format.name == "functionary-v3.2":
        parser.push(">>>")  # end of the prompt
    return answer(parser, [text])


def test_every_format_is_tested() -> None:
    assert set(EXAMPLES) == set(FORMATS)


# ---- Required calls


@each_format
def test_a_grammar_accepts_calls_that_the_parser_understands(name: str) -> None:
    grammar = FORMATS[name].grammar(TOOLS, parallel=True)
    assert accepted(grammar, EXAMPLES[name].single)
    assert parse(FORMATS[name], EXAMPLES[name].single).calls[0].arguments == '{"city": "Paris"}'
    if name not in SINGLE_CALL_FORMATS:
        assert accepted(grammar, EXAMPLES[name].both)
        calls = parse(FORMATS[name], EXAMPLES[name].both)
        assert calls.content == ""
        assert [call.name for call in calls.calls] == ["get_weather", "now"]
        assert not accepted(FORMATS[name].grammar(TOOLS, parallel=False), EXAMPLES[name].both)
    assert accepted(FORMATS[name].grammar(TOOLS, parallel=False), EXAMPLES[name].single)
    if name not in ("functionary-v3.2", "harmony"):
        assert accepted(FORMATS[name].grammar(TOOLS, parallel=False), "\n\n" + EXAMPLES[name].single)


@each_format
def test_a_grammar_rejects_other_texts(name: str) -> None:
    grammar = FORMATS[name].grammar(TOOLS, parallel=True)
    text = EXAMPLES[name].single
    for wrong in ("", "Hello.", "\n" * 20, text + "\nHello.", text[:-1]):
        assert not accepted(grammar, wrong), wrong
    for wrong in (text.replace("get_weather", "get_rain"), text.replace("city", "town")):
        assert refused_at(grammar, wrong) is not None


@each_format
def test_a_grammar_accepts_only_the_named_function(name: str) -> None:
    example = EXAMPLES[name]
    now = example.before + example.second + example.after
    if name not in SINGLE_CALL_FORMATS:
        assert accepted(FORMATS[name].grammar(TOOLS, parallel=False, function_name="now"), now)
        assert not accepted(FORMATS[name].grammar(TOOLS, parallel=False, function_name="get_weather"), now)
    assert accepted(FORMATS[name].grammar(TOOLS, parallel=False, function_name="get_weather"), example.single)
    assert not accepted(FORMATS[name].grammar(TOOLS, parallel=False, function_name="now"), example.single)


@each_format
def test_random_accepted_texts_are_calls_with_valid_arguments(name: str) -> None:
    rng = random.Random(1)
    for parallel in [False, True] * 2:
        text = random_text(FORMATS[name].grammar(TOOLS, parallel=parallel), rng)
        parsed = parse(FORMATS[name], text)
        assert parsed.content == "", text
        assert parsed.calls, text
        assert parallel or len(parsed.calls) == 1, text
        for call in parsed.calls:
            check(call)


def check(call: Call) -> None:
    """Checks a call against the schemas of TOOLS."""
    arguments = json.loads(call.arguments)
    allowed: dict[str, Any] = {
        "get_weather": {"city": str, "days": int},
        "now": None,
        "pick": {"one": str, "numbers": list},
    }
    kinds = allowed[call.name]
    assert isinstance(arguments, dict)
    if kinds is not None:
        assert all(isinstance(value, kinds[key]) for key, value in arguments.items())
        assert call.name != "get_weather" or "city" in arguments
        assert arguments.get("one", "a") in ("a", "b")


# ---- Optional calls


@each_format
def test_a_strict_grammar_accepts_free_text_and_calls(name: str) -> None:
    tool_format, example = FORMATS[name], EXAMPLES[name]
    grammar = tool_format.strict_grammar(TOOLS)
    before = {"functionary-v3.2": "all\n", "harmony": "<|channel|>final<|message|>"}.get(name, "")
    assert accepted(grammar, before + "Hello <b>world</b> [1] (2) `{}` Action: >> <|\n\n")
    assert accepted(grammar, example.single)
    if name not in SINGLE_CALL_FORMATS:
        assert accepted(grammar, example.both)
        assert not accepted(tool_format.strict_grammar(TOOLS, parallel=False), example.both)
    if name not in {"llama-json", "llama-pythonic", "harmony", "functionary-v3.2", "command-r7b", "cohere2"}:
        assert accepted(grammar, "Let me see.\n" + example.single)
    for wrong in ("get_rain", "town", "oops"):
        text = (
            example.single.replace("get_weather", wrong) if wrong != "town" else example.single.replace("city", wrong)
        )
        assert refused_at(grammar, text) is not None


@each_format
def test_free_text_cannot_begin_an_invalid_call(name: str) -> None:
    """Neither with a control token nor with its text."""
    tool_format = FORMATS[name]
    grammar = tool_format.strict_grammar(TOOLS)
    for begin in tool_format.markers:
        for control in (True, False):
            ids = tokens(f"Well, {begin}<oops>", control=control)
            assert refused_at(grammar, ids) is not None


@each_format
def test_free_text_may_have_many_incomplete_markers(name: str) -> None:
    """llguidance would fail if the states of its lexer multiplied."""
    tool_format = FORMATS[name]
    markers = (*tool_format.markers, *tool_format.ignored_markers)
    beginnings = [text[:end] + " " for text in markers for end in range(1, len(text))]
    begin = {"functionary-v3.2": "all\n", "harmony": "<|channel|>final<|message|>"}.get(name, "Well, ")
    text = begin + "".join(random.Random(3).choices(beginnings, k=500))
    assert refused_at(tool_format.strict_grammar(TOOLS, thoughts=THINK), text) is None


def test_the_end_of_free_text_must_be_a_control_token() -> None:
    """A parser can't tell the text of a control token from the token."""
    final = "<|channel|>final<|message|>"
    for text in ("<|end|>", "<|start|>assistant to=functions.now<|message|>{}", "<|channel|>"):
        assert not accepted(HARMONY.strict_grammar(TOOLS), tokens(final) + tokens(text, control=False))
    grammar = FORMATS["mistral"].strict_grammar(TOOLS, thoughts=CONTROL_THINK, thinking=True)
    assert not accepted(grammar, tokens("[/THINK]", control=False) + tokens("[/THINK]"))


@each_format
def test_random_calls_in_free_text_have_valid_arguments(name: str) -> None:
    rng = random.Random(2)
    grammar = FORMATS[name].strict_grammar(TOOLS)
    for begin in [EXAMPLES[name].before, ""] * 2:
        for call in parse(FORMATS[name], random_text(grammar, rng, begin)).calls:
            check(call)


# ---- Reasoning before calls


@pytest.mark.parametrize("thoughts", [THINK, CONTROL_THINK], ids=["text", "control"])
@pytest.mark.parametrize("name", ["hermes", "mistral", "llama-json", "command-r7b", "glm"])
def test_reasoning_is_accepted_before_a_call(name: str, thoughts: ReasoningTags) -> None:
    tool_format, call = FORMATS[name], EXAMPLES[name].single
    reasoning = f"{thoughts.begin}\nI may call.\n{thoughts.end}\n\n"
    inside = reasoning.removeprefix(thoughts.begin)
    for make in (partial(tool_format.grammar, parallel=False), tool_format.strict_grammar):
        outside = make(TOOLS, thoughts=thoughts, thinking=False)
        for space in ("", "\n"):
            assert accepted(outside, space + reasoning + call)
            assert accepted(outside, space + call)
        within = make(TOOLS, thoughts=thoughts, thinking=True)
        assert accepted(within, inside + call)
        assert not accepted(within, "I may" + call)
    if not is_control(tool_format.markers[0]):
        # inside reasoning, a marker is text
        thought = f"{thoughts.begin}{tool_format.markers[0]}oops{thoughts.end}"
        assert accepted(tool_format.strict_grammar(TOOLS, thoughts=thoughts), thought + call)


def test_harmony_accepts_analysis_before_a_call() -> None:
    thought = "<|channel|>analysis<|message|>I may call.<|end|><|start|>assistant"
    assert accepted(HARMONY.grammar(TOOLS, parallel=False), thought + EXAMPLES["harmony"].single)
    assert accepted(HARMONY.strict_grammar(TOOLS), thought + EXAMPLES["harmony"].single)
    assert accepted(HARMONY.grammar(TOOLS, parallel=False), " to=functions.now<|channel|>commentary json<|message|>{}")
    assert not accepted(HARMONY.grammar(TOOLS, parallel=False), thought + "<|channel|>final<|message|>Hello.")
    assert accepted(HARMONY.strict_grammar(TOOLS), thought + "<|channel|>final<|message|>Hello.")


# ---- Schemas


def hermes(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


NO_PARAMETERS: list[dict[str, Any] | None] = [
    None,
    {},
    {"type": "object"},
    {"type": None},
    {"properties": {}},
    {"type": "object", "properties": None, "required": None, "additionalProperties": None},
    {"type": "object", "properties": {}, "required": []},
    {"type": "object", "properties": {}, "additionalProperties": False},
    {"type": "object", "patternProperties": {}, "minProperties": 0, "maxProperties": 0},
    {"type": "object", "unevaluatedProperties": False, "allOf": []},
    {"$schema": "s", "type": "object", "title": "No", "description": "d", "$defs": {"a": {"type": "string"}}},
]
ANY_PARAMETERS: list[dict[str, Any]] = [
    {"type": "object", "additionalProperties": True},
    {"type": "object", "additionalProperties": {}},
    {"type": "object", "properties": {}, "additionalProperties": {"type": "string"}},
    {"type": "object", "patternProperties": {"^a": {"type": "string"}}},
    {"type": "object", "required": ["a"]},
    {"type": "object", "minProperties": 1},
    {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "properties": {"a": {"type": "string"}}}}},
    {"anyOf": [{"type": "object", "properties": {"a": {"type": "string"}}}]},
    {"allOf": [{"type": "object", "properties": {"a": {"type": "string"}}}]},
]


def with_parameters(parameters: dict[str, Any] | None, *, strict: bool | None = None) -> Tool:
    now = tool("now", strict=strict)
    now.function.parameters = parameters
    return now


@each_format
def test_a_tool_without_parameters_gets_no_arguments(name: str) -> None:
    rng, tool_format = random.Random(4), FORMATS[name]
    for parameters in (None, {"type": "object", "properties": {}}):
        now = with_parameters(parameters)
        grammar = tool_format.grammar([now], parallel=False)
        for _ in range(3):
            assert [call.arguments for call in parse(tool_format, random_text(grammar, rng), [now]).calls] == ["{}"]


@pytest.mark.parametrize("parameters", NO_PARAMETERS)
@pytest.mark.parametrize("strict", [None, True])
def test_schemas_without_parameters_allow_no_arguments(parameters: dict[str, Any] | None, strict: bool | None) -> None:
    now = with_parameters(parameters, strict=strict)
    for grammar in (HERMES.grammar([now], parallel=False), HERMES.strict_grammar([now])):
        assert accepted(grammar, hermes("now", "{}"))
        assert not accepted(grammar, hermes("now", '{"argument": "value"}'))
    text = "<tool_call>\n<function=now>\n</function>\n</tool_call>"
    assert accepted(QWEN3_CODER.grammar([now], parallel=False), text)
    argument = "<parameter=argument>\nvalue\n</parameter>\n"
    assert not accepted(QWEN3_CODER.grammar([now], parallel=False), text.replace("</f", f"{argument}</f"))


@pytest.mark.parametrize("parameters", ANY_PARAMETERS)
@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("hermes", '{"a": "b"}'),
        ("qwen3-coder", "\n<parameter=a>\nb\n</parameter>\n"),
        ("glm", "<arg_key>a</arg_key>\n<arg_value>b</arg_value>\n"),
        ("lfm2", 'a="b"'),
    ],
)
def test_schemas_without_named_parameters_may_allow_arguments(
    name: str, argument: str, parameters: dict[str, Any]
) -> None:
    tool_format, now = FORMATS[name], with_parameters(parameters)
    text = {
        "hermes": hermes("now", argument),
        "qwen3-coder": f"<tool_call>\n<function=now>{argument}</function>\n</tool_call>",
        "glm": f"<tool_call>now\n{argument}</tool_call>",
        "lfm2": f"<|tool_call_start|>[now({argument})]<|tool_call_end|>",
    }[name]
    assert accepted(tool_format.grammar([now], parallel=False), text)
    assert json.loads(parse(tool_format, text, [now]).calls[0].arguments) == {"a": "b"}


def test_arguments_must_be_an_object() -> None:
    grammar = HERMES.grammar([with_parameters({"additionalProperties": True})], parallel=False)
    for arguments in ("{}", '{"a": [1, {"b": null}]}'):
        assert accepted(grammar, hermes("now", arguments))
    for arguments in ("[]", '"a"', "null"):
        assert not accepted(grammar, hermes("now", arguments))


def test_whitespace_in_json_is_that_of_the_templates() -> None:
    grammar = HERMES.grammar([PICK], parallel=False)
    assert accepted(grammar, hermes("pick", '{"one": "a", "numbers": [1, 2]}'))
    for arguments in ('{"one":"a"}', '{ "one": "a"}', '{"one": "a",\n"numbers": []}', '{"numbers": [1,2]}'):
        assert not accepted(grammar, hermes("pick", arguments))


def test_unnamed_arguments_need_additional_properties() -> None:
    closed = tool("f", {"a": {"type": "integer"}})
    assert not accepted(HERMES.grammar([closed], parallel=False), hermes("f", '{"b": 1}'))
    opened = msgspec.structs.replace(closed)
    opened.function.parameters = {**(closed.function.parameters or {}), "additionalProperties": True}
    assert accepted(HERMES.grammar([opened], parallel=False), hermes("f", '{"b": 1}'))


PLACE = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}


def call_at(name: str, value: str) -> str:
    """Returns a call with the argument `at`."""
    return {
        "hermes": hermes("f", f'{{"at": {value}}}'),
        "qwen3-coder": f"<tool_call>\n<function=f>\n<parameter=at>\n{value}\n</parameter>\n</function>\n</tool_call>",
        "glm": f"<tool_call>f\n<arg_key>at</arg_key>\n<arg_value>{value}</arg_value>\n</tool_call>",
        "lfm2": f"<|tool_call_start|>[f(at={value})]<|tool_call_end|>",
    }[name]


@pytest.mark.parametrize("name", ["hermes", "qwen3-coder", "glm", "lfm2"])
@pytest.mark.parametrize(
    ("at", "more", "closed"),
    [
        (PLACE, {}, True),
        ({"$ref": "#/$defs/place"}, {"$defs": {"place": PLACE}}, True),
        ({"$ref": "#/properties/from"}, {"properties": {"from": PLACE}}, True),
        ({**PLACE, "additionalProperties": True}, {}, False),
        ({**PLACE, "required": ["x", "y"]}, {}, False),
        (PLACE, {"allOf": [{"properties": {"at": {"required": ["y"]}}}]}, False),
    ],
)
def test_unnamed_members_are_rejected_if_their_object_is_closed(
    name: str, at: dict[str, Any], more: dict[str, Any], closed: bool
) -> None:
    function = tool("f")
    function.function.parameters = {"type": "object", **more, "properties": {"at": at, **more.get("properties", {})}}
    grammar = FORMATS[name].grammar([function], parallel=False)
    assert accepted(grammar, call_at(name, '{"x": 1, "y": 2}')) is not closed
    if closed:
        assert accepted(grammar, call_at(name, '{"x": 1}'))


def test_a_required_argument_may_have_no_schema() -> None:
    function = tool("f", {"a": {"type": "integer"}}, "a", "b")
    grammar = HERMES.grammar([function], parallel=False)
    assert accepted(grammar, hermes("f", '{"a": 1, "b": 2}'))
    assert not accepted(grammar, hermes("f", '{"a": 1}'))


def test_references_of_schemas_are_resolved() -> None:
    parameters = {
        "type": "object",
        "properties": {"at": {"$ref": "#/$defs/place"}, "text": {"$ref": "#/$defs/word"}},
        "required": ["at"],
        "$defs": {
            "place": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
            "word": {"type": "string"},
        },
    }
    referring = tool("f")
    referring.function.parameters = parameters
    assert accepted(HERMES.grammar([referring], parallel=False), hermes("f", '{"at": {"x": 1}}'))
    grammar = QWEN3_CODER.grammar([referring], parallel=False)
    text = (
        "<tool_call>\n<function=f>\n<parameter=at>\n{}\n</parameter>\n<parameter=text>\n7\n</parameter>\n</function>\n"
        "</tool_call>"
    )
    assert accepted(grammar, text.replace("{}", '{"x": 1}'))
    assert not accepted(grammar, text)
    assert parse(QWEN3_CODER, text, [referring]).calls == [Call("f", '{"at": {}, "text": "7"}')]


def test_a_strict_schema_is_enforced_or_rejected() -> None:
    schema: dict[str, Any] = {"a": {"type": "string", "format": "no-such-format"}}
    assert accepted(HERMES.grammar([tool("f", schema)], parallel=False), hermes("f", '{"a": "b"}'))
    with pytest.raises(AssertionError, match="no-such-format"):
        accepted(HERMES.grammar([tool("f", schema, strict=True)], parallel=False), "")


def test_special_characters_in_schemas_are_escaped() -> None:
    schema: dict[str, Any] = {'"} | /.*/ #\n': {"enum": ['a" | /.*/', "\x7f\\"]}, "x-guidance": {"type": "string"}}
    for tool_format in (HERMES, QWEN3_CODER):
        grammar = tool_format.grammar([tool("f", schema)], parallel=False)
        assert not accepted(grammar, "anything")
    grammar = HERMES.grammar([tool("f", schema)], parallel=False)
    assert accepted(grammar, hermes("f", json.dumps({'"} | /.*/ #\n': 'a" | /.*/'})))


def test_strings_in_xml_follow_the_schema() -> None:
    grammar = QWEN3_CODER.grammar([PICK], parallel=False)
    text = "<tool_call>\n<function=pick>\n<parameter=one>\n{}\n</parameter>\n</function>\n</tool_call>"
    assert accepted(grammar, text.replace("{}", "a"))
    assert not accepted(grammar, text.replace("{}", "c"))


@pytest.mark.parametrize(
    ("items", "texts"),
    [
        ([], {""}),
        ([("a", True)], {"a"}),
        ([("a", False)], {"", "a"}),
        ([("a", True), ("b", False), ("c", False)], {"a", "a,b", "a,c", "a,b,c"}),
        ([("a", False), ("b", True), ("c", False)], {"b", "a,b", "b,c", "a,b,c"}),
        ([("a", False), ("b", False)], {"", "a", "b", "a,b"}),
    ],
)
def test_a_sequence_has_all_combinations_of_optional_items(items: list[tuple[str, bool]], texts: set[str]) -> None:
    rules = Rules()
    sequence = rules.sequence([(literal(text), required) for text, required in items], ",")
    grammar = rules.text(f'"(" {sequence} ")"')
    letters = [text for text, _ in items]
    tried = (
        {
            ",".join(x for x, bit in zip(letters, f"{bits:0{len(letters)}b}", strict=True) if bit == "1")
            for bits in range(2 ** len(letters))
        }
        if letters
        else {""}
    )
    assert {text for text in tried | {"b,a", "a,", ",a", "a,a"} if accepted(grammar, f"({text})")} == texts


@pytest.mark.parametrize("line", ["", "\n"])
def test_line_breaks_of_glm_are_optional(line: str) -> None:
    text = f"{line}<tool_call>now{line}</tool_call>{line}<tool_call>pick{line}<arg_key>one</arg_key>{line}"
    text += (
        f"<arg_value>a</arg_value>{line}<arg_key>numbers</arg_key>{line}<arg_value>[1]</arg_value>{line}</tool_call>"
    )
    assert accepted(GLM.grammar(TOOLS, parallel=True), text)
    assert not accepted(GLM.grammar(TOOLS, parallel=True), text.replace("now", "now\n\n"))


def test_arguments_of_python_calls_are_optional() -> None:
    grammar = LFM2.grammar([PICK], parallel=False)
    for arguments in ("", 'one="a"', "numbers=[1, 2]", 'one="b", numbers=[]'):
        assert accepted(grammar, f"<|tool_call_start|>[pick({arguments})]<|tool_call_end|>")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<tool_call>", '"<tool_call>"'),
        ("<|python_tag|>", "<|python_tag|>"),
        ("<｜tool▁sep｜>", "<｜tool▁sep｜>"),
        ("[TOOL_CALLS]", "<|[TOOL_CALLS]|>"),
        ("[/THINK]", "<|[/THINK]|>"),
        ("[BEGIN FINAL RESPONSE]", '"[BEGIN FINAL RESPONSE]"'),
        ("a\n\"'\\\x7f\x01é", '"a\\n\\"\'\\\\\\x7f\\u0001é"'),
    ],
)
def test_markers_are_control_tokens_or_escaped_texts(text: str, expected: str) -> None:
    assert marker(text) == expected
