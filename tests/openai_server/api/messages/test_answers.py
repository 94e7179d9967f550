"""Whole answers and streams: both have the same blocks, and all objects fit the types of the `anthropic` package."""

import json
from typing import Any

import pytest
from anthropic import types
from pydantic import BaseModel

from openai_server.api.answer_stream import AnswerStream
from openai_server.api.answers import AnswerIdentity
from openai_server.api.messages.schema import MessagesTurn
from openai_server.api.messages.whole import whole
from openai_server.api.messages.writer import MessagesWriter
from openai_server.core.answer import Answer, Choice
from openai_server.core.errors import APIError, Overloaded
from openai_server.core.events import Content, Finish, Refusal
from openai_server.core.rows import Row
from openai_server.core.turn import Sampling, Turn
from openai_server.core.usage import Usage
from openai_server.http.json_response import encode
from openai_server.parsing.choice_reader import AnswerFormat
from openai_server.parsing.parser import PlainParser
from openai_server.parsing.reasoning import ReasoningParser, ReasoningTags
from openai_server.parsing.tools.tagged import HERMES
from tests.openai_server.api.messages.package import check

IDENTITY = AnswerIdentity("msg_1", 0, "tiny")
USED = Usage(prompt=10, completion=5, cached=4, marked=2)
CALL = '<tool_call>{"name": "f", "arguments": {"a": [1, "ä"]}}</tool_call>'


def turn(*stops: str, limit: int | None = 100, omits_thinking: bool = False) -> MessagesTurn:
    neutral = Turn(sampling=Sampling(), token_limit=limit, names={})
    return MessagesTurn(neutral, omits_thinking=omits_thinking, stop_sequences=stops)


def format(*stops: str) -> AnswerFormat:
    """Reasoning, then text and calls."""
    return AnswerFormat(
        lambda: ReasoningParser(ReasoningTags("<think>", "</think>"), HERMES.parser(()), False),
        iter(["call_1", "call_2", "call_3"]).__next__,
        stops=stops,
    )


def whole_answer(
    text: str,
    reason: str | None = "stop",
    request: MessagesTurn | None = None,
    format: AnswerFormat | None = None,
    used: Usage | None = USED,
) -> Any:
    answer = whole(IDENTITY, [Answer([Choice(0, text, reason)], used)], request or turn(), format)
    body = json.loads(encode(answer.content))
    check(types.Message, body)
    return body


