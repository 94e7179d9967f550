"""Answers of a model that takes chats become rows with events as lines."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_server.backends.dialects.chat.reader import ChatReader
from openai_server.core.errors import BackendError
from openai_server.core.rows import Row
from openai_server.core.tools import FunctionDefinition, Tool, ToolUse
from openai_server.core.turn import Sampling, Turn
from openai_server.core.usage import PromptUsage, Usage
from openai_server.parsing.event_reader import EventReader, events_format
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferResponse
from tests.wire.chat_server import events, finish, text
from tests.wire.foreign_server import answer


def reader(n: int = 1, *, is_unary: bool = False, derives_stop: bool = False) -> ChatReader:
    return ChatReader(n, is_unary=is_unary, derives_stop=derives_stop)


def read(chat_reader: ChatReader, *responses: ModelInferResponse) -> list[tuple[int, list[Any], str | None]]:
    """The rows of the whole answer, with their events."""
    rows: list[Row] = [row for response in responses for row in chat_reader.read(response)]
    rows += chat_reader.end()
    return [(index, [json.loads(line) for line in data.splitlines()], reason) for index, data, reason, _ in rows]


def test_events() -> None:
    usage = {"type": "usage", "prompt_tokens": 3, "completion_tokens": 4, "cached_tokens": None}
    chat_reader = reader()
    rows = read(
        chat_reader, events({"type": "x"}, text("a")), events(usage), events({**usage, "reasoning_tokens": 1}, finish())
    )
    assert rows == [(0, [text("a")], None), (0, [], "stop")]
    assert chat_reader.usage == Usage(3, 4, None, 1)
    assert chat_reader.prompt_usage == PromptUsage(3, None)
    assert not chat_reader.is_complete


def test_an_event_is_one_line() -> None:
    [(_, line, _, _)] = reader().read(events(b'{\n "type": "text",\n\n "text": "a\\n"\n}'))
    assert line.count(b"\n") == 1
    assert json.loads(line) == text("a\n")


def test_several_choices() -> None:
    first, second = {**text("a"), "choice": 1}, {**finish("length"), "choice": 1}
    rows = read(reader(2), events(first, text("b"), second, finish()))
    assert rows == [(1, [first], None), (0, [text("b")], None), (1, [], "length"), (0, [], "stop")]


def test_a_marked_end_ends_the_choices() -> None:
    chat_reader = reader(2)
    rows = read(chat_reader, events(text("a"), {**finish(), "choice": 1}, final=False), answer(True))
    assert rows == [(0, [text("a")], None), (1, [], "stop"), (0, [], "stop")]
    assert chat_reader.is_complete
    assert chat_reader.usage is None


def test_a_text_is_an_event() -> None:
    chat_reader = reader(is_unary=True)
    counts: Any = {"prompt_tokens": ("INT32", [3]), "completion_tokens": ("INT32", [2])}
    assert read(chat_reader, answer(text="a\n", finish_reason="length", **counts)) == [(0, [text("a\n")], "length")]
    assert chat_reader.usage == Usage(3, 2, None)
    assert read(reader(is_unary=True), answer(text="a")) == [(0, [text("a")], None)]


def test_a_stream_of_text() -> None:
    pieces = [
        answer(False, token=("BYTES", [b"\xc3"]), index=("INT32", [0]), finish_reason="null"),
        answer(
            False, token=("BYTES", [b"\xa4", b"b"]), index=("INT32", [0, 1]), finish_reason=("BYTES", [b"", b"stop"])
        ),
        answer(True, token="", index=("INT32", [0]), finish_reason="length"),
    ]
    rows = read(reader(2), *pieces)
    assert rows == [(0, [], None), (0, [text("ä")], None), (1, [text("b")], "stop"), (0, [], "length")]


def test_the_end_of_a_text_without_reasons_is_derived_only_for_streams() -> None:
    pieces = [answer(False, token="a"), answer(True)]
    assert read(reader(derives_stop=True), *pieces) == [(0, [text("a")], None), (0, [], "stop")]
    assert read(reader(), *pieces) == [(0, [text("a")], None)]


@pytest.mark.parametrize(
    ("chat_reader", "responses", "message"),
    [
        (reader(), [], "ended the answer early"),
        (reader(), [events(text("a"))], "ended the answer early"),
        (reader(), [answer(token="a", finish_reason="null")], "ended the stream early"),
        (reader(is_unary=True), [answer()], "sent no answer"),
        (reader(2, is_unary=True), [answer(text="a", finish_reason="stop")], "sent 1 choices, but 2 were requested"),
        (reader(2), [events(finish(), finish())], "after the end of a choice"),
        (reader(), [events(b"\xff")], "not JSON"),
        (reader(), [events(b'"text"')], "no object with a type"),
        (reader(), [events({"type": 1})], "no object with a type"),
        (reader(), [events({**text("a"), "choice": True})], "no integer"),
        (reader(), [events({**text("a"), "choice": -1})], "choice -1 of 1"),
        (reader(), [events({"type": "tool_call", "name": ""})], "no name"),
        (reader(), [events({"type": "tool_call", "name": "f", "id": 1})], "'id' of an event"),
        (reader(), [events({"type": "arguments", "text": "a"})], "belong to no tool call"),
        (
            reader(),
            [events({"type": "tool_call", "name": "f"}, {"type": "arguments", "text": "a", "call": 1})],
            "to no",
        ),
        (
            reader(),
            [events({"type": "tool_call", "name": "f"}, {"type": "arguments", "text": "a", "call": -1})],
            "to no",
        ),
        (reader(), [events({"type": "usage", "prompt_tokens": 1})], "'completion_tokens' of an event"),
        (reader(), [events({"type": "usage", "prompt_tokens": 1, "completion_tokens": 1.5})], "no integer"),
        (reader(), [answer(events=("INT32", [1]))], "sent 'events' as INT32"),
    ],
)
def test_a_malformed_answer_is_an_error(
    chat_reader: ChatReader, responses: list[ModelInferResponse], message: str
) -> None:
    with pytest.raises(BackendError) as caught:
        read(chat_reader, *responses)
    assert caught.value.status == "UNKNOWN"
    assert message in caught.value.message


_values = st.sampled_from(["", "a", '{"x":', "1}", "f", "stop", "tool_calls"]) | st.integers(-1, 2) | st.none()
_events = st.fixed_dictionaries(
    {"type": st.sampled_from([*contract.EVENT_FIELDS, "other"])},
    optional={name: _values for fields in contract.EVENT_FIELDS.values() for name in fields} | {"choice": _values},
)
_answers = st.lists(st.lists(_events | st.binary(max_size=4), max_size=6), max_size=4)


@given(answers=_answers, final=st.booleans(), n=st.integers(1, 2))
def test_whatever_a_model_sends_is_an_answer_or_an_error(answers: list[list[Any]], final: bool, n: int) -> None:
    """Texts of its rows are read by an EventReader without an error, and each choice ends once."""
    tool = Tool(FunctionDefinition("f"))
    turn = Turn(sampling=Sampling(), names={}, tools=[tool], tool_use=ToolUse([tool]))
    readers = [EventReader(events_format(turn, lambda: "id")) for _ in range(n)]
    chat_reader, ended = reader(n), []
    with suppress(BackendError):
        rows = [row for items in answers for row in chat_reader.read(events(*items, final=False))]
        rows += chat_reader.read(answer(final))
        rows += chat_reader.end()
        for index, data, reason, _ in rows:
            readers[index].read(data.decode(), reason)
            ended += [index] if reason else []
        assert sorted(ended) == list(range(n))
