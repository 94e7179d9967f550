"""Objects that wrappers yield become events; an Agent's inner calls and unknown objects never leave."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from anyserve_worker.pipelines.core.events import Arguments, Event, Finish, Reasoning, Refusal, Text, ToolCall, Usage
from anyserve_worker.pipelines.wrappers.answer_reader import AnswerReader, UnknownFinishReason
from anyserve_worker.pipelines.wrappers.pieces import UnsupportedResult

WEATHER = {"type": "function", "function": {"name": "weather"}}
CODE = {"type": "custom", "custom": {"name": "code"}}


class Chunk(SimpleNamespace):
    """Like Haystack's StreamingChunk."""

    def __init__(self, content: Any = "", **fields: Any) -> None:
        defaults = dict.fromkeys(("reasoning", "tool_calls", "tool_call_result", "finish_reason", "component_info"))
        super().__init__(**{"content": content, "meta": {}, **defaults, **fields})


def delta(index: int = 0, **fields: Any) -> SimpleNamespace:
    return SimpleNamespace(
        **{"index": index, "id": None, "tool_name": None, "arguments": None, "extra": None, **fields}
    )


def read(*results: Any, tools: Sequence[dict[str, Any]] = ()) -> list[Event]:
    reader = AnswerReader(tools)
    return [event for result in results for event in reader.read(result)] + list(reader.end())


CALL = Chunk(tool_calls=[delta(tool_name="weather", id="call_1")])
CALL_ARGUMENTS = [Chunk(tool_calls=[delta(arguments=text)]) for text in ('{"city":', '"Paris"}')]
CALL_END = Chunk(finish_reason="tool_calls")
RESULT = Chunk(tool_call_result=SimpleNamespace(result="sunny"))
RESULTS_END = Chunk(finish_reason="tool_call_results")
CALL_EVENTS = [ToolCall("weather", "call_1"), Arguments('{"city":"Paris"}', 0), Finish("tool_calls")]


def test_text_reasoning_and_the_finish_reason() -> None:
    chunks = [
        Chunk(reasoning=SimpleNamespace(reasoning_text="")),
        Chunk(reasoning=SimpleNamespace(reasoning_text="Hm.")),
        Chunk("Hello"),
        "",
        " you",
        Chunk(),
        None,
        Chunk(finish_reason="length"),
    ]
    assert read(*chunks) == [Reasoning("Hm."), Text("Hello"), Text(" you"), Finish("length")]


def test_an_answer_without_a_reason_stops() -> None:
    assert read("Hello") == [Text("Hello"), Finish("stop")]
    assert read() == [Finish("stop")]


def test_calls_of_the_requests_tools_are_returned() -> None:
    assert read(CALL, *CALL_ARGUMENTS, CALL_END, tools=[WEATHER]) == CALL_EVENTS


def test_several_calls_are_kept_apart() -> None:
    chunks = [
        Chunk(tool_calls=[delta(0, tool_name="weather", id="a", arguments='{"a"'), delta(1, tool_name="code", id="b")]),
        Chunk(tool_calls=[delta(1, arguments="print("), delta(0, arguments=":1}")]),
        Chunk(tool_calls=[delta(1, arguments="1)")]),
        Chunk(tool_calls=[delta(2, tool_name="weather", id="c")], finish_reason="tool_calls"),
    ]
    assert read(*chunks, tools=[WEATHER, CODE]) == [
        ToolCall("weather", "a"),
        Arguments('{"a":1}', 0),
        ToolCall("code", "b"),
        Arguments("print(1)", 1),
        ToolCall("weather", "c"),
        Arguments("{}", 2),
        Finish("tool_calls"),
    ]


def test_calls_without_an_index_are_kept_apart_by_their_ids() -> None:
    chunks = [Chunk(tool_calls=[delta(tool_name="weather", id=id)]) for id in ("a", "b")]
    calls = [event for event in read(*chunks, tools=[WEATHER]) if isinstance(event, ToolCall)]
    assert calls == [ToolCall("weather", "a"), ToolCall("weather", "b")]


def test_the_id_of_a_call_comes_from_the_responses_api_too() -> None:
    chunks = [
        Chunk(tool_calls=[delta(1, id="fc_1", tool_name="weather", extra={"call_id": "call_1"})]),
        Chunk(tool_calls=[delta(1, id="fc_1", arguments='{"city":"Paris"}', extra={"item_id": "fc_1"})]),
    ]
    assert read(*chunks, tools=[WEATHER]) == CALL_EVENTS