def events(data: bytes) -> list[Any]:
    """Returns the data of each event, whose name must be its type."""
    blocks = data.decode().split("\n\n")
    assert blocks.pop() == ""
    result = []
    for block in blocks:
        name, payload = block.split("\n")
        event = json.loads(payload.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        result.append(event)
    return result


def streamed(
    pieces: list[str],
    reason: str | None = "stop",
    request: MessagesTurn | None = None,
    format: AnswerFormat | None = None,
    used: Usage | None = USED,
) -> list[Any]:
    stream = AnswerStream(MessagesWriter(IDENTITY, request or turn()), 1, format)
    rows: list[Row] = [(0, piece.encode(), None, ()) for piece in pieces]
    if reason is not None:
        rows.append((0, b"", reason, ()))
    data = b"".join(stream.take([row]) for row in rows) + stream.end(used)
    return events(data)


def assembled(stream: list[Any]) -> Any:
    """Returns the message of a stream, after a check of the order and the types of its events."""
    first, *rest, delta, last = stream
    assert (first["type"], delta["type"], last) == ("message_start", "message_delta", {"type": "message_stop"})
    for event in stream:
        check(types.RawMessageStreamEvent, event)
    message = first["message"]
    assert message["content"] == []
    assert message["stop_reason"] is None
    arguments = ""
    is_open = False
    kind_of_delta = {
        "text": {"text_delta"},
        "thinking": {"thinking_delta", "signature_delta"},
        "tool_use": {"input_json_delta"},
    }
    for event in rest:
        content = message["content"]
        match event["type"]:
            case "content_block_start":
                assert not is_open
                assert event["index"] == len(content)
                content.append(event["content_block"])
                is_open, arguments = True, ""
            case "content_block_delta":
                assert is_open
                assert event["index"] == len(content) - 1
                block, change = content[-1], event["delta"]
                assert change["type"] in kind_of_delta[block["type"]]
                assert not block.get("signature"), "the signature is the last delta"
                match change["type"]:
                    case "input_json_delta":
                        arguments += change["partial_json"]
                    case "signature_delta":
                        block["signature"] = change["signature"]
                    case kind:
                        block[kind.removesuffix("_delta")] += change[kind.removesuffix("_delta")]
            case "content_block_stop":
                assert is_open
                assert event["index"] == len(content) - 1
                is_open = False
                if content[-1]["type"] == "tool_use":
                    content[-1]["input"] = json.loads(arguments)
    assert not is_open
    return {**message, **delta["delta"], "usage": {**message["usage"], **delta["usage"]}}


TEXTS = [
    "well",
    "",
    "  \n ",
    "\n\n well \n",
    "<think>hm</think>well",
    "<think>hm",
    "<think></think>well",
    f"<think>hm</think>\n\n{CALL}",
    f"<think>hm</think>well{CALL}\n{CALL}",
    f"{CALL}and now?",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("omits_thinking", [False, True])
def test_a_stream_has_the_blocks_of_the_whole_answer(text: str, omits_thinking: bool) -> None:
    request = turn(omits_thinking=omits_thinking)
    expected = whole_answer(text, request=request, format=format())
    for pieces in ([text], list(text)):
        assert assembled(streamed(pieces, request=request, format=format())) == expected


def test_the_blocks_of_an_answer() -> None:
    body = whole_answer(f"<think>hm</think>well{CALL}", format=format())
    thinking, text, call = body["content"]
    assert (thinking["type"], thinking["thinking"]) == ("thinking", "hm")
    assert len(thinking["signature"]) == 44
    assert text == {"type": "text", "text": "well", "citations": []}
    assert call == {
        "type": "tool_use",
        "id": "toolu_1",
        "name": "f",
        "input": {"a": [1, "ä"]},
        "caller": {"type": "direct"},
    }
    assert (body["id"], body["model"], body["role"]) == ("msg_1", "tiny", "assistant")


def test_omitted_thinking_keeps_its_signature() -> None:
    text = "<think>hm</think>well"
    shown = whole_answer(text, format=format())["content"][0]
    hidden = whole_answer(text, request=turn(omits_thinking=True), format=format())["content"][0]
    assert hidden == {**shown, "thinking": ""}
    assert whole_answer("<think>no</think>well", format=format())["content"][0]["signature"] != shown["signature"]
    stream = streamed(list(text), request=turn(omits_thinking=True), format=format())
    assert "thinking_delta" not in {
        event["delta"]["type"] for event in stream if event["type"] == "content_block_delta"
    }


# ---- Usage


def test_cached_tokens_are_counted_once() -> None:
    usage = whole_answer("x")["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]) == (6, 4, 0)
    assert (usage["output_tokens"], usage["output_tokens_details"]) == (5, {"thinking_tokens": 2})


def test_counts_that_the_backend_lacks_are_null_where_the_api_allows_it() -> None:
    usage = whole_answer("x", used=Usage(10, 5, None))["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens_details"]) == (10, None, None)
    usage = whole_answer("x", used=None)["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (0, 0)
    assert assembled(streamed(["x"], used=None))["usage"] == usage


def test_the_first_event_has_the_counts_of_the_prompt() -> None:
    writer = MessagesWriter(IDENTITY, turn())
    [start] = events(writer.begin(1, Usage(10, 0, 4)))
    check(types.RawMessageStreamEvent, start)
    usage = start["message"]["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (6, 4, 0)


# ---- Stop reasons

REASONS: list[tuple[str, str | None, dict[str, Any], tuple[str, str | None]]] = [
    ("x", "stop", {}, ("end_turn", None)),
    ("x", None, {}, ("end_turn", None)),
    ("x", "length", {"used": Usage(10, 100, 0)}, ("max_tokens", None)),
    ("x", "length", {"used": Usage(10, 99, 0)}, ("model_context_window_exceeded", None)),
    ("x", "length", {"used": None}, ("max_tokens", None)),
    (f"{CALL}", "stop", {}, ("tool_use", None)),
    (f"{CALL}{CALL}", None, {}, ("tool_use", None)),
    ('<tool_call>{"name": "f", "arguments": {"a": ', "length", {"used": Usage(10, 100, 0)}, ("max_tokens", None)),
    ("xEND", "stop", {"request": turn("END", "x")}, ("stop_sequence", "END")),
    ("xEN", "stop", {"request": turn("END")}, ("end_turn", None)),
    ("xEND", "length", {"request": turn("END"), "used": Usage(10, 100, 0)}, ("max_tokens", None)),
    ("x<|im_end|>", "stop", {"request": turn("END")}, ("end_turn", None)),
]
STOPS = ("END", "x", "D", "<|im_end|>")


@pytest.mark.parametrize(("text", "reason", "options", "expected"), REASONS)
def test_why_an_answer_ended(text: str, reason: str | None, options: dict[str, Any], expected: Any) -> None:
    body = whole_answer(text, reason, format=format(*STOPS), **options)
    assert (body["stop_reason"], body["stop_sequence"]) == expected
    rows: list[Row] = [(0, text.encode(), reason, ())]
    stream = AnswerStream(MessagesWriter(IDENTITY, options.get("request") or turn()), 1, format(*STOPS))
    data = stream.take(rows) + stream.end(options.get("used", USED))
    if not text.startswith("<tool_call>{") or text.endswith(">"):
        assert assembled(events(data)) == body


def test_the_stop_sequence_is_not_part_of_the_text() -> None:
    body = whole_answer("xEND", format=format("END", "D"), request=turn("END", "D"))
    assert body["content"][0]["text"] == "x"
    assert body["stop_sequence"] == "END"
    plain = AnswerFormat(PlainParser, str, stops=("END",))
    assert whole_answer("xEND", format=plain, request=turn("END"))["content"][0]["text"] == "x"


def test_a_call_that_was_cut_off_has_no_input() -> None:
    for cut in range(CALL.index('"arg'), len(CALL) - len("}</tool_call>")):
        body = whole_answer(CALL[:cut], "length", format=format())
        for block in body["content"]:
            assert block["type"] == "tool_use"
            assert block["input"] == {}
        stream = streamed(list(CALL[:cut]), "length", format=format())
        parts = [event["delta"]["partial_json"] for event in stream if event.get("delta", {}).get("partial_json")]
        assert '{"a": [1, "ä"]}'.startswith("".join(parts))


def test_arguments_that_are_no_object_are_no_input() -> None:
    for arguments in ("[1]", "1", '"x"', "null"):
        body = whole_answer(f'<tool_call>{{"name": "f", "arguments": {arguments}}}</tool_call>', format=format())
        assert all(block.get("input", {}) == {} for block in body["content"])


def test_a_refusal_is_text_with_a_reason_of_its_own() -> None:
    writer = MessagesWriter(IDENTITY, turn())
    data = writer.begin(1, None) + writer.write(0, [Content("I "), Refusal("can't"), Finish("stop")]) + writer.end(USED)
    message = assembled(events(data))
    assert message["content"] == [{"type": "text", "text": "I can't", "citations": []}]
    assert message["stop_reason"] == "refusal"
    assert message["stop_details"] == {"type": "refusal", "category": None, "explanation": None}


# ---- Around the answer


def test_a_ping_is_an_event() -> None:
    assert events(MessagesWriter(IDENTITY, turn()).ping) == [{"type": "ping"}]


@pytest.mark.parametrize(("error", "type"), [(APIError(500, "no"), "api_error"), (Overloaded(), "overloaded_error")])
def test_a_failure_is_an_event(error: APIError, type: str) -> None:
    stream = AnswerStream(MessagesWriter(IDENTITY, turn()), 1)
    data = stream.take([(0, b"one", None, ())]) + stream.failure(error)
    *before, failure = events(data)
    assert before[-1]["type"] == "content_block_delta"
    assert failure["error"] == {"type": type, "message": error.message}
    check(types.shared.ErrorResponse, failure)


def test_the_validation_is_strict() -> None:
    body = whole_answer("x")
    for changed in ({**body, "x": 1}, {key: body[key] for key in body if key != "container"}):
        with pytest.raises(AssertionError):
            check(types.Message, changed)
    with pytest.raises(ValueError, match="content"):
        check(types.Message, {**body, "content": [{"type": "text"}]})
    assert issubclass(types.Message, BaseModel)
