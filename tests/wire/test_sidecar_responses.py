"""`/v1/responses` over real gRPC: answers, streams, errors, and responses that are sent back."""

from typing import Any

import pytest
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from protos import contract
from tests.openai_server.api.responses.output.streams import EVENT_TYPES, EXTENSIONS
from tests.ops.able_worker import PARAMETERS, able_worker
from tests.shapes import exact
from tests.wire.fake_worker import (
    FakeWorker,
    Refusal,
    answers,
    hangs_midway,
    inputs_of,
    last_token,
    refuses,
    streams,
    token,
    whole,
)
from tests.wire.sidecar import Reply, Sidecar, running

EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}
CUSTOM = {"type": "custom", "name": "patch"}
NAMESPACE = {"type": "namespace", "name": "n", "description": "d", "tools": [FUNCTION]}
SEALED = {"include": ["reasoning.encrypted_content"], "store": False}
REQUESTS: list[dict[str, Any]] = [
    {"input": "hi"},
    {"input": "hi", "include": ["message.output_text.logprobs"], "top_logprobs": 2},
    {"input": "hi", "tools": [FUNCTION], "enable_thinking": True},
    {"input": "hi", "tools": [NAMESPACE], "enable_thinking": True, **SEALED},
]


async def respond(sidecar: Sidecar, **body: Any) -> Reply:
    return await sidecar.send("POST", "/v1/responses", body)


def calling(text: str) -> FakeWorker:
    """A worker with reasoning and calls that always returns this text."""
    return FakeWorker(answers(whole(text)), streams(token(text), last_token()), parameters=PARAMETERS)


@pytest.mark.parametrize("body", REQUESTS)
async def test_a_stream_ends_with_the_response_that_is_returned_without_it(body: dict[str, Any]) -> None:
    async with running(able_worker()) as sidecar:
        reply = await respond(sidecar, **body)
        exact(Response, reply.json, EXTENSIONS)
        events = (await respond(sidecar, **body, stream=True)).events
    for event in events:
        exact(EVENT_TYPES[event["type"]], event, EXTENSIONS)
    assert _without_ids(events[-1]["response"]) == _without_ids(reply.json)
    assert reply.json["usage"]["total_tokens"] == 5


def _without_ids(response: dict[str, Any]) -> dict[str, Any]:
    own = ("id", "call_id", "encrypted_content")
    output = [{key: value for key, value in item.items() if key not in own} for item in response["output"]]
    return {**response, "id": "", "created_at": 0, "completed_at": 0, "output": output}


async def test_the_openai_package_assembles_a_stream() -> None:
    async with running(able_worker()) as sidecar:
        events = (await respond(sidecar, **REQUESTS[2], stream=True)).events
    state: ResponseStreamState[None] = ResponseStreamState(input_tools=[], text_format=omit)
    assembled: list[Any] = []
    for event in events:
        assembled += state.handle_event(EVENT.validate_python(event))
    response = assembled[-1].response
    assert response.output_text == "well"
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]


# ---- Sent back


@pytest.mark.parametrize("body", REQUESTS)
@pytest.mark.parametrize("stream", [False, True])
async def test_our_own_items_are_accepted(body: dict[str, Any], stream: bool) -> None:
    async with running(able_worker()) as sidecar:
        reply = await respond(sidecar, **body, stream=stream)
        response = reply.events[-1]["response"] if stream else reply.json
        typed = Response.model_validate(response)
        for items in (
            response["output"],
            [item.model_dump() for item in typed.output],
            [item.model_dump(exclude_unset=True) for item in typed.output],
            [item.model_dump(mode="json", exclude_none=True) for item in typed.output],
        ):
            results = [
                {"type": "function_call_output", "call_id": item["call_id"], "output": "sunny"}
                for item in items
                if item["type"] == "function_call"
            ]
            user = {"role": "user", "content": "and now?"}
            again = await respond(sidecar, **{**body, "input": [user, *items, *results, user]})
            assert again.status == 200, again.body


TEMPLATE = (
    "{% for m in messages %}({{ m.reasoning_content }}|{{ m.content }}){% endfor %}"
    "{% if false %}<think></think>{% endif %}"
)


