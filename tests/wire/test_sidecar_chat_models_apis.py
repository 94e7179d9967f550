"""Models that take chats behind the sidecar: what the clients of the other APIs get, and what is refused."""

import json
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
    events,
    finish,
    running,
    server_of,
    split,
    text,
)
from tests.wire.sidecar import Sidecar

# ---- Responses


RESPONSES_TOOLS = [
    {"type": "function", "name": "find", "parameters": {"type": "object"}},
    {"type": "custom", "name": "patch"},
]
CUSTOM_CALL = [
    {"type": "tool_call", "name": "patch"},
    {"type": "arguments", "text": "*** a"},
    {"type": "arguments", "text": "\n{"},
    finish("tool_calls"),
]


async def respond(sidecar: Sidecar, *, stream: bool, **body: Any) -> Any:
    """The response object, whole or at the end of its stream."""
    reply = await sidecar.send("POST", "/v1/responses", {"input": "hi", "stream": stream, **body})
    assert reply.status == 200, reply.body
    return reply.events[-1]["response"] if stream else reply.json


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_has_the_events_as_items(kind: str, stream: bool) -> None:
    refusal = {"type": "refusal", "text": "no"}
    async with running(server_of(kind, [*ANSWER[:-2], refusal, *ANSWER[-2:]])) as sidecar:
        found = await respond(sidecar, stream=stream)
    reasoning, message = found["output"]
    assert [part["text"] for part in reasoning["content"]] == ["Hm."]
    assert [(part["type"], part.get("text") or part["refusal"]) for part in message["content"]] == [
        ("output_text", "one two"),
        ("refusal", "no"),
    ]
    assert found["status"] == "completed"
    assert found["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 12,
    }


@pytest.mark.parametrize("stream", [False, True])
async def test_the_calls_of_a_response(stream: bool) -> None:
    server = server_of("decoupled", [*CALL[:-1], *CUSTOM_CALL])
    async with running(server) as sidecar:
        found = await respond(sidecar, stream=stream, tools=RESPONSES_TOOLS)
    function, custom = found["output"]
    assert (function["type"], function["call_id"], function["name"], function["arguments"]) == (
        "function_call",
        "call_7",
        "find",
        '{"x":1}',
    )
    assert (custom["type"], custom["name"], custom["input"]) == ("custom_tool_call", "patch", "*** a\n{")
    assert custom["call_id"].startswith("call_")
    assert found["usage"] is None
    assert [tool["type"] for tool in server.sent("body")["tools"]] == ["function", "custom"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("reason", "detail"), [("content_filter", "content_filter"), ("length", "max_output_tokens")])
async def test_a_response_that_was_cut_off_is_incomplete(stream: bool, reason: str, detail: str) -> None:
    async with running(server_of("decoupled", [text("a"), finish(reason)])) as sidecar:
        found = await respond(sidecar, stream=stream)
        assert (found["status"], found["incomplete_details"]) == ("incomplete", {"reason": detail})
        chat = await sidecar.chat(stream=stream)
        [choice] = chat.events[-1]["choices"] if stream else chat.json["choices"]
        assert choice["finish_reason"] == reason


async def test_a_model_for_responses_gets_the_items_and_the_instructions() -> None:
    model = ChatModel(
        inputs="messages:BYTES body:BYTES input_items:BYTES",
        parameters={"tasks": "chat,responses"},
        script=[events(text("a"), finish())],
    )
    server = ChatServer(m=model)
    async with running(server) as sidecar:
        await respond(sidecar, stream=False, instructions="Be brief.", input=[{"role": "user", "content": "a"}])
        assert server.last.parameters["task"].string_param == "responses"
        assert server.sent("body")["instructions"] == "Be brief."
        [item] = server.sent("input_items")
        assert (item["role"], item["content"]) == ("user", [{"type": "input_text", "text": "a"}])
        assert [message["role"] for message in server.sent("messages")] == ["system", "user"]
        await sidecar.chat()
        assert server.last.parameters["task"].string_param == "chat"
        assert server.sent("input_items") is None


