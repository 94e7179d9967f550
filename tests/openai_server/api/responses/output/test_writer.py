"""Streams of `/v1/responses`. Each one is checked event by event in `streams.events`."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_server.api.answers import AnswerIdentity
from openai_server.api.responses.output.output import NO_ARGUMENTS
from openai_server.api.responses.output.writer import ResponsesWriter
from openai_server.api.responses.settings import CalledTool
from openai_server.core.errors import APIError
from openai_server.core.events import (
    CallArguments,
    CallBegun,
    Content,
    Event,
    Finish,
    Reasoning,
    Refusal,
    TokenLogprobs,
)
from openai_server.core.logprobs import TokenLogprob
from openai_server.core.rows import Row
from openai_server.parsing.answer_format import parser_for
from openai_server.parsing.choice_reader import AnswerFormat
from tests.openai_server.api.responses.output.streams import IDENTITY, SETTINGS, events, request, streamed, writer
from tests.openai_server.parsing.answers import tool

TEMPLATE = "<think></think><tool_call>"
FORMAT = AnswerFormat(
    partial(parser_for, TEMPLATE, "", [tool("f", {"a": {}}), tool("t__c", {"input": {}})]),
    lambda: "call_new",
    custom_tools=frozenset({"t__c"}),
)
TOOLS = {"f": CalledTool("function", "f"), "t__c": CalledTool("custom", "c", "t")}
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
CUSTOM_CALL = '<tool_call>\n{"name": "t__c", "arguments": {"input": "x\\ny"}}\n</tool_call>'
TOKENS = [TokenLogprob(b"a", -0.5, [(b"a", -0.5)]), TokenLogprob(b"b", -1.5, [(b"a", -0.25)])]


def rows_of(text: str, reason: str | None = "stop") -> list[Row]:
    """A row for each character, and one for the finish reason."""
    return [(0, character.encode(), None, ()) for character in text] + [(0, b"", reason, ())]


def output_text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def types_of(stream: Sequence[Any]) -> list[str]:
    """The types of the events, with one delta for several in a row."""
    names = [event["type"].removeprefix("response.") for event in stream]
    return [name for i, name in enumerate(names) if not (name.endswith("delta") and names[i - 1] == name)]


BEGIN = ["created", "in_progress"]
TEXT = [
    *("output_item.added", "content_part.added", "output_text.delta"),
    *("output_text.done", "content_part.done", "output_item.done"),
]
REASONING = [
    *("output_item.added", "content_part.added", "reasoning_text.delta"),
    *("reasoning_text.done", "content_part.done", "output_item.done"),
]
FUNCTION = [
    *("output_item.added", "function_call_arguments.delta"),
    *("function_call_arguments.done", "output_item.done"),
]
CUSTOM = [
    *("output_item.added", "custom_tool_call_input.delta"),
    *("custom_tool_call_input.done", "output_item.done"),
]


def test_text_is_one_message() -> None:
    stream = streamed(rows_of("Hé\n"), request())
    assert types_of(stream) == [*BEGIN, *TEXT, "completed"]
    response = stream[-1]["response"]
    assert response["output"] == [
        {
            "type": "message",
            "id": "msg_012300",
            "status": "completed",
            "role": "assistant",
            "content": [output_text("Hé\n")],
            "phase": "final_answer",
        }
    ]
    assert (response["id"], response["created_at"], response["model"]) == (IDENTITY.id, 1700000000, IDENTITY.model)
    assert response["completed_at"] == 1700000002


def test_items_follow_each_other_in_the_order_of_the_text() -> None:
    text = f"<think>why</think>First.{CALL}{CUSTOM_CALL}{CALL}"
    stream = streamed(rows_of(text), request(tools=TOOLS), FORMAT)
    assert types_of(stream) == [*BEGIN, *REASONING, *TEXT, *FUNCTION, *CUSTOM, *FUNCTION, "completed"]
    reasoning, message, first, custom, second = stream[-1]["response"]["output"]
    assert reasoning == {
        "type": "reasoning",
        "id": "rs_012300",
        "status": "completed",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "why"}],
    }
    assert (message["content"][0]["text"], message["phase"]) == ("First.", "commentary")
    assert first == {
        "type": "function_call",
        "id": "fc_012302",
        "status": "completed",
        "call_id": "call_new",
        "name": "f",
        "arguments": '{"a": 1}',
    }
    assert second == {**first, "id": "fc_012304", "call_id": "call_new_4"}, "the id is in use"
    assert custom == {
        "type": "custom_tool_call",
        "id": "ctc_012303",
        "status": "completed",
        "call_id": "call_new_3",
        "name": "c",
        "input": "x\ny",
        "namespace": "t",
    }


def test_a_call_is_added_with_its_name_and_ids() -> None:
    [item] = [
        event["item"]
        for event in streamed(rows_of(CUSTOM_CALL), request(tools=TOOLS), FORMAT)
        if event["type"] == "response.output_item.added"
    ]
    assert item == {
        "type": "custom_tool_call",
        "id": "ctc_012300",
        "status": "in_progress",
        "call_id": "call_new",
        "name": "c",
        "input": "",
        "namespace": "t",
    }


def test_a_call_of_an_unknown_tool_is_a_function_call() -> None:
    [call] = streamed(rows_of(CALL), request(), FORMAT)[-1]["response"]["output"]
    assert (call["type"], call["name"]) == ("function_call", "f")


def test_reasoning_is_sealed_on_request() -> None:
    stream = streamed(rows_of("<think>why</think>x"), request(), FORMAT, seal=lambda text: f"sealed({text})")
    reasoning = [event["item"].get("encrypted_content") for event in stream if "item" in event][:2]
    assert reasoning == [None, "sealed(why)"]
    assert stream[-1]["response"]["output"][0]["encrypted_content"] == "sealed(why)"


# ---- Ends


@pytest.mark.parametrize(
    ("reason", "expected"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("", {"type": "message", "content": [{"type": "output_text", "text": "", "annotations": [], "logprobs": []}]}),
        (
            "x",
            {"type": "message", "content": [{"type": "output_text", "text": "x", "annotations": [], "logprobs": []}]},
        ),
        ("<think>x", {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "x"}]}),
        ('<tool_call>\n{"name": "f", "arguments": {"a', {"type": "function_call", "arguments": '{"a'}),
    ],
)
def test_a_cut_answer_is_incomplete(reason: str, expected: str, text: str, end: dict[str, Any]) -> None:
    response = streamed(rows_of(text, reason), request(), FORMAT)[-1]["response"]
    assert (response["status"], response["completed_at"]) == ("incomplete", None)
    assert response["incomplete_details"] == {"reason": expected}
    [item] = response["output"]
    assert item["status"] == "incomplete"
    assert {key: item[key] for key in end} == end
    assert "phase" not in item


def test_only_the_last_item_of_a_cut_answer_is_incomplete() -> None:
    response = streamed(rows_of(f"a{CALL}b", "length"), request(), FORMAT)[-1]["response"]
    assert [(item["type"], item["status"]) for item in response["output"]] == [
        ("message", "completed"),
        ("function_call", "completed"),
        ("message", "incomplete"),
    ]


def test_a_call_without_arguments_is_closed_with_an_empty_object() -> None:
    call = '<tool_call>\n{"name": "f"}\n</tool_call>'
    calls = streamed(rows_of(call + CALL + call), request(), FORMAT)[-1]["response"]["output"]
    assert [item["arguments"] for item in calls] == [NO_ARGUMENTS, '{"a": 1}', NO_ARGUMENTS]
    call_and_text: list[Event] = [CallBegun(0, "f", "call_1"), Content("x"), CallArguments(0, "{}"), Finish("stop")]
    call_item, message = written([call_and_text])[-1]["response"]["output"]
    assert (call_item["arguments"], message["content"][0]["text"]) == (NO_ARGUMENTS, "x")


def test_an_answer_without_text_is_an_empty_message() -> None:
    stream = streamed(rows_of(""), request())
    assert types_of(stream) == [*BEGIN, *[name for name in TEXT if "delta" not in name], "completed"]


def test_an_answer_that_must_be_a_call_has_no_empty_message() -> None:
    stream = streamed(rows_of(""), request(), replace(FORMAT, must_call=True))
    assert stream[-1]["response"]["output"] == []


def test_a_backend_without_finish_reasons_and_counts() -> None:
    response = streamed([(0, b"x", None, ())], request(), usage=None)[-1]["response"]
    assert (response["status"], response["usage"]) == ("completed", None)


# ---- Phases


@pytest.mark.parametrize(
    ("text", "phases"),
    [
        ("a", ["final_answer"]),
        ("<think>r</think>a", ["final_answer"]),
        (f"a{CALL}", ["commentary"]),
        (f"a{CALL}b", ["commentary", "commentary"]),
    ],
)
def test_phases_are_set_when_the_message_is_done(text: str, phases: list[str]) -> None:
    stream = streamed(rows_of(text), request(), FORMAT)
    items = [(event["type"], event["item"]) for event in stream if event.get("item", {}).get("type") == "message"]
    assert [item.get("phase") for kind, item in items if kind.endswith("added")] == [None] * len(phases)
    assert [item["phase"] for kind, item in items if kind.endswith("done")] == phases


# ---- Log probabilities


def test_log_probabilities_come_with_their_text() -> None:
    stream = streamed([(0, b"a", None, TOKENS[:1]), (0, b"b", None, ()), (0, b"", "stop", TOKENS[1:])], request())
    deltas = [(event["delta"], event["logprobs"]) for event in stream if event["type"].endswith("text.delta")]
    a, b = (
        {
            "token": "a",
            "logprob": -0.5,
            "bytes": [97],
            "top_logprobs": [{"token": "a", "logprob": -0.5, "bytes": [97]}],
        },
        {
            "token": "b",
            "logprob": -1.5,
            "bytes": [98],
            "top_logprobs": [{"token": "a", "logprob": -0.25, "bytes": [97]}],
        },
    )
    assert deltas == [("a", [a]), ("b", []), ("", [b])]
    [message] = stream[-1]["response"]["output"]
    assert message["content"][0]["logprobs"] == [a, b]


def test_log_probabilities_of_reasoning_are_left_out() -> None:
    rows: list[Row] = [(0, b"<think>r", None, TOKENS[:1]), (0, b"</think>a", "stop", TOKENS[1:])]
    [_, message] = streamed(rows, request(), FORMAT)[-1]["response"]["output"]
    assert [token["token"] for token in message["content"][0]["logprobs"]] == ["b"]


# ---- Events in any order


def written(groups: Sequence[Sequence[Event]]) -> list[Any]:
    """The stream of these events, which are written in groups."""
    stream = writer(request(tools=TOOLS))
    return events(stream.begin(1, None) + b"".join(stream.write(0, group) for group in groups) + stream.end(None))


def test_a_refusal_is_a_part_of_a_message() -> None:
    stream = written([[Content("a"), Refusal("no"), Refusal("."), Content("b"), Finish("stop")]])
    part = ["content_part.added", "refusal.delta", "refusal.done", "content_part.done"]
    assert types_of(stream) == [*BEGIN, *TEXT[:-1], *part, *TEXT[1:], "completed"]
    [message] = stream[-1]["response"]["output"]
    assert [part["type"] for part in message["content"]] == ["output_text", "refusal", "output_text"]
    assert message["content"][1]["refusal"] == "no."


TEXTS = st.text(max_size=3)
PIECES = st.one_of(
    st.builds(Content, TEXTS),
    st.builds(Reasoning, TEXTS),
    st.builds(Refusal, TEXTS),
    st.builds(CallArguments, st.just(0), TEXTS),
    st.builds(CallBegun, st.just(0), st.sampled_from(["f", "t__c", "other"]), st.just("call_1")),
    st.builds(TokenLogprobs, st.sampled_from([TOKENS, TOKENS[:1]])),
)
GROUPS = st.lists(st.lists(PIECES, max_size=4), max_size=8)


REASONS = st.sampled_from([None, "stop", "length"])


def numbered(groups: Sequence[Sequence[Event]]) -> list[Event]:
    """The events in one list. Calls get their numbers, and arguments those of the last call."""
    sequence = [event for group in groups for event in group]
    n_calls = 0
    for event in sequence:
        if isinstance(event, CallBegun):
            event.index = n_calls
            n_calls += 1
        elif isinstance(event, CallArguments):
            event.index = n_calls - 1
    return sequence


def parts_of(sequence: Sequence[Event], reason: str | None) -> list[tuple[str, str]]:
    """Type and text of the parts and calls that these events consist of."""
    parts: list[tuple[str, str]] = []
    for event in sequence:
        match event:
            case CallBegun(name="t__c"):
                parts.append(("custom_tool_call", ""))
            case CallBegun():
                parts.append(("function_call", ""))
            case CallArguments(text=text):
                if parts and parts[-1][0].endswith("call"):
                    parts[-1] = (parts[-1][0], parts[-1][1] + text)
            case Content(text=text) | Refusal(text=text) | Reasoning(text=text):
                kind = {Content: "output_text", Refusal: "refusal", Reasoning: "reasoning_text"}[type(event)]
                if parts and parts[-1][0] == kind:
                    parts[-1] = (kind, parts[-1][1] + text)
                elif text:
                    parts.append((kind, text))
    complete = len(parts) - (reason == "length")
    return [
        (kind, text or (NO_ARGUMENTS if kind == "function_call" and i < complete else ""))
        for i, (kind, text) in enumerate(parts or [("output_text", "")])
    ]


def parts_in(output: Sequence[Any]) -> Iterator[tuple[str, str]]:
    for item in output:
        if item["type"].endswith("call"):
            yield item["type"], item.get("arguments", item.get("input"))
        for part in item.get("content", ()):
            yield part["type"], part.get("text", part.get("refusal"))


@given(groups=GROUPS, reason=REASONS)
def test_any_events_make_a_valid_stream_with_all_of_their_text(groups: list[list[Event]], reason: str | None) -> None:
    sequence = numbered(groups)
    finish: list[list[Event]] = [] if reason is None else [[Finish(reason)]]
    stream = written([*groups, *finish])
    assert list(parts_in(stream[-1]["response"]["output"])) == parts_of(sequence, reason)
    assert written([*[[event] for event in sequence], *finish]) == stream


@given(groups=GROUPS, code=st.sampled_from([400, 429, 500]))
def test_a_failure_leaves_the_last_item_open(groups: list[list[Event]], code: int) -> None:
    sequence = numbered(groups)
    stream = writer(request(tools=TOOLS))
    *before, error, failed = events(
        stream.begin(1, None) + stream.write(0, sequence) + stream.failure(APIError(code, "m"))
    )
    assert (error["type"], failed["type"]) == ("error", "response.failed")
    whole = written([sequence])[-1]["response"]["output"]
    assert failed["response"]["output"] == whole[: len(failed["response"]["output"])]
    added = [event for event in before if event["type"] == "response.output_item.added"]
    done = [event["item"] for event in before if event["type"] == "response.output_item.done"]
    assert done == failed["response"]["output"]
    assert len(done) == max(0, len(added) - 1)


@given(texts=st.lists(st.text(min_size=1)))
def test_text_alone_is_written_as_content_is(texts: list[str]) -> None:
    """`text` is the faster one."""
    fast, slow = writer(request()), writer(request())
    for text in texts:
        assert fast.text(0, text) == slow.write(0, [Content(text)])
    assert fast.end(None) == slow.end(None)


def test_a_percent_sign_in_an_id_is_kept() -> None:
    identity = AnswerIdentity("resp_1%d%b", 1, "m%d")
    stream = ResponsesWriter(identity, SETTINGS, {}, None, lambda: 0)
    data = stream.begin(1, None) + stream.text(0, "%d") + stream.text(0, "%b") + stream.end(None)
    [message] = events(data)[-1]["response"]["output"]
    assert (message["id"], message["content"][0]["text"]) == ("msg_1%d%b00", "%d%b")
