"""Conversations of `/v1/responses` that become shorter: summaries in place of them, truncation, and their tokens."""

from typing import Any

import pytest
from openai.types.responses import CompactedResponse, Response, ResponseCompactionItem

from openai_server.api.responses.output.summary import MAX_TOKENS, PROMPT
from openai_server.api.sealed_items import SUMMARY
from tests.anyserve_worker.fakes import FakeRunner, FakeVectorRunner
from tests.openai_server.api.responses.output.streams import EVENT_TYPES, EXTENSIONS
from tests.shapes import exact
from tests.wire.fake_worker import (
    FakeWorker,
    Refusal,
    answers,
    hangs_midway,
    inputs_of,
    last_token,
    streams,
    token,
    whole,
)
from tests.wire.sidecar import Reply, Sidecar, app_for, running
from tests.wire.worker import worker

TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "We launch on Tuesday."},
    {"role": "assistant", "content": "Noted."},
    {
        "role": "user",
        "content": [{"type": "input_text", "text": "Tell support"}, {"type": "input_text", "text": "first."}],
    },
]
TRIGGER = {"type": "compaction_trigger"}


def summarizer(text: str = "  Tuesday, support first.\n") -> FakeWorker:
    pieces = [token(character) for character in text]
    return FakeWorker(answers(whole(text)), streams(*pieces, last_token()))


async def test_a_file_of_the_user_stays_a_file() -> None:
    file = {"type": "input_file", "file_data": "data:text/plain;base64,VHVlc2RheQ==", "filename": "date.txt"}
    backend = summarizer()
    async with running(backend) as sidecar:
        text = {"type": "input_text", "text": "When?"}
        reply = await compact(sidecar, input=[{"role": "user", "content": [file, text]}])
        assert reply.status == 200, reply.body
        assert "<title>date.txt</title>\nTuesday" in prompt_of(backend)
        CompactedResponse.construct(**reply.json)
        message, item = reply.json["output"]
        assert message["content"] == [file, text]
        await respond(sidecar, message, item, {"role": "user", "content": "Next?"})
        assert "<title>date.txt</title>\nTuesday" in prompt_of(backend)


async def compact(sidecar: Sidecar, **body: Any) -> Reply:
    return await sidecar.send("POST", "/v1/responses/compact", {"model": "tiny", "input": TALK, **body})


async def respond(sidecar: Sidecar, *items: Any, **body: Any) -> Reply:
    return await sidecar.send("POST", "/v1/responses", {"input": [*items], **body})


def prompt_of(backend: FakeWorker) -> str:
    [prompt] = inputs_of(backend.requests[-1])["prompt"]
    return str(prompt.decode())


# ---- Compaction


async def test_a_conversation_becomes_its_user_messages_and_a_sealed_summary() -> None:
    backend = summarizer()
    async with running(backend) as sidecar:
        reply = await compact(sidecar, instructions="Be brief.", max_output_tokens=None, tools=[])
        assert reply.status == 200, reply.body
        *messages, item = reply.json["output"]
        CompactedResponse.construct(**reply.json)
        exact(ResponseCompactionItem, item)
        assert [(message["role"], message["content"]) for message in messages] == [
            ("user", [{"type": "input_text", "text": "We launch on Tuesday."}]),
            ("user", [{"type": "input_text", "text": "Tell support"}, {"type": "input_text", "text": "first."}]),
        ]
        assert reply.json["object"] == "response.compaction"
        assert reply.json["usage"]["total_tokens"] == 5
        assert "Tuesday" not in item["encrypted_content"]
        prompt = prompt_of(backend)
        assert prompt.index("Be brief.") < prompt.index("Noted.") < prompt.index(PROMPT)
        assert inputs_of(backend.requests[-1])["max_tokens"] == [MAX_TOKENS]

        await respond(sidecar, *messages, item, {"role": "user", "content": "Next?"})
        prompt = prompt_of(backend)
        assert f"{SUMMARY}Tuesday, support first." in prompt
        assert prompt.index("Tell support") < prompt.index(SUMMARY) < prompt.index("Next?")
        assert "Noted." not in prompt

        again = await compact(sidecar, input=[*messages, item])
        assert len(again.json["output"]) == 3, "the old summary is not a message of the user"
        assert SUMMARY in prompt_of(backend)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_trigger_returns_the_summary_as_the_response(stream: bool) -> None:
    backend = summarizer()
    async with running(backend) as sidecar:
        reply = await respond(sidecar, *TALK, TRIGGER, stream=stream, tools=[{"type": "function", "name": "f"}])
        response = reply.events[-1]["response"] if stream else reply.json
        exact(Response, response, EXTENSIONS)
        [item] = response["output"]
        assert (response["status"], item["type"]) == ("completed", "compaction")
        assert prompt_of(backend).rstrip().count(PROMPT) == 1
        await respond(sidecar, item, {"role": "user", "content": "Next?"})
        assert f"{SUMMARY}Tuesday, support first." in prompt_of(backend)
    if stream:
        types = [event["type"] for event in reply.events]
        assert types[:4] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.compaction.compacting",
        ]
        assert types.count("response.compaction.compacting") == 2, "one for 16 pieces"
        assert types[-2:] == ["response.output_item.done", "response.completed"]
        assert [event["sequence_number"] for event in reply.events] == list(range(len(types)))
        assert {event["item"]["id"] for event in reply.events if "item" in event} == {item["id"]}
        for event in reply.events:
            exact(EVENT_TYPES[event["type"]], event, EXTENSIONS)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_empty_summary_is_an_error(stream: bool) -> None:
    async with running(summarizer(" ")) as sidecar:
        whole_reply = await compact(sidecar)
        reply = await respond(sidecar, *TALK, TRIGGER, stream=stream)
    assert (whole_reply.status, whole_reply.error["message"]) == (502, "The model returned an empty summary.")
    if stream:
        error, failed = reply.events[-2:]
        assert error["message"] == failed["response"]["error"]["message"] == "The model returned an empty summary."
    else:
        assert reply.status == 502


