"""Every gRPC status, unary and in a stream, becomes an HTTP status."""

import grpc
import pytest

from openai_server.core.errors import GRPC_TO_HTTP
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.wire.fake_worker import FakeWorker, Refusal, hangs, hangs_midway, refuses, streams, whole
from tests.wire.sidecar import running

pytestmark = pytest.mark.usefixtures("both_kinds_of_stream")

STATUSES = [code.name for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("stream", [False, True])
async def test_each_grpc_status_has_an_http_status(status: str, stream: bool) -> None:
    refusal = Refusal(status, "what happened")
    async with running(FakeWorker(refuses(refusal), streams(fails=refusal))) as sidecar:
        reply = await sidecar.complete(prompt="x", stream=stream, model="tiny")
    http = GRPC_TO_HTTP[status]
    assert reply.status == http.status
    assert reply.error["message"] == (http.message or "what happened")
    assert (
        reply.error["type"] == {4: "invalid_request_error", 5: "server_error"}[http.status // 100] or http.status == 429
    )
    assert ("retry-after" in reply.headers) == (http.status in (429, 503))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("tensor", "param"),
    [("top_k", "top_k"), ("prompt", "messages"), ("max_tokens", "max_completion_tokens"), ("unheard_of", None)],
)
async def test_the_error_names_the_field_that_became_the_refused_tensor(
    stream: bool, tensor: str, param: str | None
) -> None:
    refusal = Refusal("INVALID_ARGUMENT", "bad", tensor=tensor)
    async with running(FakeWorker(refuses(refusal), streams(fails=refusal))) as sidecar:
        reply = await sidecar.chat(stream=stream, max_completion_tokens=3)
    assert (reply.status, reply.error["param"]) == (400, param)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_longer_than_the_context_is_refused(stream: bool) -> None:
    refusal = Refusal("INVALID_ARGUMENT", "300 tokens", reason=contract.REASON_CONTEXT_LENGTH)
    async with running(FakeWorker(refuses(refusal), streams(fails=refusal))) as sidecar:
        completion = await sidecar.complete(prompt="x", stream=stream)
        chat = await sidecar.chat(stream=stream)
    assert [(reply.status, reply.error["code"], reply.error["param"]) for reply in (completion, chat)] == [
        (400, "context_length_exceeded", "prompt"),
        (400, "context_length_exceeded", "messages"),
    ]


async def test_a_stream_error_without_a_status_is_a_bad_gateway() -> None:
    async with running(FakeWorker(stream=streams(fails=Refusal("", "oops")))) as sidecar:
        reply = await sidecar.complete(prompt="x", stream=True)
    assert (reply.status, reply.error["message"]) == (502, "oops")


async def test_a_request_that_exceeds_the_timeout_is_a_504() -> None:
    async with running(FakeWorker(hangs, hangs_midway), request_timeout=0.2) as sidecar:
        whole = await sidecar.complete(prompt="x")
        stream = await sidecar.complete(prompt="x", stream=True)
    assert (whole.status, whole.error["code"]) == (504, "timeout")
    assert stream.events[-1]["error"]["code"] == "timeout"


# ---- Messages that gRPC refuses for their size. A retry fails too, so the status is not 429.


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_the_backend_cannot_receive_is_too_large(stream: bool) -> None:
    async with running(FakeWorker(), max_prompt_chars=0) as sidecar:
        reply = await sidecar.complete(prompt="x" * (5 << 20), stream=stream)  # gRPC's default limit is 4 MiB
    assert (reply.status, reply.error["code"]) == (413, "request_too_large")
    assert "retry-after" not in reply.headers
    assert reply.error["message"].endswith("in the backend's format; the limit is 4194304 bytes.")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_this_server_cannot_send_is_too_large(
    stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openai_server.backends.channel.MAX_MESSAGE_BYTES", 2000)
    monkeypatch.setattr("openai_server.backends.calls.MAX_SHARED_BYTES", 1000)
    async with running(FakeWorker()) as sidecar:
        reply = await sidecar.complete(prompt="x" * 3000, stream=stream)
    assert (reply.status, reply.error["code"]) == (413, "request_too_large")


async def test_a_response_that_this_server_cannot_receive_is_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai_server.backends.channel.MAX_MESSAGE_BYTES", 20_000)

    async def long(request: ModelInferRequest) -> ModelInferResponse:
        return whole("x" * 30_000)

    async with running(FakeWorker(long)) as sidecar:
        reply = await sidecar.complete(prompt="x")
    assert (reply.status, reply.error["code"]) == (400, "response_too_large")
    assert "retry-after" not in reply.headers


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_the_backend_cannot_send_is_not_retried(stream: bool) -> None:
    refusal = Refusal("RESOURCE_EXHAUSTED", "too long", reason=contract.REASON_RESPONSE_TOO_LARGE)
    async with running(FakeWorker(refuses(refusal), streams(fails=refusal))) as sidecar:
        reply = await sidecar.complete(prompt="x", stream=stream)
    assert (reply.status, reply.error["code"], reply.error["message"]) == (400, "response_too_large", "too long")
