"""Models that take chats behind the sidecar: their requests, and what each API's client gets of their answers."""

import asyncio
from typing import Any

import grpc
import pytest

from tests.wire.chat_server import (
    ALL_KINDS,
    ANSWER,
    CALL,
    ChatModel,
    ChatServer,
    Failure,
    Hang,
    Step,
    events,
    finish,
    running,
    server_of,
    text,
)
from tests.wire.foreign_server import ForeignModel, answer
from tests.wire.sidecar import Reply

TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]


def content_of(reply: Reply) -> str:
    deltas = [event["choices"][0]["delta"] for event in reply.events if event["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


# ---- Chat completions


@pytest.mark.parametrize("kind", ALL_KINDS)
async def test_a_whole_chat_is_answered_by_events(kind: str) -> None:
    server = server_of(kind, ANSWER)
    async with running(server) as sidecar:
        reply = await sidecar.chat(model="m", temperature=0.5, user="u")
    assert reply.status == 200, reply.body
    [choice] = reply.json["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": "one two",
        "refusal": None,
        "reasoning_content": "Hm.",
    }
    assert choice["finish_reason"] == "stop"
    assert reply.json["model"] == "m"
    usage = reply.json["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (7, 5, 12)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 2}
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 1}
    assert server.last.parameters["task"].string_param == "chat"
    assert server.sent("messages") == [{"role": "user", "content": "hi"}]
    assert server.sent("body") == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": False,
        "temperature": 0.5,
        "user": "u",
    }
    assert server.sent("input_items") is None


@pytest.mark.parametrize("kind", ALL_KINDS)
async def test_a_streamed_chat_is_answered_by_events(kind: str) -> None:
    server = server_of(kind, ANSWER)
    async with running(server) as sidecar:
        reply = await sidecar.chat(stream=True, stream_options={"include_usage": True})
    assert content_of(reply) == "one two"
    *chunks, last = reply.events
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(reasons) - 1) + ["stop"]
    assert "".join(chunk["choices"][0]["delta"].get("reasoning_content", "") for chunk in chunks) == "Hm."
    assert last["usage"]["total_tokens"] == 12
    assert server.sent("body")["stream"] is True


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("stream", [False, True])
async def test_tool_calls_are_passed_on(kind: str, stream: bool) -> None:
    server = server_of(kind, CALL)
    async with running(server) as sidecar:
        reply = await sidecar.chat(tools=TOOLS, tool_choice="required", stream=stream)
    assert server.sent("body")["tools"] == TOOLS
    assert server.sent("body")["tool_choice"] == "required"
    if stream:
        deltas = [event["choices"][0]["delta"] for event in reply.events]
        calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
        assert calls[0]["id"] == "call_7"
        assert "".join(call["function"].get("arguments", "") for call in calls) == '{"x":1}'
        assert reply.events[-1]["choices"][0]["finish_reason"] == "tool_calls"
    else:
        [choice] = reply.json["choices"]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] is None
        assert choice["message"]["tool_calls"] == [
            {"id": "call_7", "type": "function", "function": {"name": "find", "arguments": '{"x":1}'}}
        ]


