"""Events of a backend become those of the APIs, however their text is split."""

import json
import time
from collections.abc import Sequence
from typing import Any

import pytest

from openai_server.core.events import CallArguments, CallBegun, Content, Event, Finish, Reasoning, Refusal
from openai_server.core.tools import FunctionDefinition, Tool, ToolUse, custom_tool
from openai_server.core.turn import Sampling, Turn
from openai_server.parsing.event_reader import EventReader, events_format, text_length
from openai_server.parsing.readers import reader_of

F, G, C = Tool(FunctionDefinition("f")), Tool(FunctionDefinition("g")), custom_tool("c")
Json = dict[str, Any]


def reader(use: ToolUse | None = None, tools: Sequence[Tool] = (F, G, C)) -> EventReader:
    turn = Turn(sampling=Sampling(), names={}, tools=tools, tool_use=use)
    ids = iter(f"id_{i}" for i in range(9))
    found = reader_of(events_format(turn, lambda: next(ids)))
    assert isinstance(found, EventReader)
    return found


ANY = ToolUse([F, G, C])


def begin(name: str, id: str | None = None) -> Json:
    return {"type": "tool_call", "name": name, "id": id}


def arguments(text: str, call: int | None = None) -> Json:
    return {"type": "arguments", "text": text} | ({} if call is None else {"call": call})


def content(text: str) -> Json:
    return {"type": "text", "text": text}


def lines(*events: Json) -> str:
    return "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in events)


def read(*events: Json, use: ToolUse | None = ANY, reason: str | None = "stop") -> list[Event]:
    """The events of the whole answer, which are the same for each place where its text is cut."""
    text = lines(*events)
    whole = reader(use).read(text, reason, ended=True)
    for at in range(len(text) + 1):
        cut = reader(use)
        assert cut.read(text[:at]) + cut.read(text[at:], reason, ended=True) == whole
    return whole


def test_texts() -> None:
    found = read({"type": "reasoning", "text": "r"}, content("ä\n<tool_call>"), {"type": "refusal", "text": "no"})
    assert found == [Reasoning("r"), Content("ä\n<tool_call>"), Refusal("no"), Finish("stop")]
    assert read(content("")) == [Finish("stop")]
    assert read(content("a"), reason=None) == [Content("a")]


def test_an_event_is_read_when_its_line_is_complete() -> None:
    event_reader = reader()
    text = lines(content("a"))
    assert event_reader.read(text[:-1]) == []
    assert event_reader.read(text[-1:]) == [Content("a")]
    assert event_reader.read("", "stop") == [Finish("stop")]
    assert event_reader.read(lines(content("late"))) == []


def test_a_call_gets_an_id_only_where_it_has_none() -> None:
    assert read(begin("f", "mine"), arguments("{}"), begin("g"), arguments("{}"), reason="tool_calls") == [
        CallBegun(0, "f", "mine"),
        CallArguments(0, "{}"),
        CallBegun(1, "g", "id_0"),
        CallArguments(1, "{}"),
        Finish("tool_calls"),
    ]


def test_a_custom_tools_input_is_its_text() -> None:
    assert read(begin("c"), arguments("a{"), arguments("b")) == [
        CallBegun(0, "c", "id_0", custom=True),
        CallArguments(0, "a{", custom=True),
        CallArguments(0, "b", custom=True),
        Finish("tool_calls"),
    ]


def merged(events: list[Event]) -> list[Event]:
    """The events, with the arguments of each call in one piece."""
    found: list[Event] = []
    for event in events:
        last = found[-1] if found else None
        if isinstance(event, CallArguments) and isinstance(last, CallArguments) and last.index == event.index:
            found[-1] = CallArguments(event.index, last.text + event.text, event.custom)
        else:
            found.append(event)
    return found


@pytest.mark.parametrize(
    "pieces",
    [
        [begin("f"), begin("g"), arguments('{"a":', 0), arguments('{"b":', 1), arguments("1}", 0), arguments("2}", 1)],
        [begin("f"), begin("g"), arguments('{"b":2}', 1), arguments('{"a":1}', 0)],
        [begin("f"), arguments('{"a":1', 0), begin("g"), arguments('{"b":2}'), arguments("}", 0), arguments(" ", 0)],
        [begin("f"), arguments('{"a":1}'), begin("g"), arguments(" ", 0), arguments('{"b":2}')],
    ],
)
def test_interleaved_arguments_come_one_call_after_the_other(pieces: list[Json]) -> None:
    found = merged(read(*pieces, content("end")))
    a, b = '{"a":1}', '{"b":2}'
    assert found == [
        CallBegun(0, "f", "id_0"),
        CallArguments(0, a),
        CallBegun(1, "g", "id_1"),
        CallArguments(1, b),
        Content("end"),
        Finish("tool_calls"),
    ]


