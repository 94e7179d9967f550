"""A call that repeats the one before it ends the choice."""

import pytest

from openai_server.core.events import CallArguments, CallBegun, Content, Event, Finish
from openai_server.parsing.choice_reader import AnswerFormat, ChoiceReader
from openai_server.parsing.tools.tagged import HERMES
from tests.openai_server.parsing.answers import cuts


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>\n'


ONE, OTHER, LONGER = call("f", '{"a": 1}'), call("f", '{"a": 12}'), call("f", '{"a": 1, "b": 2}')
CUSTOM, LONGER_CUSTOM = call("c", '{"input": "a"}'), call("c", '{"input": "ab"}')


def new_reader(*, names_function: bool = False) -> ChoiceReader:
    ids = iter(f"id{i}" for i in range(100))
    return ChoiceReader(
        AnswerFormat(
            lambda: HERMES.parser(()),
            lambda: next(ids),
            names_function=names_function,
            custom_tools=frozenset({"c"}),
        )
    )


def read(pieces: list[str], reason: str | None = "stop") -> tuple[list[tuple[str, str]], str, list[Event], bool]:
    """Returns the calls, the content, all events, and whether the choice was cut off."""
    reader = new_reader()
    events = [*(event for piece in pieces for event in reader.read(piece)), *reader.read("", reason, ended=True)]
    calls: list[tuple[str, str]] = []
    for event in events:
        if isinstance(event, CallBegun):
            assert event.index == len(calls)
            calls.append((event.name, ""))
        elif isinstance(event, CallArguments):
            assert event.index == len(calls) - 1
            calls[-1] = (calls[-1][0], calls[-1][1] + event.text)
    content = "".join(event.text for event in events if isinstance(event, Content))
    return calls, content, events, reader.is_cut_off


F, F2, F3 = ("f", '{"a": 1}'), ("f", '{"a": 12}'), ("f", '{"a": 1, "b": 2}')


@pytest.mark.parametrize(
    ("text", "expected", "is_cut_off"),
    [
        (ONE, [F], False),
        (ONE + ONE, [F], True),
        (ONE + ONE + OTHER, [F], True),
        (ONE + OTHER + ONE, [F, F2, F], False),
        (ONE + LONGER, [F, F3], False),
        (LONGER + ONE, [F3, F], False),
        (ONE + OTHER + OTHER, [F, F2], True),
        (ONE + call("g", '{"a": 1}'), [F, ("g", '{"a": 1}')], False),
        (call("f", "{}") * 3, [("f", "{}")], True),
        (CUSTOM + CUSTOM, [("c", "a")], True),
        (CUSTOM + LONGER_CUSTOM, [("c", "a"), ("c", "ab")], False),
        (LONGER_CUSTOM + CUSTOM, [("c", "ab"), ("c", "a")], False),
        (CUSTOM + ONE + CUSTOM, [("c", "a"), F, ("c", "a")], False),
        (ONE + "Text. " + ONE + "More.", [F], True),
    ],
)
def test_a_repeated_call_is_dropped_and_ends_the_choice(
    text: str, expected: list[tuple[str, str]], is_cut_off: bool
) -> None:
    for pieces in cuts(text):
        calls, content, events, was_cut_off = read(list(pieces))
        assert (calls, was_cut_off) == (expected, is_cut_off), pieces
        assert content.strip() == ("Text." if "Text" in text else "")
        assert events[-1] == Finish("tool_calls")
        assert sum(isinstance(event, Finish) for event in events) == 1


def test_a_repetition_ends_the_choice_at_its_last_character() -> None:
    reader = new_reader()
    reader.read(ONE)
    events = [(character, reader.read(character)) for character in ONE + "more"]
    (last, finish), *after = [(character, new) for character, new in events if new]
    assert finish == [Finish("tool_calls")]
    assert last == "}"
    assert not after
    assert reader.read("text", "length") == []


def test_a_named_function_ends_with_stop() -> None:
    reader = new_reader(names_function=True)
    reader.read(ONE)
    assert reader.read(ONE) == [Finish("stop")]


@pytest.mark.parametrize("cut", range(1, len(ONE)))
def test_the_beginning_of_a_repetition_is_a_call_of_its_own_if_the_text_ends(cut: int) -> None:
    calls, content, events, _ = read([ONE + ONE[:cut]], "length")
    whole = ONE[:cut].rstrip("\n").count("}") >= 1
    assert content == ""
    assert calls[0] == F
    if whole:
        assert calls == [F]
    else:
        assert all(F[1].startswith(arguments) for _, arguments in calls)
        assert events[-1] == Finish("length")


def test_a_call_is_held_back_only_while_it_is_the_same() -> None:
    reader = new_reader()
    reader.read(ONE)
    assert reader.read('<tool_call>\n{"name": "f", "arguments": {"a": ') == []
    assert [type(event) for event in reader.read("2")] == []  # a number ends with the next character
    assert [type(event) for event in reader.read("}")] == [CallBegun, CallArguments, CallArguments]
    reader = new_reader()
    assert isinstance(reader.read('<tool_call>\n{"name": "f", "arguments": {')[0], CallBegun)
