"""Parsers of tool calls: texts split in every way, incomplete texts, and random texts."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from openai_server.core.events import CallArguments, CallBegun, Content, Event
from openai_server.parsing.parser import CallsOnly, Parser
from openai_server.parsing.tools.format import ToolFormat
from openai_server.parsing.tools.harmony import HARMONY
from openai_server.parsing.tools.tagged import HERMES
from openai_server.parsing.tools.xml_calls import QWEN3_CODER
from tests.examples import examples
from tests.openai_server.parsing.answers import Answer, answer, same_at_every_cut
from tests.openai_server.parsing.tools.cases import FORMATS, TOOLS, each_case


def parser(tool_format: ToolFormat) -> Parser:
    return tool_format.parser(TOOLS)


@each_case
def test_calls_are_parsed_the_same_at_every_cut(tool_format: ToolFormat, text: str, expected: Answer) -> None:
    assert same_at_every_cut(lambda: parser(tool_format), text) == expected
    for call in expected.calls:
        if call.arguments[0] != "{" or call.arguments[-1] == "}":  # otherwise the arguments are incomplete
            json.loads(call.arguments)


@pytest.mark.parametrize("length", [255, 256, 257, 258, 400])
def test_a_header_that_is_too_long_is_read_the_same_at_every_cut(length: int) -> None:
    parsed = same_at_every_cut(lambda: parser(HARMONY), "<|channel|>" + "x" * length)
    assert parsed.content == ("x" * length if length > 257 else "")  # until then it may be an incomplete header


@each_case
def test_incomplete_texts_emit_the_beginning_of_the_answer(
    tool_format: ToolFormat, text: str, expected: Answer
) -> None:
    """No event is taken back when more text arrives."""
    for end in range(len(text)):
        tool_parser = parser(tool_format)
        partial = _answer_of([event for character in text[:end] for event in tool_parser.push(character)])
        assert expected.content.startswith(partial.content)
        assert expected.reasoning.startswith(partial.reasoning)
        for call, whole in zip(partial.calls, expected.calls, strict=False):
            assert (call.name, call.id) == (whole.name, whole.id)
            assert whole.arguments.startswith(call.arguments)
        assert answer(parser(tool_format), text[:end]) == answer(parser(tool_format), [text[:end]])


def _answer_of(events: list[Event]) -> Answer:
    class FixedEvents:
        def push(self, text: str) -> list[Event]:
            return events

        def end(self) -> list[Event]:
            return []

    return answer(FixedEvents(), [""])


# ---- At random

_WORDS = ["q", " ", "\n", "{", "}", '"', ":", "[", "]", ",", "(", "=", ">", "get_weather", "now", "all\n", "q\n", "1"]
_PARTS = [
    *('{"name": "now", "arguments": {"a": "q"}}', '{"name": "q", ', '"arguments": {', '{"arguments": {"a": "q"}'),
    *("now(a='q')", '{"city": "q"}', "<tool", "</"),
]
_MARKERS = {
    "qwen3-coder": ["<function=", "<parameter=city>", "<parameter=q>", "</parameter>", "</function>", "</tool_call>"],
    "seed": ["<function=now>", "<parameter=city>", "</parameter>", "</function>", "</seed:tool_call>"],
    "minimax-m2": ['<invoke name="now">', '<parameter name="q">', "</parameter>", "</invoke>", "</minimax:tool_call>"],
    "glm": ["<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "</tool_call>"],
    "kimi": ["functions.q:0", "<|tool_call_argument_begin|>"],
    "mistral": ["[ARGS]"],
    "mistral-ids": ["[CALL_ID]", "[ARGS]"],
    "deepseek-v3": ["function<｜tool▁sep｜>", "\n```json\n", "```"],
    "deepseek-v3.1": ["<｜tool▁sep｜>"],
    "functionary-v3.1": ["now>", "</function>"],
    "hermes": ["</tool_call>"],
    "harmony": ["<|constrain|>", "assistant", "analysis", " to=functions.now", "<|end|>"],
}


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=examples(40))
@given(data=st.data())
def test_any_text_is_parsed_the_same_and_lost_only_inside_a_call(name: str, data: st.DataObject) -> None:
    tool_format = FORMATS[name]
    own = [*tool_format.markers, *tool_format.ignored_markers, *_MARKERS.get(name, [])]
    part = st.sampled_from(own) | st.sampled_from(own) | st.sampled_from(_PARTS) | st.sampled_from(_WORDS)
    text = "".join(data.draw(st.lists(part, max_size=12)))
    whole = answer(parser(tool_format), [text])
    assert answer(parser(tool_format), text) == whole
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    pieces = [text[i:j] for i, j in zip([0, *places], [*places, len(text)], strict=True)]
    assert answer(parser(tool_format), pieces) == whole
    calls_only = answer(CallsOnly(parser(tool_format)), pieces)
    assert calls_only == Answer("", whole.calls, whole.reasoning)
    if not whole.calls and not any(marker in text for marker in tool_format.markers):
        kept_text = whole.text + "".join(call.id or "" for call in whole.calls)
        assert kept_text.count("q") >= text.count("q")


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=examples(20))
@given(text=st.text(max_size=40))
def test_text_without_markers_is_content(name: str, text: str) -> None:
    assume("|>" not in text)
    assert answer(parser(FORMATS[name]), [text[:7], text[7:]]) == Answer(text)


# ---- Streaming


def pushed(tool_format: ToolFormat, pieces: Sequence[str]) -> list[list[Event]]:
    tool_parser = parser(tool_format)
    return [tool_parser.push(piece) for piece in pieces]


def test_arguments_are_streamed_as_they_arrive() -> None:
    pieces = [
        "<tool_call>",
        '\n{"name": "get_',
        'weather", ',
        '"arguments": ',
        '{"ci',
        'ty": "Pa',
        "ri",
        's"',
        "}",
        "}",
    ]
    assert pushed(HERMES, pieces) == [
        [],
        [],
        [],
        [],
        [CallBegun(0, "get_weather"), CallArguments(0, '{"ci')],
        [CallArguments(0, 'ty": "Pa')],
        [CallArguments(0, "ri")],
        [CallArguments(0, 's"')],
        [CallArguments(0, "}")],
        [],
    ]


def test_strings_in_xml_are_streamed_as_they_arrive() -> None:
    pieces = [
        "<function=get_weather>",
        "<parameter=city>",
        "\nSan",
        "\n",
        "Jo",
        '"',
        "\n</para",
        "meter>",
        "</function>",
    ]
    assert pushed(QWEN3_CODER, pieces) == [
        [],
        [CallBegun(0, "get_weather")],
        [CallArguments(0, '{"city": "San')],
        [],
        [CallArguments(0, "\\nJo")],
        [CallArguments(0, '\\"')],
        [],
        [CallArguments(0, '"')],
        [CallArguments(0, "}")],
    ]


def test_content_is_held_only_where_a_call_may_begin() -> None:
    assert pushed(HERMES, ["a", " b", " ", "<", "i> ", "<tool_", "x"]) == [
        [Content("a")],
        [Content(" b")],
        [],
        [],
        [Content(" <i>")],
        [],
        [Content(" <tool_x")],
    ]
