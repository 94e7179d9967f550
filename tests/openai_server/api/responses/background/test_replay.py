"""The log of a background response renders the bytes that a writer of its events would have written."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from openai_server.api.responses.background import event_log
from openai_server.api.responses.background.event_log import batches, entries, event_line
from openai_server.api.responses.background.recorder import Recorder
from openai_server.api.responses.background.replay import BEFORE_FIRST, Replay, settings_of
from openai_server.api.responses.output.compaction import CompactionWriter
from openai_server.api.responses.output.first_events import queued_events
from openai_server.api.responses.output.state import queued
from openai_server.api.responses.output.stream_events import encoded
from openai_server.api.responses.output.writer import ResponsesWriter
from openai_server.api.responses.settings import CalledTool, ResponsesRequest, Settings
from openai_server.core.errors import APIError, Overloaded
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
from openai_server.core.sealing import Seal
from openai_server.core.usage import Usage
from openai_server.http import sse
from openai_server.parsing.answer_format import parser_for
from openai_server.parsing.choice_reader import AnswerFormat
from tests.examples import examples
from tests.openai_server.api.responses.output.streams import IDENTITY, NOW, SETTINGS, events, request

TOOL: dict[str, Any] = {
    "type": "function",
    "name": "f",
    "description": None,
    "parameters": {"type": "object"},
    "strict": False,
}
BACKGROUND = replace(
    SETTINGS,
    background=True,
    store=True,
    tools=[TOOL],
    conversation="conv_1",
    metadata={"a": "b"},
    temperature=0.25,
)
TOOLS = {"f": CalledTool("function", "f"), "n__c": CalledTool("custom", "c", "n"), "p": CalledTool("custom", "p")}
FORMAT = AnswerFormat(partial(parser_for, "", "", []), lambda: "call_1", must_call=True, strict_tools=frozenset({"f"}))


def sealing() -> Seal:
    """A seal that never returns the same text twice, as the server's."""
    numbers = count()
    return lambda text: f"as1.{next(numbers)}.{len(text)}"


def body_of(settings: Settings) -> bytes:
    return msgspec.json.encode(queued(IDENTITY, settings))


@dataclass
class Response:
    """A response, its log, and the stream that it must have."""

    request: ResponsesRequest
    log: bytes
    stream: list[bytes]
    """The events in order, without `[DONE]`."""

    def replayed(self, log: bytes, after: int = BEFORE_FIRST, size: int = 1 << 16) -> bytes:
        replay = Replay(IDENTITY, settings_of(body_of(self.request.settings)), after=after)
        data = b"".join(replay.take(entries(batch)) for batch in batches(log, size))
        assert replay.is_over
        return data


def recorded(
    script: Sequence[Sequence[Event]],
    end: Usage | APIError | None,
    *,
    compacts: bool = False,
    format: AnswerFormat | None = None,
    seals: bool = False,
    has_begun: bool = True,
) -> Response:
    """A response with these events, each in the group that a writer gets at once."""
    of_client = replace(request(BACKGROUND, tools=TOOLS), compacts=compacts)
    seal = sealing() if seals or compacts else None
    recorder = Recorder(IDENTITY, of_client, format, seal, lambda: NOW)
    again = sealing() if seal else None
    writer: ResponsesWriter | CompactionWriter
    if compacts:
        assert again is not None
        writer = CompactionWriter(IDENTITY, of_client.settings, again, lambda: NOW)
    else:
        writer = ResponsesWriter.of(IDENTITY, of_client, format, again, lambda: NOW)
    log = stream = b""
    if has_begun:
        log, stream = recorder.begin(1, None), writer.begin(1, None)
    for group in script:
        if len(group) == 1 and isinstance(group[0], Content) and writer.writes_text:
            log += recorder.text(0, group[0].text)
            stream += writer.text(0, group[0].text)
        else:
            log += recorder.write(0, group)
            stream += writer.write(0, group)
    if not isinstance(end, APIError):
        try:
            stream += writer.end(end)
            log += recorder.end(end)
        except APIError as error:  # an empty summary
            end = error
    if isinstance(end, APIError):
        stream += writer.failure(end)
        log += recorder.failure(end)
    first = b"".join(map(encoded, queued_events(IDENTITY, of_client.settings)))
    assert recorder.response is not None
    assert (
        msgspec.json.encode(recorder.response) + b"}" + sse.END + sse.DONE
        == stream[stream.rindex(b'"response":{') + 11 :]
    )
    *blocks, done, rest = (first + stream).split(sse.END)
    assert (done + sse.END, rest) == (sse.DONE, b"")
    return Response(of_client, log, [block + sse.END for block in blocks])


