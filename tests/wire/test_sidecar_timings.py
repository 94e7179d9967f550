"""`timings_per_token` and `return_progress` over HTTP: what comes when, and what is refused."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.wire.fake_worker import (
    ALL_INPUTS,
    FakeWorker,
    answers,
    inputs_of,
    last_token,
    message,
    streams,
    token,
    whole,
)
from tests.wire.sidecar import running

TIMES: list[Any] = [(contract.PROMPT_MS, [2.5]), (contract.COMPLETION_MS, [7.5])]
COUNTS: list[Any] = [(contract.PROMPT_TOKENS, [3]), (contract.CACHED_TOKENS, [1])]
PATHS = ("/v1/completions", "/v1/chat/completions")
BODIES: dict[str, dict[str, Any]] = {
    PATHS[0]: {"prompt": "x"},
    PATHS[1]: {"messages": [{"role": "user", "content": "x"}]},
}


def progress(*steps: tuple[int, float]) -> ModelInferResponse:
    tokens, times = [step[0] for step in steps], [step[1] for step in steps]
    return message(*COUNTS, (contract.PROGRESS_TOKENS, tokens), (contract.PROGRESS_MS, times))


def timed(response: ModelInferResponse, n_tokens: int) -> ModelInferResponse:
    response.MergeFrom(message(*TIMES))
    if all(output.name != contract.COMPLETION_TOKENS.name for output in response.outputs):
        response.MergeFrom(message(*COUNTS, (contract.COMPLETION_TOKENS, [n_tokens])))
    return response


@pytest.mark.parametrize("path", PATHS)
async def test_a_response_has_its_times_on_request(path: str) -> None:
    worker = FakeWorker(answers(timed(whole("a"), 2)))
    async with running(worker) as sidecar:
        reply = await sidecar.send("POST", path, {**BODIES[path], "timings_per_token": True})
        assert inputs_of(worker.requests[-1])["timings"] == [True]
        await sidecar.send("POST", path, BODIES[path])
        assert "timings" not in inputs_of(worker.requests[-1])
    assert reply.json["timings"] == {
        "prompt_n": 2,
        "cache_n": 1,
        "prompt_ms": 2.5,
        "prompt_per_token_ms": 1.25,
        "prompt_per_second": 800.0,
        "predicted_n": 2,
        "predicted_ms": 7.5,
        "predicted_per_token_ms": 7.5,
        "predicted_per_second": 133.333,
    }


@pytest.mark.parametrize("path", PATHS)
async def test_a_stream_has_progress_before_its_text_and_times_with_it(path: str) -> None:
    goes_on = asyncio.Event()

    async def stream(_: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        yield progress((1, 0.0), (2, 1.5))
        await goes_on.wait()
        yield progress((3, 4.5))
        yield timed(token("a"), 1)
        yield timed(last_token("b"), 2)

    fields = {"timings_per_token": True, "return_progress": True, "stream": True}
    async with running(FakeWorker(stream=stream)) as sidecar:
        call = sidecar.start("POST", path, {**BODIES[path], **fields, "stream_options": {"include_usage": True}})
        async with asyncio.timeout(10):
            await call.until(b'"processed":2')
            goes_on.set()
            await call.task
    reply = call.reply
    assert [event["prompt_progress"] for event in reply.events if "prompt_progress" in event] == [
        {"total": 3, "cache": 1, "processed": 1, "time_ms": 0},
        {"total": 3, "cache": 1, "processed": 2, "time_ms": 1},
        {"total": 3, "cache": 1, "processed": 3, "time_ms": 4},
    ]
    assert all("prompt_progress" in event for event in reply.events[:3])
    times = [event["timings"]["predicted_n"] for event in reply.events if "timings" in event]
    assert times == ([1, 2, 2] if path == PATHS[0] else [1, 2, 2, 2])
    assert reply.events[-1]["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("field", ["timings_per_token", "return_progress"])
async def test_a_backend_without_the_input_refuses_the_field(path: str, field: str) -> None:
    inputs = [name for name in ALL_INPUTS if name not in ("timings", "prompt_progress")]
    async with running(FakeWorker(inputs=inputs)) as sidecar:
        reply = await sidecar.send("POST", path, {**BODIES[path], field: True, "stream": True})
        assert (reply.status, reply.error["param"]) == (400, field)
        assert (await sidecar.send("POST", path, {**BODIES[path], field: False, "stream": True})).status == 200


async def test_progress_that_was_not_requested_does_no_harm() -> None:
    async with running(FakeWorker(stream=streams(progress((1, 0.0)), progress((3, 1.5)), last_token("a")))) as sidecar:
        reply = await sidecar.chat(stream=True)
    assert [event["choices"][0]["delta"] for event in reply.events] == [
        {"role": "assistant", "content": ""},
        {"content": "a"},
        {},
    ]


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


async def test_a_chat_with_tools_has_its_times() -> None:
    worker = FakeWorker(
        answers(timed(whole("a b"), 2)), stream=streams(timed(token("a"), 1), timed(last_token(" b"), 2))
    )
    async with running(worker) as sidecar:
        reply = await sidecar.chat(tools=[TOOL], timings_per_token=True)
    assert reply.json["choices"][0]["message"]["content"] == "a b"
    assert reply.json["timings"]["predicted_n"] == 2