async def test_the_history_of_a_response_reaches_the_model() -> None:
    model = ChatModel(
        inputs="messages:BYTES body:BYTES input_items:BYTES",
        parameters={"tasks": "responses"},
        script=split([{"type": "reasoning", "text": "r"}, text("a"), *CALL]),
        decoupled=True,
    )
    server = ChatServer(m=model)
    async with running(server, store="sqlite://") as sidecar:
        first = await respond(sidecar, stream=False, tools=RESPONSES_TOOLS)
        result = {"type": "function_call_output", "call_id": "call_7", "output": "found"}
        await respond(sidecar, stream=True, previous_response_id=first["id"], input=[result], tools=RESPONSES_TOOLS)
    kinds = [item.get("role") or item["type"] for item in server.sent("input_items")]
    assert kinds == ["user", "reasoning", "assistant", "function_call", "function_call_output"]
    assert [message["role"] for message in server.sent("messages")] == ["user", "assistant", "tool"]
    assert server.sent("messages")[1]["tool_calls"][0]["id"] == "call_7"


async def test_a_conversation_is_compacted_by_a_model_that_takes_chats() -> None:
    server = server_of("decoupled", [{"type": "reasoning", "text": "r"}, text("short"), finish()])
    async with running(server) as sidecar:
        reply = await sidecar.send("POST", "/v1/responses/compact", {"model": "m", "input": "hi"})
        assert reply.status == 200, reply.body
        compacted = reply.json["output"]
        assert compacted[-1]["type"] == "compaction"
        found = await respond(sidecar, stream=False, model="m", input=[*compacted, {"role": "user", "content": "b"}])
    assert found["status"] == "completed"
    assert "short" in server.sent("messages")[1]["content"]


# ---- Messages