# ---- Any response

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
numbers = st.floats(allow_nan=False, max_value=0.0)
tokens = st.builds(
    TokenLogprob,
    st.binary(max_size=3),
    st.none() | numbers,
    st.lists(st.tuples(st.binary(max_size=3), numbers), max_size=2),
)
text_events = st.one_of(
    st.builds(Content, texts),
    st.builds(Reasoning, texts),
    st.builds(Refusal, texts),
    st.builds(TokenLogprobs, st.lists(tokens, min_size=1, max_size=2)),
)


@st.composite
def calls(draw: st.DrawFn) -> list[Event]:
    name = draw(st.sampled_from([*TOOLS, "unknown"]))
    is_custom = name in TOOLS and TOOLS[name].kind == "custom"
    index = draw(st.integers(0, 3))
    pieces = draw(st.lists(texts, max_size=3))
    begun = CallBegun(index, name, draw(st.sampled_from(["call_1", "call_2"])), is_custom)
    return [begun, *(CallArguments(index, piece, is_custom) for piece in pieces)]


alone: st.SearchStrategy[list[Event]] = text_events.map(lambda event: [event])
continues: st.SearchStrategy[bool] = st.booleans()


@st.composite
def scripts(draw: st.DrawFn) -> list[list[Event]]:
    """Events in groups."""
    steps = draw(st.lists(alone | calls(), max_size=12))
    sequence = [event for step in steps for event in step]
    if draw(continues):
        sequence.append(Finish(draw(st.sampled_from(["stop", "length", "content_filter", "tool_calls"]))))
    groups: list[list[Event]] = []
    for event in sequence:
        is_next = draw(continues)
        if groups and is_next:
            groups[-1].append(event)
        else:
            groups.append([event])
    return groups


errors = st.sampled_from(
    [
        APIError(502, "The backend failed.", code="backend_error"),
        APIError(400, "Too long.", param="input", code="context_length_exceeded"),
        Overloaded(2.5),
    ]
)
usages = st.none() | st.builds(Usage, st.integers(0, 9), st.integers(0, 9), st.none() | st.integers(0, 9))


@given(data=st.data(), script=scripts(), end=usages | errors)
@settings(max_examples=examples(300))
def test_the_log_renders_the_same_bytes_however_it_is_cut(
    data: st.DataObject, script: list[list[Event]], end: Usage | APIError | None
) -> None:
    response = recorded(
        script,
        end,
        compacts=data.draw(st.booleans()),
        format=data.draw(st.sampled_from([None, FORMAT])),
        seals=data.draw(st.booleans()),
        has_begun=bool(script) or not isinstance(end, APIError) or data.draw(st.booleans()),
    )
    after = data.draw(st.integers(BEFORE_FIRST, len(response.stream) + 1))
    size = data.draw(st.integers(1, 400))
    assert response.replayed(response.log, after, size) == b"".join(response.stream[after + 1 :])


@given(script=scripts())
@settings(max_examples=examples(100))
def test_a_stream_can_go_on_after_each_of_its_events(script: list[list[Event]]) -> None:
    response = recorded(script, Usage(3, 4, 1), seals=True)
    for after in range(BEFORE_FIRST, len(response.stream)):
        assert response.replayed(response.log, after) == b"".join(response.stream[after + 1 :])