INNER_CALLS: dict[str, list[Any]] = {
    "followed by text": [
        CALL,
        *CALL_ARGUMENTS,
        CALL_END,
        RESULT,
        RESULTS_END,
        "It is sunny.",
        Chunk(finish_reason="stop"),
    ],
    "followed by text alone": [CALL, *CALL_ARGUMENTS, "It is sunny."],
    "followed by text in the same turn": [CALL, CALL_END, Chunk("It is sunny.", finish_reason="length")],
}


@pytest.mark.parametrize("chunks", INNER_CALLS.values(), ids=INNER_CALLS.keys())
@pytest.mark.parametrize("tools", [[], [WEATHER]], ids=["without tools", "with tools"])
def test_calls_of_an_agent_do_not_leave(chunks: list[Any], tools: list[dict[str, Any]]) -> None:
    reason = "length" if chunks[-1] is INNER_CALLS["followed by text in the same turn"][-1] else "stop"
    assert read(*chunks, tools=tools) == [Text("It is sunny."), Finish(reason)]


def test_calls_that_the_wrapper_has_executed_do_not_leave_at_the_end_either() -> None:
    assert read(CALL, *CALL_ARGUMENTS, CALL_END, RESULT, RESULTS_END, tools=[WEATHER]) == [Finish("stop")]


def test_the_calls_of_the_last_turn_are_returned() -> None:
    inner = [Chunk(tool_calls=[delta(tool_name="code", id="x", arguments="1")]), CALL_END]
    assert read(*inner, CALL, *CALL_ARGUMENTS, CALL_END, tools=[WEATHER, CODE]) == CALL_EVENTS
    assert read(*inner, RESULT, CALL, *CALL_ARGUMENTS, tools=[WEATHER, CODE]) == CALL_EVENTS


def test_reasoning_between_calls_of_a_turn_keeps_them() -> None:
    thought = Chunk(reasoning=SimpleNamespace(reasoning_text="And then?"))
    other = Chunk(tool_calls=[delta(1, tool_name="code", id="b", arguments="1")])
    events = read(CALL, *CALL_ARGUMENTS, thought, other, CALL_END, tools=[WEATHER, CODE])
    assert [event.name for event in events if isinstance(event, ToolCall)] == ["weather", "code"]


def test_calls_of_other_tools_than_the_requests_do_not_leave() -> None:
    assert read(CALL, *CALL_ARGUMENTS, CALL_END, tools=[CODE]) == [Finish("stop")]
    assert read(CALL, *CALL_ARGUMENTS, CALL_END) == [Finish("stop")]


def test_a_call_that_was_cut_keeps_its_reason() -> None:
    assert read(CALL, Chunk(finish_reason="length"), tools=[WEATHER])[-1] == Finish("length")


def test_the_last_reason_counts() -> None:
    assert read(Chunk("a", finish_reason="length"), Chunk("b", finish_reason="content_filter"))[-1] == Finish(
        "content_filter"
    )


@pytest.mark.parametrize("reason", ["error", "MALFORMED_FUNCTION_CALL", "failed", "in_progress"])
def test_a_reason_of_a_failure_is_an_error(reason: str) -> None:
    with pytest.raises(UnknownFinishReason, match=reason):
        read("Hello", Chunk(finish_reason=reason))
    with pytest.raises(UnknownFinishReason, match=reason):
        read("Hello", Chunk(meta={"finish_reason": reason}))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ("prompt_tokens", "completion_tokens", "prompt_tokens_details", "completion_tokens_details"),
            Usage(3, 4, 1, 2),
        ),
        (("input_tokens", "output_tokens", "input_tokens_details", "output_tokens_details"), Usage(3, 4, 1, 2)),
    ],
)
def test_counts_have_the_names_of_either_api(names: Sequence[str], expected: Usage) -> None:
    usage = dict(zip(names, (3, 4, {"cached_tokens": 1}, {"reasoning_tokens": 2}), strict=True))
    assert expected in read(Chunk("a", meta={"usage": usage}))
    assert expected in read(Chunk("a", meta={"response": {"usage": SimpleNamespace(**usage)}}))


def test_counts_of_all_calls_of_models_are_summed() -> None:
    def counted(completion_tokens: int, **details: Any) -> Chunk:
        usage = {"prompt_tokens": 10, "completion_tokens": completion_tokens, **details}
        return Chunk(meta={"usage": usage})

    cached = {"prompt_tokens_details": {"cached_tokens": 4}}
    turns = [
        CALL,
        CALL_END,
        counted(5, **cached),
        RESULT,
        RESULTS_END,
        Chunk("Sunny."),
        Chunk(finish_reason="stop"),
        counted(7),
    ]
    assert Usage(20, 12, 4) in read(*turns)
    growing = [counted(1), Chunk("a"), counted(2), Chunk("b", finish_reason="stop"), counted(3)]
    assert Usage(10, 3) in read(*growing)


