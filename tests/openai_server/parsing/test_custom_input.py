"""Arguments of calls to the input of a custom tool."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_server.core.events import CallArguments, CallBegun, Content, Event, Finish
from openai_server.parsing.choice_reader import AnswerFormat, ChoiceReader
from openai_server.parsing.custom_input import CustomInput
from openai_server.parsing.tools.tagged import HERMES
from tests.openai_server.parsing.answers import cuts


def read(pieces: list[str]) -> str:
    reader = CustomInput()
    return "".join([*(reader.push(piece) for piece in pieces), reader.end()])


CASES = [
    ('{"input": "abc"}', "abc"),
    ('{"input":"a\\nb\\"c\\\\d\\/e\\tf"}', 'a\nb"c\\d/e\tf'),
    ('{ "input" : "" }', ""),
    ('{"input": "\\ud83d\\ude00 \\u00e9"}', "\U0001f600 é"),
    ('{"input": "\\ud83dx\\ude00\\ud83d\\ud83d\\ude00"}', "\ufffdx\ufffd\ufffd\U0001f600"),
    ('{"input": "\\ud83d"}', "\ufffd"),
    ('{"input": "a", "more": "b"}', "a"),
    ('"a text\\n"', "a text\n"),
    ('{"more": 1, "input": "a"}', "a"),
    ('{"patch": "a"}', '{"patch": "a"}'),
    ('{"input": 5}', '{"input": 5}'),
    ('{"input": {"input": "a"}}', '{"input": {"input": "a"}}'),
    ("[1]", "[1]"),
    ("{}", ""),
    ("", ""),
    # cut off
    ('{"inp', ""),
    ('{"input": ', ""),
    ('{"input": "a\\', "a"),
    ('{"input": "a\\u00', "a"),
    ('{"input": "a', "a"),
    ('{"other": "a', '{"other": "a'),
    ('{"' + "x" * 300 + '": 1}', '{"' + "x" * 300 + '": 1}'),
]


@pytest.mark.parametrize(("arguments", "expected"), CASES)
def test_the_input_is_the_same_for_every_cut(arguments: str, expected: str) -> None:
    for pieces in cuts(arguments):
        assert read(list(pieces)) == expected, pieces


@given(st.text(), st.booleans(), st.lists(st.integers(0, 200)))
def test_every_text_survives(text: str, ascii_only: bool, places: list[int]) -> None:
    arguments = json.dumps({"input": text}, ensure_ascii=ascii_only)
    ends = sorted(min(place, len(arguments)) for place in places)
    pieces = [arguments[begin:end] for begin, end in zip([0, *ends], [*ends, len(arguments)], strict=True)]
    assert read(pieces) == text


@given(st.text(alphabet='{"input": \\u0dDe8}ab', max_size=40), st.integers(0, 40))
def test_no_text_raises_and_no_cut_matters(text: str, place: int) -> None:
    assert read([text[:place], text[place:]]) == read([text])


def test_the_input_arrives_as_it_is_written() -> None:
    reader = CustomInput()
    assert [reader.push(piece) for piece in ('{"input', '": "ab', "c\\", 'n"', "}")] == ["", "ab", "c", "\n", ""]


# ---- In an answer


def events(text: str, *, custom: str = "c", reason: str = "stop") -> list[Event]:
    ids = iter(["1", "2"])
    format = AnswerFormat(lambda: HERMES.parser(()), lambda: next(ids), custom_tools=frozenset({custom}))
    reader = ChoiceReader(format)
    return [*(event for character in text for event in reader.read(character)), *reader.read("", reason)]


def test_a_call_of_a_custom_tool_has_its_input() -> None:
    first, *pieces, finish = events('<tool_call>\n{"name": "c", "arguments": {"input": "a\\nb"}}\n</tool_call>')
    assert first == CallBegun(0, "c", "1", custom=True)
    assert pieces == [CallArguments(0, text, custom=True) for text in "a\nb"]
    assert finish == Finish("tool_calls")


def test_the_input_ends_before_the_next_event() -> None:
    custom, function = '{"name": "c", "arguments": {"x": 1}}', '{"name": "f", "arguments": {"x": 1}}'
    begun, rest, second, *pieces = events(f"<tool_call>{custom}</tool_call><tool_call>{function}</tool_call>")
    assert (begun, rest) == (CallBegun(0, "c", "1", custom=True), CallArguments(0, '{"x": 1}', custom=True))
    assert second == CallBegun(1, "f", "2")
    assert not any(isinstance(piece, CallArguments) and piece.custom for piece in pieces)
    _, rest, text, *_ = events(f"<tool_call>{custom}</tool_call> Done.")
    assert isinstance(rest, CallArguments)
    assert isinstance(text, Content)


def test_a_call_without_arguments_has_an_empty_input() -> None:
    assert events('<tool_call>{"name": "c"}</tool_call>') == [CallBegun(0, "c", "1", custom=True), Finish("tool_calls")]
