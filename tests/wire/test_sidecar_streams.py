import asyncio
from collections.abc import AsyncIterator

import pytest
from openai.types import Completion

from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.wire.fake_worker import FakeWorker, Refusal, hangs, hangs_midway, last_token, message, streams, token
from tests.wire.sidecar import running

pytestmark = pytest.mark.usefixtures("both_kinds_of_stream")


async def test_a_stream_of_completions_has_a_finish_reason_in_the_last_chunk() -> None:
    async with running(FakeWorker(stream=streams(token("a"), last_token("b")))) as sidecar:
        reply = await sidecar.complete(prompt="x", stream=True)
    # Before the last chunk the API sends a null reason, which the package's type doesn't allow.
    Completion.model_validate(reply.events[-1], strict=True)
    assert [(event["choices"][0]["text"], event["choices"][0]["finish_reason"]) for event in reply.events] == [
        ("a", None),
        ("b", "stop"),
    ]


async def test_a_stream_that_generates_nothing_has_only_a_finish_reason() -> None:
    async with running(FakeWorker(stream=streams(last_token("", reason="length")))) as sidecar:
        reply = await sidecar.complete(prompt="x", stream=True, max_tokens=0)
        chat = await sidecar.chat(stream=True)
    assert [event["choices"][0]["finish_reason"] for event in reply.events] == ["length"]
    assert [event["choices"][0]["delta"] for event in chat.events] == [{"role": "assistant", "content": ""}, {}]


async def test_the_streams_of_several_prompts_are_merged_as_they_arrive() -> None:
    second_has_answered = asyncio.Event()

    async def stream(request: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        if request.id.endswith("-0"):
            await second_has_answered.wait()  # prompt 0 is answered only after prompt 1
        yield last_token("x")
        second_has_answered.set()

    async with running(FakeWorker(stream=stream)) as sidecar:
        reply = await sidecar.complete(prompt=["a", "b"], stream=True, stream_options={"include_usage": True})
    assert [choice["index"] for event in reply.events for choice in event["choices"]] == [1, 0]
    assert reply.events[-1]["usage"]["total_tokens"] == 10


async def test_a_failure_before_the_first_token_has_its_own_status() -> None:
    refusal = Refusal("RESOURCE_EXHAUSTED", "the queue is full", reason="queue_full")
    async with running(FakeWorker(stream=streams(fails=refusal))) as sidecar:
        reply = await sidecar.chat(stream=True)
    assert (reply.status, reply.headers["retry-after"]) == (429, "1")
    assert (reply.error["message"], reply.error["code"]) == ("the queue is full", "queue_full")


async def test_a_failure_after_the_first_token_is_an_event() -> None:
    async with running(FakeWorker(stream=streams(token("a"), fails=Refusal("INTERNAL", "secret")))) as sidecar:
        reply = await sidecar.chat(stream=True)
    assert reply.status == 200
    assert reply.events[-1] == {
        "error": {
            "message": "The model backend failed.",
            "type": "server_error",
            "param": None,
            "code": "backend_error",
        }
    }


async def test_one_failing_prompt_of_several_ends_the_others() -> None:
    async def stream(request: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        yield token("x")
        if request.id.endswith("-1"):
            raise Refusal("INTERNAL", "")
        await asyncio.Event().wait()

    worker = FakeWorker(stream=stream)
    async with running(worker) as sidecar:
        reply = await sidecar.complete(prompt=["a", "b"], stream=True)
        cancelled = await asyncio.wait_for(worker.cancelled.get(), 10)
    assert "error" in reply.events[-1]
    assert cancelled.endswith("-0")


async def test_a_stream_that_ends_before_its_choices_is_a_failure() -> None:
    async with running(FakeWorker(stream=streams(token("a")), step_batches=False)) as sidecar:
        reply = await sidecar.chat(stream=True)
    assert "ended the stream early" in reply.events[-1]["error"]["message"]


async def test_a_backend_that_sends_only_the_final_flag_is_supported() -> None:
    response = message((contract.TOKEN, [b"all"]), final=True)
    async with running(FakeWorker(stream=streams(response), step_batches=False)) as sidecar:
        reply = await sidecar.complete(prompt="x", stream=True)
    assert [event["choices"][0] for event in reply.events] == [
        {"index": 0, "text": "all", "logprobs": None, "finish_reason": None}
    ]


async def test_pings_are_sent_while_the_backend_is_silent() -> None:
    may_answer = asyncio.Event()

    async def stream(_: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        await may_answer.wait()
        yield last_token("x")

    async with running(FakeWorker(stream=stream), ping_interval=0.01) as sidecar:
        call = sidecar.start("POST", "/v1/completions", {"prompt": "x", "stream": True})
        await call.until(b": ping\n\n: ping\n\n")
        assert call.reply.status == 200  # sent with the first ping
        may_answer.set()
        await call.task
    assert call.reply.pings >= 2
    assert call.reply.events[-1]["choices"][0]["text"] == "x"


async def test_a_failure_after_a_ping_is_an_event() -> None:
    pinged = asyncio.Event()

    async def stream(_: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        await pinged.wait()
        raise Refusal("INVALID_ARGUMENT", "too long", reason="context_length_exceeded")
        yield token("")

    async with running(FakeWorker(stream=stream), ping_interval=0.01) as sidecar:
        call = sidecar.start("POST", "/v1/completions", {"prompt": "x", "stream": True})
        await call.until(b": ping")
        pinged.set()
        await call.task
    assert call.reply.events == [
        {
            "error": {
                "message": "This model's maximum context length is exceeded by your prompt: too long",
                "type": "invalid_request_error",
                "param": "prompt",
                "code": "context_length_exceeded",
            }
        }
    ]


# ---- Disconnected clients


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_disconnects_cancels_the_call(path: str, stream: bool) -> None:
    worker = FakeWorker(hangs, hangs_midway)
    body = {"prompt": "x"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "x"}]}
    async with running(worker) as sidecar:
        call = sidecar.start("POST", path, {**body, "stream": stream})
        id = await asyncio.wait_for(worker.arrived.get(), 10)
        if stream:
            await call.until(b"one")
        assert worker.cancelled.empty()
        call.disconnect()
        assert await asyncio.wait_for(worker.cancelled.get(), 10) == id
        await call.task


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_disconnects_cancels_the_calls_of_all_its_prompts(stream: bool) -> None:
    worker = FakeWorker(hangs, hangs_midway)
    async with running(worker) as sidecar:
        call = sidecar.start("POST", "/v1/completions", {"prompt": ["a", "b", "c"], "stream": stream})
        ids = {await asyncio.wait_for(worker.arrived.get(), 10) for _ in range(3)}
        call.disconnect()
        assert {await asyncio.wait_for(worker.cancelled.get(), 10) for _ in range(3)} == ids
        await call.task


async def test_a_client_that_disconnects_before_the_first_token_cancels_the_call() -> None:
    async def silent(_: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        await asyncio.Event().wait()
        yield token("")

    worker = FakeWorker(stream=silent)
    async with running(worker) as sidecar:
        call = sidecar.start("POST", "/v1/completions", {"prompt": "x", "stream": True})
        await asyncio.wait_for(worker.arrived.get(), 10)
        call.disconnect()
        await asyncio.wait_for(worker.cancelled.get(), 10)
        await call.task