async def test_sealed_reasoning_is_read_again_by_the_same_model() -> None:
    worker = FakeWorker(
        answers(whole("<think>because</think>yes")), parameters={"chat_template": TEMPLATE}, models=("tiny", "other")
    )
    async with running(worker) as sidecar:
        reply = await respond(sidecar, model="tiny", input="hi", **SEALED)
        reasoning, message = reply.json["output"]
        assert reasoning["content"] == [{"type": "reasoning_text", "text": "because"}]
        assert "because" not in reasoning["encrypted_content"]
        for text, items in (("because", [reasoning, message]), ("because", [{**reasoning, "content": None}, message])):
            again = await respond(sidecar, model="tiny", input=[*items, {"role": "user", "content": "why"}])
            assert again.status == 200, again.body
            assert text in inputs_of(worker.requests[-1])["prompt"][0].decode()
        foreign = await respond(
            sidecar, model="other", input=[{**reasoning, "content": None}, {"role": "user", "content": "why"}]
        )
    assert (foreign.status, foreign.error["param"]) == (400, "input[0].encrypted_content")


async def test_reasoning_is_not_sealed_unless_requested() -> None:
    async with running(calling("<think>r</think>a")) as sidecar:
        reply = await respond(sidecar, input="hi", enable_thinking=True)
    assert "encrypted_content" not in reply.json["output"][0]


# ---- Calls


async def test_calls_have_the_names_of_the_request() -> None:
    text = (
        '<tool_call>{"name": "n__f", "arguments": {"a": 1}}</tool_call>'
        '<tool_call>{"name": "patch", "arguments": {"input": "+ \\"a\\"\\n"}}</tool_call>'
    )
    async with running(calling(text)) as sidecar:
        body = {"input": "hi", "tools": [NAMESPACE, CUSTOM]}
        reply = await respond(sidecar, **body)
        events = (await respond(sidecar, **body, stream=True)).events
    for output in (reply.json["output"], events[-1]["response"]["output"]):
        function, custom = output
        assert (function["type"], function["namespace"], function["name"]) == ("function_call", "n", "f")
        assert (custom["type"], custom["name"], custom["input"]) == ("custom_tool_call", "patch", '+ "a"\n')
        assert "namespace" not in custom
    deltas = [event["delta"] for event in events if event["type"] == "response.custom_tool_call_input.delta"]
    assert "".join(deltas) == '+ "a"\n'


# ---- Ends and errors


async def test_a_response_without_room_for_the_rest_is_incomplete() -> None:
    worker = FakeWorker(answers(whole("a", reason="length")), streams(token("a"), last_token(reason="length")))
    async with running(worker) as sidecar:
        reply = await respond(sidecar, input="hi", max_output_tokens=1)
        last = (await respond(sidecar, input="hi", max_output_tokens=1, stream=True)).events[-1]
    assert last["type"] == "response.incomplete"
    for response in (reply.json, last["response"]):
        assert (response["status"], response["completed_at"]) == ("incomplete", None)
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}
        assert response["max_output_tokens"] == 1


LONG = Refusal("INVALID_ARGUMENT", "300 tokens", reason=contract.REASON_CONTEXT_LENGTH)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_conversation_that_is_too_long_is_refused_with_its_code(stream: bool) -> None:
    async with running(FakeWorker(refuses(LONG), streams(fails=LONG))) as sidecar:
        reply = await respond(sidecar, input="hi", stream=stream)
    assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "context_length_exceeded", "input")


@pytest.mark.parametrize(
    ("failure", "code"), [(LONG, "context_length_exceeded"), (Refusal("INTERNAL", "oops"), "server_error")]
)
async def test_a_failure_in_a_stream_is_an_event(failure: Refusal, code: str) -> None:
    async with running(FakeWorker(stream=streams(token("a"), fails=failure))) as sidecar:
        *_, delta, error, failed = (await respond(sidecar, input="hi", stream=True)).events
    assert (error["type"], failed["type"]) == ("error", "response.failed")
    assert failed["response"]["error"]["code"] == code
    assert (delta["type"], delta["delta"]) == ("response.output_text.delta", "a")
    assert failed["response"]["output"] == []


async def test_a_silent_stream_has_pings_which_are_comments() -> None:
    async with running(FakeWorker(stream=hangs_midway), ping_interval=0.01) as sidecar:
        call = sidecar.start("POST", "/v1/responses", {"input": "hi", "stream": True})
        await call.until(b"response.output_text.delta")
        await call.until(b": ping\n\n: ping\n\n")
        call.disconnect()


async def test_the_wait_of_a_rate_limit_is_in_seconds() -> None:
    async with running(FakeWorker(), requests_per_minute=1) as sidecar:
        await respond(sidecar, input="hi")
        reply = await respond(sidecar, input="hi")
    assert (reply.status, reply.error["code"]) == (429, "rate_limit_exceeded")
    assert "try again in 60s" in reply.error["message"] or "try again in 59" in reply.error["message"]
