"""Parsers of tool calls: texts cut in every way, cut off anywhere, and at random."""

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
from tests.openai_server.parsing.answers import Answer, answer, same_at_every_cut
from tests.openai_server.parsing.tools.cases import CASES, FORMATS, TOOLS


def parser(tool_format: ToolFormat) -> Parser:
    return tool_format.parser(TOOLS)


@pytest.mark.parametrize(("tool_format", "text", "expected"), CASES, ids=lambda x: getattr(x, "name", None))
def test_at_every_cut(tool_format: ToolFormat, text: str, expected: Answer) -> None:
    assert same_at_every_cut(lambda: parser(tool_format), text) == expected
    for call in expected.calls:
        if call.arguments[0] != "{" or call.arguments[-1] == "}":  # else it goes wrong in the middle
            json.loads(call.arguments)


@pytest.mark.parametrize("length", [255, 256, 257, 258, 400])
def test_a_header_that_is_too_long_is_read_the_same_at_every_cut(length: int) -> None:
    found = same_at_every_cut(lambda: parser(HARMONY), "<|channel|>" + "x" * length)
    assert found.content == ("x" * length if length > 257 else "")  # till then it may be one that was cut off


@pytest.mark.parametrize(("tool_format", "text", "expected"), CASES, ids=lambda x: getattr(x, "name", None))
def test_cut_off_anywhere(tool_format: ToolFormat, text: str, expected: Answer) -> None:
    """Nothing is taken back: what came of a beginning is the beginning of what comes of the whole."""
    for end in range(len(text)):
        made = parser(tool_format)
        told = _whole([event for character in text[:end] for event in made.push(character)])
        assert expected.content.startswith(told.content)
        assert expected.reasoning.startswith(told.reasoning)
        for call, whole in zip(told.calls, expected.calls, strict=False):
            assert (call.name, call.id) == (whole.name, whole.id)
            assert whole.arguments.startswith(call.arguments)
        assert answer(parser(tool_format), text[:end]) == answer(parser(tool_format), [text[:end]])


def _whole(events: list[Event]) -> Answer:
    class Told:
        def push(self, text: str) -> list[Event]:
            return events

        def end(self) -> list[Event]:
            return []

    return answer(Told(), [""])


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
@settings(max_examples=40)
@given(data=st.data())
def test_any_text_is_read_in_one_way_and_lost_in_a_call_alone(name: str, data: st.DataObject) -> None:
    tool_format = FORMATS[name]
    own = [*tool_format.markers, *tool_format.ignored_markers, *_MARKERS.get(name, [])]
    part = st.sampled_from(own) | st.sampled_from(own) | st.sampled_from(_PARTS) | st.sampled_from(_WORDS)
    text = "".join(data.draw(st.lists(part, max_size=12)))
    whole = answer(parser(tool_format), [text])
    assert answer(parser(tool_format), text) == whole
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    pieces = [text[i:j] for i, j in zip([0, *places], [*places, len(text)], strict=True)]
    assert answer(parser(tool_format), pieces) == whole
    must = answer(CallsOnly(parser(tool_format)), pieces)
    assert must == Answer("", whole.calls, whole.reasoning)
    if not whole.calls and not any(marker in text for marker in tool_format.markers):
        found = whole.text + "".join(call.id or "" for call in whole.calls)
        assert found.count("q") >= text.count("q")


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=20)
@given(text=st.text(max_size=40))
def test_text_without_markers_is_content(name: str, text: str) -> None:
    assume("|>" not in text)
    assert answer(parser(FORMATS[name]), [text[:7], text[7:]]) == Answer(text)


# ---- Streaming


def pushed(tool_format: ToolFormat, pieces: Sequence[str]) -> list[list[Event]]:
    made = parser(tool_format)
    return [made.push(piece) for piece in pieces]


def test_arguments_are_streamed_as_they_are_written() -> None:
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


def test_strings_in_xml_are_streamed_as_they_are_written() -> None:
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


def test_content_waits_only_where_a_call_may_begin() -> None:
    assert pushed(HERMES, ["a", " b", " ", "<", "i> ", "<tool_", "x"]) == [
        [Content("a")],
        [Content(" b")],
        [],
        [],
        [Content(" <i>")],
        [],
        [Content(" <tool_x")],
    ]
