"""Calls that are cut off: at every character, in every format and with every template, cut into pieces in every way."""

import random
from collections.abc import Callable

import pytest

from openai_server.parsing.answer_format import parser_for, thoughts_of
from openai_server.parsing.parser import CallsOnly, Parser
from openai_server.parsing.tools.format import ToolFormat
from openai_server.parsing.tools.formats import format_of
from tests.openai_server.parsing.answers import Answer, Call, answer
from tests.openai_server.parsing.tools.cases import CASES, FORMATS, TOOLS
from tests.openai_server.parsing.tools.written import ONE_AT_A_TIME, WRITTEN
from tests.templates import template_paths

each_format = pytest.mark.parametrize("name", WRITTEN)
OPENERS = {
    "llama-json": '{"name": "',
    "llama-pythonic": "[g",
    "functionary-v3.2": "",  # is in the prompt
    "harmony": "<|channel|>",
}
"""What opens a call for certain; in all other formats, their first marker."""


def text_of(name: str) -> str:
    return WRITTEN[name].one if name in ONE_AT_A_TIME else WRITTEN[name].both


def opener_of(name: str) -> str:
    return OPENERS.get(name, FORMATS[name].section or FORMATS[name].markers[0])


def parser_of(tool_format: ToolFormat) -> Parser:
    made = tool_format.parser(TOOLS)
    if tool_format.name == "functionary-v3.2":
        made.push(">>>")
    return made


def read(make: Callable[[], Parser], text: str, chance: random.Random) -> Answer:
    """However the text comes."""
    whole = answer(make(), [text])
    at = sorted(chance.randrange(len(text) + 1) for _ in range(3))
    for pieces in (list(text), [text[i:j] for i, j in zip([0, *at], [*at, len(text)], strict=True)]):
        assert answer(make(), pieces) == whole, pieces
    return whole


def check_calls(found: list[Call], whole: list[Call]) -> None:
    """That they are the beginning of those of the whole text."""
    assert len(found) <= len(whole)
    for call, expected in zip(found, whole, strict=False):
        assert call.name == expected.name
        assert expected.arguments.startswith(call.arguments), call.arguments
        assert call.id in (expected.id, None)
    assert [call.arguments for call in found[:-1]] == [call.arguments for call in whole[: len(found)][:-1]]


@each_format
def test_of_a_call_nothing_is_content_wherever_it_is_cut(name: str) -> None:
    chance, text, opener = random.Random(5), text_of(name), opener_of(name)
    opened = text.index(opener) + len(opener)
    whole = answer(parser_of(FORMATS[name]), [text])
    n_calls = 0
    for end in range(len(text) + 1):
        found = read(lambda: parser_of(FORMATS[name]), text[:end], chance)
        assert found.content == (text[:end] if end < opened else ""), text[:end]
        check_calls(found.calls, whole.calls)
        assert len(found.calls) >= n_calls
        n_calls = len(found.calls)
        assert n_calls >= 1 or end <= text.index("Paris")
        must = read(lambda: CallsOnly(parser_of(FORMATS[name])), text[:end], chance)
        assert must == Answer("", found.calls)


@pytest.mark.parametrize("name", sorted(WRITTEN.keys() - OPENERS.keys()))  # those that may have text before a call
def test_text_before_a_call_that_is_cut(name: str) -> None:
    chance, text, opener = random.Random(6), text_of(name), opener_of(name)
    for end in range(len(text) + 1):
        found = read(lambda: parser_of(FORMATS[name]), f"I look < up.\n\n{text[:end]}", chance)
        begun = f"\n\n{text[:end]}" if end < len(opener) else ""
        assert found.content == f"I look < up.{begun}"


@each_format
def test_a_call_begins_once_its_name_is_complete(name: str) -> None:
    text = text_of(name)
    first = text.index("get_weather") + len("get_weather")
    behind = {"deepseek-v3.1": "<｜tool▁sep｜>", "kimi": ":0<|tool_call_argument_begin|>"}
    end = first + len(behind.get(name, '">' if text.startswith('">', first) else "("))
    assert answer(parser_of(FORMATS[name]), [text[: first - 1]]).calls == []
    (call,) = answer(parser_of(FORMATS[name]), [text[:end]]).calls
    assert (call.name, call.arguments) == ("get_weather", "")


@pytest.mark.parametrize(("tool_format", "text", "expected"), CASES, ids=lambda x: getattr(x, "name", None))
def test_cut_anywhere_however_models_write(tool_format: ToolFormat, text: str, expected: Answer) -> None:
    chance = random.Random(7)
    for end in range(len(text)):
        found = read(lambda: tool_format.parser(TOOLS), text[:end], chance)
        if expected.calls or [call.arguments for call in found.calls] != [""]:  # else it was none in the end
            check_calls(found.calls, expected.calls)
        assert expected.reasoning.startswith(found.reasoning.partition("<")[0])
        must = read(lambda: CallsOnly(tool_format.parser(TOOLS)), text[:end], chance)
        assert must == Answer("", found.calls, found.reasoning)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("template", template_paths())
def test_with_every_template(template: str, inside: bool) -> None:
    source = template_paths()[template].read_text()
    name, thoughts = format_of(source).name, thoughts_of(source)
    text, prompt = text_of(name), ">>>" if name == "functionary-v3.2" else "prompt"
    if thoughts:
        prompt = f"prompt{thoughts.begin}\n" if inside else prompt
        text = f"{'' if inside else thoughts.begin}\nI think.\n{thoughts.end}\n\n{text}"
    for end in range(len(text) + 1):
        found = answer(parser_for(source, prompt, TOOLS, must_call=True), [text[:end]])
        assert found.content == ""
        assert answer(parser_for(source, prompt, TOOLS, must_call=True), text[:end]) == found
        free = answer(parser_for(source, prompt, TOOLS), [text[:end]])
        assert (free.calls, free.reasoning) == (found.calls, found.reasoning)
        assert text[:end].endswith(free.content)
        assert free.content == "" or end < text.index("get_weather")