async def message(sidecar: Sidecar, *, stream: bool, **body: Any) -> Any:
    """The message, whole or put together from its stream."""
    chat = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    reply = await sidecar.send("POST", "/v1/messages", {**chat, **body})
    assert reply.status == 200, reply.body
    if not stream:
        return reply.json
    found: dict[str, Any] = {}
    pieces: dict[int, str] = {}
    for event in reply.anthropic_events:
        if event["type"] == "message_start":
            found = {**event["message"], "content": []}
        elif event["type"] == "content_block_start":
            found["content"].append(event["content_block"])
        elif event["type"] == "content_block_delta":
            if event["delta"]["type"] != "signature_delta":
                [value] = (value for name, value in event["delta"].items() if name != "type")
                pieces[event["index"]] = pieces.get(event["index"], "") + value
        elif event["type"] == "message_delta":
            found |= event["delta"] | {"usage": event["usage"]}
    for i, block in enumerate(found["content"]):
        if block["type"] == "tool_use":
            block["input"] = json.loads(pieces[i])
        else:
            block[block["type"]] = pieces[i]
    return found


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_message_has_the_events_as_blocks(kind: str, stream: bool) -> None:
    tools = [{"name": "find", "input_schema": {"type": "object"}}]
    other_call = {"type": "tool_call", "name": "find"}
    interleaved = [
        *(CALL[0], other_call, {**CALL[1], "call": 0}),
        *({"type": "arguments", "text": '{"y":2}'}, {**CALL[2], "call": 0}, CALL[3]),
    ]
    server = server_of(kind, [*ANSWER[:-1], *interleaved])
    async with running(server) as sidecar:
        found = await message(sidecar, stream=stream, tools=tools, metadata={"user_id": "u"})
    assert server.sent("body")["user"] == "u"
    thinking, content, first, other = found["content"]
    assert (thinking["thinking"], content["text"]) == ("Hm.", "one two")
    assert (first["input"], other["input"]) == ({"x": 1}, {"y": 2})
    assert found["stop_reason"] == "tool_use"
    usage = found["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (5, 2, 5)


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([text("a"), finish()], "end_turn"),
        ([text("a"), finish("length")], "max_tokens"),
        ([text("a"), finish("content_filter")], "refusal"),
        ([{"type": "refusal", "text": "no"}, finish()], "refusal"),
        (CALL, "end_turn"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_stop_reason_of_a_message(items: list[Any], reason: str, stream: bool) -> None:
    async with running(server_of("decoupled", [text("a"), *items])) as sidecar:
        assert (await message(sidecar, stream=stream))["stop_reason"] == reason


# ---- Errors in each API's form


async def test_a_failure_in_a_stream_has_the_form_of_the_api() -> None:
    failure = Failure(grpc.StatusCode.INTERNAL, "secret trace", {})
    model = ChatModel(decoupled=True, script=[events(text("a"), final=False), failure])
    async with running(ChatServer(m=model)) as sidecar:
        user = [{"role": "user", "content": "hi"}]
        chat = await sidecar.chat(stream=True)
        assert chat.events[-1]["error"]["code"] == "backend_error"
        response = await sidecar.send("POST", "/v1/responses", {"input": "hi", "stream": True})
        last = response.events[-1]
        assert (last["type"], last["response"]["error"]["code"]) == ("response.failed", "server_error")
        body = {"messages": user, "max_tokens": 9, "model": "m", "stream": True}
        anthropic = await sidecar.send("POST", "/v1/messages", body)
        assert anthropic.anthropic_events[-1]["error"]["type"] == "api_error"
        for reply in (chat, response, anthropic):
            assert b"secret" not in reply.body


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("decoupled", [False, True])
async def test_the_wait_of_an_error_is_a_header(stream: bool, decoupled: bool) -> None:
    details = {"error_reason": "queue_full", "error_retry_after": "7.2"}
    failure = Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", details)
    async with running(ChatServer(m=ChatModel(decoupled=decoupled, script=[failure]))) as sidecar:
        chat = await sidecar.chat(stream=stream)
        assert (chat.status, chat.error["code"], chat.headers["retry-after"]) == (429, "queue_full", "8")
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9, "model": "m", "stream": stream}
        anthropic = await sidecar.send("POST", "/v1/messages", body)
        assert (anthropic.status, anthropic.headers["retry-after"]) == (529, "8")
        assert anthropic.anthropic_error["type"] == "overloaded_error"


# ---- Other endpoints


async def test_a_model_that_takes_chats_is_listed_and_is_the_default() -> None:
    server = server_of("own", ANSWER)
    async with running(server) as sidecar:
        [model] = (await sidecar.get("/v1/models")).json["data"]
        assert model["id"] == "m"
        assert (await sidecar.get("/v1/models/m")).status == 200
        assert (await sidecar.get("/tokenizer_info")).status == 200
        assert (await sidecar.get("/readyz")).status == 200
        assert (await sidecar.chat()).json["model"] == "m"


@pytest.mark.parametrize("kind", ["own", "decoupled"])
@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"prompt": "a"}, "prompt"),
        ("/v1/completions", {"prompt": ["a", "b"], "stream": True}, "prompt"),
        ("/v1/completions", {"prompt": "a", "echo": True, "suffix": "b"}, "prompt"),
        ("/tokenize", {"content": "a"}, "model"),
        ("/detokenize", {"tokens": [1]}, "model"),
        ("/apply-template", {"messages": [{"role": "user", "content": "a"}]}, "model"),
        ("/v1/embeddings", {"input": "a"}, "model"),
        ("/v1/chat/completions/input_tokens", {"messages": [{"role": "user", "content": "a"}]}, "model"),
        ("/v1/responses/input_tokens", {"input": "a"}, "model"),
    ],
)
async def test_other_tasks_are_refused(kind: str, path: str, body: dict[str, Any], param: str) -> None:
    server = server_of(kind, ANSWER)
    async with running(server) as sidecar:
        reply = await sidecar.send("POST", path, body)
        assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "unsupported_task", param)
        assert ("/v1/chat/completions" in reply.error["message"]) == (param == "prompt")
        count = {"model": "m", "messages": [{"role": "user", "content": "a"}]}
        anthropic = await sidecar.send("POST", "/v1/messages/count_tokens", count)
        assert (anthropic.status, anthropic.anthropic_error["type"]) == (400, "invalid_request_error")
    assert not server.requests


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {"logprobs": True}, "logprobs"),
        ("/v1/chat/completions", {"timings_per_token": True}, "timings_per_token"),
        ("/v1/chat/completions", {"return_progress": True, "stream": True}, "return_progress"),
        ("/v1/responses", {"include": ["message.output_text.logprobs"]}, "top_logprobs"),
    ],
)
async def test_fields_without_an_output_are_refused(path: str, body: dict[str, Any], param: str) -> None:
    conversation = {"input": "a"} if "responses" in path else {"messages": [{"role": "user", "content": "a"}]}
    async with running(server_of("decoupled", ANSWER)) as sidecar:
        reply = await sidecar.send("POST", path, {**conversation, **body})
        assert (reply.status, reply.error["code"]) == (400, "unsupported_parameter")
        assert reply.error["param"] == param


async def test_a_long_conversation_is_limited_like_a_prompt() -> None:
    async with running(server_of("decoupled", ANSWER), max_prompt_chars=400_000) as sidecar:
        long = {"role": "user", "content": "a" * 300_000}
        assert (await sidecar.chat(long)).status == 200
        refused = await sidecar.chat(long, {"role": "user", "content": "b" * 200_000})
        assert (refused.status, refused.error["code"]) == (400, "string_above_max_length")
        assert refused.error["param"] == "messages"