def test_the_stream_is_well_formed() -> None:
    script: list[list[Event]] = [[Reasoning("why"), Content("yes")], [Content("!")], [Content("!")], [Finish("stop")]]
    response = recorded(script, Usage(3, 4, 1), seals=True)
    stream = events(response.replayed(response.log) + sse.DONE)
    assert [event["type"] for event in stream[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert [event["response"]["status"] for event in stream[:3]] == ["queued", "queued", "in_progress"]
    assert stream[-1]["response"]["output"][0]["encrypted_content"] == "as1.0.3"


# ---- The parts


def test_tools_that_became_strict_are_so_from_the_run_on() -> None:
    response = recorded([[Content("a")]], None, format=FORMAT)
    stream = events(response.replayed(response.log) + sse.DONE)
    strict = [event["response"]["tools"][0]["strict"] for event in stream if "response" in event]
    assert strict == [False, False, True, True]


def test_the_settings_are_those_of_the_response_object() -> None:
    assert settings_of(body_of(BACKGROUND)) == BACKGROUND


def test_a_response_that_waits_is_queued() -> None:
    replay = Replay(IDENTITY, BACKGROUND, after=BEFORE_FIRST)
    assert replay.wait() == b"".join(map(encoded, queued_events(IDENTITY, BACKGROUND)))
    assert replay.wait() == b""
    assert (replay.last, replay.has_output) == (1, False)


@pytest.mark.parametrize("n_lines", [0, 1, 3])
def test_a_response_whose_runner_ended_fails_after_its_last_event(n_lines: int) -> None:
    response = recorded([[Content("a")], [Content("b")]], None)
    log = b"".join(response.log.splitlines(keepends=True)[:n_lines])
    replay = Replay(IDENTITY, BACKGROUND, after=BEFORE_FIRST)
    data = replay.take(entries(log)) + replay.fail(APIError(500, "Its server ended."))
    assert replay.is_over
    last = events(data + sse.DONE)[-1]
    assert (last["type"], last["response"]["error"]) == (
        "response.failed",
        {"code": "server_error", "message": "Its server ended."},
    )


@pytest.mark.parametrize(("after", "number"), [(4, 4), (BEFORE_FIRST, 0)])
def test_a_lost_response_ends_with_an_error_after_which_it_can_be_resumed(after: int, number: int) -> None:
    replay = Replay(IDENTITY, BACKGROUND, after=after)
    event = msgspec.json.decode(replay.lose(APIError(404, "Gone.")).split(b"data: ")[1])
    assert (event["type"], event["sequence_number"], event["message"]) == ("error", number, "Gone.")


def test_the_log_of_a_newer_version_is_refused() -> None:
    head = event_log.line(event_log.Head(event_log.VERSION + 1, False, False, False))
    replay = Replay(IDENTITY, BACKGROUND, after=BEFORE_FIRST)
    last = events(replay.take(entries(head)) + sse.DONE)[-1]
    assert "newer version" in last["response"]["error"]["message"]


@given(st.lists(text_events, max_size=5))
def test_events_are_read_as_they_were_written(sequence: list[Event]) -> None:
    assert entries(b"".join(map(event_line, sequence))) == sequence


def test_content_costs_few_bytes() -> None:
    assert event_line(Content(" word")) == b'" word"\n'


@given(st.lists(st.binary(max_size=5), min_size=1).map(lambda lines: b"".join(x.hex().encode() + b"\n" for x in lines)))
def test_batches_are_whole_lines_of_limited_size(data: bytes) -> None:
    parts = list(batches(data, 7))
    assert b"".join(parts) == data
    for part in parts:
        assert part.endswith(b"\n")
        assert len(part) <= 7 or part.count(b"\n") == 1