@pytest.mark.parametrize("choice", [None, "none"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_without_tools_in_the_request_is_dropped(choice: str | None, stream: bool) -> None:
    body: dict[str, Any] = {} if choice is None else {"tools": TOOLS, "tool_choice": choice}
    async with running(server_of("decoupled", [text("a"), *CALL])) as sidecar:
        reply = await sidecar.chat(**body, stream=stream)
    if stream:
        assert content_of(reply) == "a"
        assert reply.events[-1]["choices"][0]["finish_reason"] == "stop"
        assert b"find" not in reply.body
    else:
        [found] = reply.json["choices"]
        assert (found["message"]["content"], found["finish_reason"]) == ("a", "stop")
        assert "tool_calls" not in found["message"]


async def test_an_answer_of_text_is_content() -> None:
    whole = answer(
        text="one two", finish_reason="length", prompt_tokens=("INT32", [3]), completion_tokens=("INT32", [2])
    )
    pieces = [
        answer(False, token="one", index=("INT32", [0]), finish_reason="null"),
        answer(
            True,
            token=" two",
            index=("INT32", [0]),
            finish_reason="length",
            prompt_tokens=("INT32", [3]),
            completion_tokens=("INT32", [2]),
        ),
    ]
    for server in (
        ChatServer(m=ChatModel(outputs="text:BYTES finish_reason:BYTES", script=[whole])),
        ChatServer(m=ChatModel(outputs="token:BYTES finish_reason:BYTES", decoupled=True, script=pieces)),
    ):
        async with running(server) as sidecar:
            reply = await sidecar.chat()
            [choice] = reply.json["choices"]
            assert (choice["message"]["content"], choice["finish_reason"]) == ("one two", "length")
            assert reply.json["usage"]["total_tokens"] == 5
            stream = await sidecar.chat(stream=True)
            assert content_of(stream) == "one two"
            assert stream.events[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("lacking", ["ModelInfer", "ModelStreamInfer"])
async def test_the_other_call_replaces_one_that_the_server_lacks(lacking: str, stream: bool) -> None:
    server = ChatServer("other", lacks=[lacking], m=ChatModel(script=[events(*ANSWER)]))
    async with running(server) as sidecar:
        for _ in range(2):
            reply = await sidecar.chat(stream=stream)
            content = content_of(reply) if stream else reply.json["choices"][0]["message"]["content"]
            assert content == "one two"


async def test_several_choices() -> None:
    items = [{**text("b"), "choice": 1}, text("a"), finish("length"), {**finish(), "choice": 1}]
    async with running(server_of("decoupled", items)) as sidecar:
        whole = await sidecar.chat(n=2)
        assert [(choice["message"]["content"], choice["finish_reason"]) for choice in whole.json["choices"]] == [
            ("a", "length"),
            ("b", "stop"),
        ]
        stream = await sidecar.chat(n=2, stream=True)
        deltas = [choice for event in stream.events for choice in event["choices"]]
        texts = [
            "".join(delta["delta"].get("content") or "" for delta in deltas if delta["index"] == i) for i in range(2)
        ]
        assert texts == ["a", "b"]


async def test_the_older_form_of_tools() -> None:
    function = {"name": "find", "parameters": {"type": "object"}}
    server = server_of("decoupled", CALL)
    async with running(server) as sidecar:
        whole = await sidecar.chat(functions=[function])
        [choice] = whole.json["choices"]
        assert choice["message"]["function_call"] == {"name": "find", "arguments": '{"x":1}'}
        assert choice["finish_reason"] == "function_call"
        stream = await sidecar.chat(functions=[function], stream=True)
        assert stream.events[-1]["choices"][0]["finish_reason"] == "function_call"
    assert server.sent("body")["tools"] == [{"type": "function", "function": function}]


async def test_verbosity_is_for_models_that_take_chats() -> None:
    server = server_of("decoupled", ANSWER)
    server.models["plain"] = ForeignModel(
        inputs="text_input:BYTES",
        decoupled=False,
        parameters={"chat_template": "{{ messages[0].content }}"},
        answers=[answer(text_output="a")],
    )
    async with running(server) as sidecar:
        assert (await sidecar.chat(model="m", verbosity="low")).status == 200
        assert server.sent("body")["verbosity"] == "low"
        assert (await sidecar.chat(model="m", verbosity=None)).status == 200
        assert "verbosity" not in server.sent("body")
        refused = await sidecar.chat(model="plain", verbosity="low")
        assert (refused.status, refused.error["param"]) == (400, "verbosity")
        n_requests = len(server.requests)
        await sidecar.chat(model="plain", verbosity="medium")
        response = {"model": "plain", "input": "hi", "text": {"verbosity": "low"}}
        await sidecar.send("POST", "/v1/responses", response)
        assert len(server.requests) == n_requests + 2


# ---- Errors


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ([events(b"{")], "an event is not JSON"),
        ([events(b"[]")], "an event is no object with a type"),
        ([events({"type": "text"})], "'text' of an event of the type 'text' is no string"),
        ([events({"type": "finish", "reason": "tired"})], "for the reason 'tired'"),
        ([events({"type": "arguments", "text": "{}"}, finish())], "arguments belong to no tool call"),
        ([events({**text("a"), "choice": 1}, finish())], "sent choice 1 of 1"),
        ([events(finish(), text("a"))], "after the end of a choice"),
        ([events({"type": "usage", "prompt_tokens": -1, "completion_tokens": 1}, finish())], "no number of tokens"),
        ([events(text("a"))], "ended the answer early"),
    ],
)
@pytest.mark.parametrize("decoupled", [False, None])
async def test_a_malformed_answer_is_a_failure_of_the_backend(
    script: list[Any], message: str, decoupled: bool | None
) -> None:
    async with running(ChatServer("other", m=ChatModel(script=script, decoupled=decoupled))) as sidecar:
        reply = await sidecar.chat()
        assert (reply.status, reply.error["code"]) == (502, "backend_error")
        assert message in reply.error["message"]


async def test_the_marked_end_of_an_answer_ends_its_choices() -> None:
    async with running(server_of("decoupled", [text("a")])) as sidecar:
        assert (await sidecar.chat()).json["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_about_the_body_names_the_clients_field(decoupled: bool, stream: bool) -> None:
    details = {"error_tensor": "body", "error_part": "max_tokens"}
    failure = Failure(grpc.StatusCode.INVALID_ARGUMENT, "'max_tokens' must be below 10.", details)
    model = ChatModel(decoupled=decoupled, script=[failure])
    async with running(ChatServer(m=model)) as sidecar:
        for path, body, field in (
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 11}, "max_tokens"),
            (
                "/v1/chat/completions",
                {"messages": [{"role": "user", "content": "a"}], "max_completion_tokens": 11},
                "max_completion_tokens",
            ),
            ("/v1/responses", {"input": "a", "max_output_tokens": 11}, "max_output_tokens"),
            ("/v1/messages", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 11}, "max_tokens"),
        ):
            reply = await sidecar.send("POST", path, {**body, "model": "m", "stream": stream})
            assert reply.status == 400, reply.body
            assert reply.names_field(field)
            assert f"'{field}' must be below 10." in reply.json["error"]["message"]