def test_counts_of_components_that_run_at_the_same_time_are_summed() -> None:
    chunks = [
        Chunk(
            "a", component_info=SimpleNamespace(name=name), meta={"usage": {"prompt_tokens": 1, "completion_tokens": n}}
        )
        for name, n in (("one", 1), ("two", 10), ("one", 2), ("two", 20))
    ]
    assert Usage(2, 22) in read(*chunks)


@pytest.mark.parametrize("wrong", [-1, True, 2**31, 1.5, "5"])
def test_counts_that_are_no_numbers_of_tokens_are_left_out(wrong: Any) -> None:
    counts = {"prompt_tokens": 3, "completion_tokens": wrong}
    assert read(Chunk("a", finish_reason="stop", meta={"usage": counts})) == [Text("a"), Finish("stop")]


def test_no_counts_without_counts() -> None:
    assert not [event for event in read(Chunk("a", meta={"usage": None})) if isinstance(event, Usage)]


def test_events_for_a_page_are_left_out() -> None:
    event = SimpleNamespace(to_event_dict=lambda: {"type": "status"}, content="no text")
    assert read("a", event, "b") == [Text("a"), Text("b"), Finish("stop")]


@pytest.mark.parametrize("result", [b"secret", {"content": "secret"}, ["secret"], 7, object(), Chunk(b"secret")])
def test_other_objects_are_an_error_with_their_type(result: Any) -> None:
    name = "bytes" if isinstance(result, Chunk) else type(result).__qualname__
    with pytest.raises(UnsupportedResult, match=name) as raised:
        read(result)
    assert "secret" not in str(raised.value)


# ---- OpenAI's objects


def completion(**choice: Any) -> SimpleNamespace:
    usage = SimpleNamespace(prompt_tokens=3, completion_tokens=4)
    return SimpleNamespace(choices=[SimpleNamespace(**choice)], usage=usage)


CHAT_CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Paris"}'}}


def test_a_whole_chat_completion() -> None:
    message = SimpleNamespace(content="Hello", reasoning_content="Hm.", refusal=None, tool_calls=[CHAT_CALL])
    events = read(completion(message=message, finish_reason="tool_calls"), tools=[WEATHER])
    assert events == [Reasoning("Hm."), Text("Hello"), *CALL_EVENTS[:2], Usage(3, 4), CALL_EVENTS[2]]


def test_several_calls_of_a_whole_chat_completion() -> None:
    calls = [CHAT_CALL, {"id": "call_2", "type": "custom", "custom": {"name": "code", "input": "1"}}]
    message = SimpleNamespace(content=None, tool_calls=calls)
    events = read(completion(message=message, finish_reason="tool_calls"), tools=[WEATHER, CODE])
    assert events[2:4] == [ToolCall("code", "call_2"), Arguments("1", 1)]


def test_chunks_of_a_chat_completion() -> None:
    chunks = [
        completion(delta=SimpleNamespace(content="Hel"), finish_reason=None),
        completion(delta=SimpleNamespace(content="lo"), finish_reason=None),
        completion(delta=SimpleNamespace(refusal="No."), finish_reason="stop"),
        SimpleNamespace(choices=[], usage={"prompt_tokens": 5, "completion_tokens": 6}),
    ]
    assert read(*chunks) == [Text("Hel"), Text("lo"), Refusal("No."), Usage(5, 6), Finish("stop")]


def response(*output: Any, **fields: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"output": list(output), "status": "completed", "usage": None, **fields})


def test_a_whole_response() -> None:
    items = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "call_1",
            "name": "weather",
            "arguments": '{"city":"Paris"}',
        },
        {
            "type": "message",
            "content": [{"type": "output_text", "text": "Hello"}, {"type": "refusal", "refusal": "No."}],
        },
    ]
    usage = {"input_tokens": 3, "output_tokens": 4}
    events = read(response(*items, usage=usage), tools=[WEATHER])
    assert events == [Reasoning("Hm."), Text("Hello"), Refusal("No."), *CALL_EVENTS[:2], Usage(3, 4), CALL_EVENTS[2]]


@pytest.mark.parametrize(
    ("reason", "expected"), [("max_output_tokens", "length"), ("content_filter", "content_filter")]
)
def test_an_incomplete_response(reason: str, expected: str) -> None:
    assert read(response(status="incomplete", incomplete_details={"reason": reason})) == [Finish(expected)]


def test_a_response_that_failed_is_an_error() -> None:
    with pytest.raises(UnknownFinishReason):
        read(response(status="failed", error={"message": "secret"}))