async def test_a_failure_of_a_stream_is_reported_in_both_forms() -> None:
    backend = FakeWorker(stream=streams(token("a"), fails=Refusal("INTERNAL", "secret")))
    async with running(backend) as sidecar:
        reply = await respond(sidecar, *TALK, TRIGGER, stream=True)
    assert [event["type"] for event in reply.events[-2:]] == ["error", "response.failed"]


async def test_a_client_that_leaves_ends_the_summary() -> None:
    backend = FakeWorker(stream=hangs_midway)
    async with running(backend) as sidecar:
        call = sidecar.start("POST", "/v1/responses", {"input": [*TALK, TRIGGER], "stream": True})
        await backend.arrived.get()
        call.disconnect()
        await backend.cancelled.get()
        await call.task


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": None}, "model"),
        ({"stream": True}, "stream"),
        ({"input": []}, "input"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": [TRIGGER, *TALK]}, "input[0]"),
        ({"input": [{"type": "compaction", "encrypted_content": "as1.AAAA"}, *TALK]}, "input[0].encrypted_content"),
    ],
)
async def test_a_bad_request_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    async with running(summarizer()) as sidecar:
        reply = await compact(sidecar, **body)
    assert (reply.status, reply.error["param"]) == (400, param)


# ---- Truncation and tokens, with the bundled worker. Its fake runner has one token for each byte.


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n_turns", [40, 400, 4000])
async def test_truncation_drops_the_oldest_messages(stream: bool, n_turns: int) -> None:
    talk = [{"role": role, "content": f"{i:050}"} for i in range(n_turns) for role in ("user", "assistant")]
    body: dict[str, Any] = {"input": [*talk, {"role": "user", "content": "last"}], "max_output_tokens": 20}
    async with worker({"tiny": FakeRunner(n_ctx=1000, n_cells=1000)}) as served, app_for(served.port) as sidecar:
        refused = await sidecar.send("POST", "/v1/responses", {**body, "stream": stream})
        reply = await sidecar.send("POST", "/v1/responses", {**body, "truncation": "auto", "stream": stream})
        alone = await sidecar.send(
            "POST", "/v1/responses", {"input": "x" * 2000, "truncation": "auto", "stream": stream}
        )
    assert (refused.status, refused.error["code"], refused.error["param"]) == (400, "context_length_exceeded", "input")
    assert reply.status == 200, reply.body
    response = reply.events[-1]["response"] if stream else reply.json
    assert response["truncation"] == "auto"
    assert 500 < response["usage"]["input_tokens"] <= 980
    assert (alone.status, alone.error["code"]) == (400, "context_length_exceeded"), "nothing may be dropped"


@pytest.mark.parametrize(
    "body",
    [
        {"input": "hi"},
        {"input": TALK, "instructions": "Be brief.", "tools": [{"type": "function", "name": "f", "parameters": {}}]},
        {"input": [*TALK, TRIGGER]},
    ],
)
async def test_the_counted_tokens_are_those_of_the_response(body: dict[str, Any]) -> None:
    runners = {"tiny": FakeRunner(n_ctx=4000, n_cells=4000)}, {"tiny": FakeVectorRunner()}
    async with worker(runners[0], vector_runners=runners[1]) as served, app_for(served.port) as sidecar:
        counted = await sidecar.send("POST", "/v1/responses/input_tokens", body)
        reply = await sidecar.send("POST", "/v1/responses", {**body, "max_output_tokens": 30})
    assert counted.status == reply.status == 200, (counted.body, reply.body)
    assert counted.json == {"object": "response.input_tokens", "input_tokens": reply.json["usage"]["input_tokens"]}