# ---- A client that leaves


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "code"), [(grpc.StatusCode.INVALID_ARGUMENT, 400), (grpc.StatusCode.UNAVAILABLE, 503)]
)
async def test_triton_reports_the_status_of_an_error_in_a_stream(
    status: grpc.StatusCode, code: int, stream: bool
) -> None:
    model = ChatModel(decoupled=True, script=[Failure(status, "seed: this model can't follow it", {})])
    async with running(ChatServer(m=model)) as sidecar:
        reply = await sidecar.chat(stream=stream, seed=1)
    assert reply.status == code, reply.body


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
async def test_a_client_that_leaves_cancels_the_call(path: str, stream: bool, begun: bool) -> None:
    script: list[Step] = [*([events(text("a"), final=False)] if begun else []), Hang()]
    server = ChatServer(m=ChatModel(decoupled=stream or begun, script=script))
    body: dict[str, Any] = {"model": "m", "stream": stream}
    if path == "/v1/responses":
        body["input"] = "hi"
    else:
        body |= {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
    async with running(server) as sidecar:
        call = sidecar.start("POST", path, body)
        await asyncio.wait_for(server.hanging.wait(), 10)
        assert server.cancelled.empty()
        call.disconnect()
        assert await asyncio.wait_for(server.cancelled.get(), 10) == server.last.id