def test_interleaved_inputs_of_custom_tools_wait_for_the_end() -> None:
    pieces = [begin("c"), arguments("a", 0), begin("f"), arguments("{}", 1), content("x"), arguments("b", 0)]
    assert merged(read(*pieces)) == [
        CallBegun(0, "c", "id_0", custom=True),
        CallArguments(0, "ab", custom=True),
        CallBegun(1, "f", "id_1"),
        CallArguments(1, "{}"),
        Content("x"),
        Finish("tool_calls"),
    ]


def test_many_reversed_calls_are_put_in_order() -> None:
    n = 1500
    text = lines(*(begin("f", f"c{i}") for i in range(n)), *(arguments("{}", n - 1 - i) for i in range(n)))
    found = reader(ANY).read(text, "stop")
    assert [event.index for event in found if isinstance(event, CallArguments)] == list(range(n))


def test_interleaved_calls_take_linear_time() -> None:
    """Quadratic time would be half a minute, on an event loop."""
    n = 8000
    text = lines(
        *(begin("f", f"c{i}") for i in range(n)), *(arguments(text, i) for text in ("{", "}") for i in range(n))
    )
    began_at = time.process_time()
    found = reader(ANY).read(text, "stop")
    assert time.process_time() - began_at < 5
    assert [event.index for event in found if isinstance(event, CallBegun)] == list(range(n))
    assert len(found) == 3 * n + 1


def test_absent_arguments_are_an_empty_object_unless_the_answer_was_cut_off() -> None:
    both = [CallBegun(0, "f", "id_0"), CallArguments(0, "{}"), CallBegun(1, "g", "id_1")]
    assert read(begin("f"), begin("g")) == [*both, CallArguments(1, "{}"), Finish("tool_calls")]
    assert read(begin("f"), begin("g"), reason="length") == [*both, Finish("length")]
    assert read(begin("c")) == [CallBegun(0, "c", "id_0", custom=True), Finish("tool_calls")]
    cut = read(begin("f"), arguments('{"a'), reason="length")
    assert cut == [CallBegun(0, "f", "id_0"), CallArguments(0, '{"a'), Finish("length")]


def test_a_repeated_call_is_kept() -> None:
    pieces = [begin("f"), arguments("{}")] * 3
    assert sum(isinstance(event, CallBegun) for event in read(*pieces)) == 3
    assert not reader().is_cut_off


@pytest.mark.parametrize("reason", ["stop", "tool_calls"])
def test_calls_without_tools_in_the_request_are_dropped(reason: str) -> None:
    assert read(content("a"), begin("f"), arguments("{}"), use=None, reason=reason) == [Content("a"), Finish("stop")]


def test_calls_of_other_tools_than_the_allowed_ones_are_dropped() -> None:
    pieces = [begin("f"), arguments("{}"), begin("g"), arguments('{"b":1}', 1), arguments("x", 0)]
    assert read(*pieces, use=ToolUse([G])) == [
        CallBegun(0, "g", "id_0"),
        CallArguments(0, '{"b":1}'),
        Finish("tool_calls"),
    ]


@pytest.mark.parametrize(
    ("use", "reason", "expected"),
    [
        (ToolUse([F, G, C], legacy=True), "tool_calls", "function_call"),
        (ToolUse([F, G, C], must_call=True, function_name="f"), "tool_calls", "stop"),
        (ToolUse([F, G, C]), "stop", "tool_calls"),
        (ToolUse([F, G, C]), "length", "length"),
        (ToolUse([F, G, C]), "content_filter", "content_filter"),
    ],
)
def test_the_finish_reason(use: ToolUse, reason: str, expected: str) -> None:
    assert read(begin("f"), arguments("{}"), use=use, reason=reason)[-1] == Finish(expected)


def test_the_length_of_the_texts() -> None:
    assert text_length(lines(content("abc"), begin("f"), arguments("{}"))) == 5
    assert text_length("") == 0
