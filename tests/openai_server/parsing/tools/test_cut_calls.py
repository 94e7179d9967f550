"""Incomplete calls: cut at every character, in every format and template, and split into pieces in every way."""

import random
from collections.abc import Callable

import pytest

from openai_server.parsing.answer_format import parser_for, thoughts_of
from openai_server.parsing.parser import CallsOnly, Parser
from openai_server.parsing.tools.format import ToolFormat
from openai_server.parsing.tools.formats import format_of
from tests.openai_server.parsing.answers import Answer, Call, answer
from tests.openai_server.parsing.tools.cases import FORMATS, TOOLS, each_case
from tests.openai_server.parsing.tools.examples import EXAMPLES, SINGLE_CALL_FORMATS
from tests.templates import template_paths

pytestmark = pytest.mark.slow

each_format = pytest.mark.parametrize("name", EXAMPLES)
OPENERS = {
    "llama-json": '{"name": "',
    "llama-pythonic": "[g",
    "functionary-v3.2": "",  # the opener is in the prompt
    "harmony": "<|channel|>",
}
"""Text that opens a call, by format; all other formats open calls with their first marker."""


def text_of(name: str) -> str:
    return EXAMPLES[name].single if name in SINGLE_CALL_FORMATS else EXAMPLES[name].both


def opener_of(name: str) -> str:
    return OPENERS.get(name, FORMATS[name].section or FORMATS[name].markers[0])


def parser_of(tool_format: ToolFormat) -> Parser:
    parser = tool_format.parser(TOOLS)
    if tool_format.name == "functionary-v3.2":
        parser.push(">>>")
    return parser


def parse(new_parser: Callable[[], Parser], text: str, rng: random.Random) -> Answer:
    """Parses the text; checks that the result is the same in other pieces."""
    whole = answer(new_parser(), [text])
    places = sorted(rng.randrange(len(text) + 1) for _ in range(3))
    for pieces in (list(text), [text[i:j] for i, j in zip([0, *places], [*places, len(text)], strict=True)]):
        assert answer(new_parser(), pieces) == whole, pieces
    return whole


def check_calls(partial: list[Call], whole: list[Call]) -> None:
    """Checks that the calls are the beginning of those of the whole text."""
    assert len(partial) <= len(whole)
    for call, expected in zip(partial, whole, strict=False):
        assert call.name == expected.name
        assert expected.arguments.startswith(call.arguments), call.arguments
        assert call.id in (expected.id, None)
    assert [call.arguments for call in partial[:-1]] == [call.arguments for call in whole[: len(partial)][:-1]]


@each_format
def test_no_part_of_an_incomplete_call_is_content(name: str) -> None:
    rng, text, opener = random.Random(5), text_of(name), opener_of(name)
    opened = text.index(opener) + len(opener)
    whole = answer(parser_of(FORMATS[name]), [text])
    n_calls = 0
    for end in range(len(text) + 1):
        partial = parse(lambda: parser_of(FORMATS[name]), text[:end], rng)
        assert partial.content == (text[:end] if end < opened else ""), text[:end]
        check_calls(partial.calls, whole.calls)
        assert len(partial.calls) >= n_calls
        n_calls = len(partial.calls)
        assert n_calls >= 1 or end <= text.index("Paris")
        calls_only = parse(lambda: CallsOnly(parser_of(FORMATS[name])), text[:end], rng)
        assert calls_only == Answer("", partial.calls)


@pytest.mark.parametrize("name", sorted(EXAMPLES.keys() - OPENERS.keys()))  # formats that allow text before a call
def test_text_before_an_incomplete_call_is_content(name: str) -> None:
    rng, text, opener = random.Random(6), text_of(name), opener_of(name)
    for end in range(len(text) + 1):
        partial = parse(lambda: parser_of(FORMATS[name]), f"I look < up.\n\n{text[:end]}", rng)
        unfinished = f"\n\n{text[:end]}" if end < len(opener) else ""
        assert partial.content == f"I look < up.{unfinished}"


@each_format
def test_a_call_begins_when_its_name_is_complete(name: str) -> None:
    text = text_of(name)
    first = text.index("get_weather") + len("get_weather")
    separators = {"deepseek-v3.1": "<｜tool▁sep｜>", "kimi": ":0<|tool_call_argument_begin|>"}
    end = first + len(separators.get(name, '">' if text.startswith('">', first) else "("))
    assert answer(parser_of(FORMATS[name]), [text[: first - 1]]).calls == []
    (call,) = answer(parser_of(FORMATS[name]), [text[:end]]).calls
    assert (call.name, call.arguments) == ("get_weather", "")


@each_case
def test_incomplete_texts_of_all_cases_have_the_beginning_of_their_calls(
    tool_format: ToolFormat, text: str, expected: Answer
) -> None:
    rng = random.Random(7)
    for end in range(len(text)):
        partial = parse(lambda: tool_format.parser(TOOLS), text[:end], rng)
        # a call with empty arguments may turn out to be content
        if expected.calls or [call.arguments for call in partial.calls] != [""]:
            check_calls(partial.calls, expected.calls)
        assert expected.reasoning.startswith(partial.reasoning.partition("<")[0])
        calls_only = parse(lambda: CallsOnly(tool_format.parser(TOOLS)), text[:end], rng)
        assert calls_only == Answer("", partial.calls, partial.reasoning)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("template", template_paths())
def test_incomplete_calls_are_parsed_with_every_template(template: str, inside: bool) -> None:
    source = template_paths()[template].read_text()
    name, thoughts = format_of(source).name, thoughts_of(source)
    text, prompt = text_of(name), ">>>" if name == "functionary-v3.2" else "prompt"
    if thoughts:
        prompt = f"prompt{thoughts.begin}\n" if inside else prompt
        text = f"{'' if inside else thoughts.begin}\nI think.\n{thoughts.end}\n\n{text}"
    for end in range(len(text) + 1):
        partial = answer(parser_for(source, prompt, TOOLS, must_call=True), [text[:end]])
        assert partial.content == ""
        assert answer(parser_for(source, prompt, TOOLS, must_call=True), text[:end]) == partial
        free = answer(parser_for(source, prompt, TOOLS), [text[:end]])
        assert (free.calls, free.reasoning) == (partial.calls, partial.reasoning)
        assert text[:end].endswith(free.content)
        assert free.content == "" or end < text.index("get_weather")
