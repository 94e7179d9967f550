"""Telemetry of the sidecar: metrics, ids, access lines, spans."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from openai_server.telemetry.observer import Observer
from openai_server.telemetry.tracing import Tracer
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.wire.exposition import Scrape
from tests.wire.fake_worker import (
    FakeWorker,
    Refusal,
    answers,
    hangs_midway,
    last_token,
    refuses,
    serving,
    streams,
    token,
    whole,
)
from tests.wire.sidecar import Sidecar, app_for, running

pytestmark = pytest.mark.usefixtures("both_kinds_of_stream")

STREAM = {"prompt": "x", "stream": True}
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def scrape_metrics(sidecar: Sidecar) -> Scrape:
    reply = await sidecar.get("/metrics")
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    return Scrape(reply.body)


# ---- Metrics


async def test_requests_are_counted_by_endpoint_model_and_status() -> None:
    async with running(FakeWorker()) as sidecar:
        await sidecar.complete(prompt="x")
        await sidecar.send("POST", "/completions", {"prompt": "x"})
        await sidecar.send("POST", "/tiny/completions", {"prompt": "x"})
        await sidecar.complete(**STREAM)
        await sidecar.chat(model="llamacpp")
        await sidecar.complete(prompt="x", model="made-up")
        await sidecar.complete()
        scrape = await scrape_metrics(sidecar)
    requests = "openai_server_requests_total"
    assert scrape.value(requests, endpoint="/v1/completions", model="tiny", status="200") == 4
    assert scrape.value(requests, endpoint="/v1/chat/completions", model="tiny", status="200") == 1
    assert scrape.value(requests, endpoint="/v1/completions", model="", status="404") == 1
    assert scrape.value(requests, endpoint="/v1/completions", model="", status="400") == 1
    assert scrape.value("openai_server_requests_running", endpoint="/v1/completions") == 0


async def test_unknown_paths_and_models_add_no_series() -> None:
    async with running(FakeWorker()) as sidecar:
        before = len((await scrape_metrics(sidecar)).series("openai_server_requests_total"))
        for k in range(20):
            await sidecar.get(f"/made/up/{k}")
            await sidecar.get(f"/v1/models/made-up-{k}")
            await sidecar.complete(prompt="x", model=f"made-up-{k}")
        after = (await scrape_metrics(sidecar)).series("openai_server_requests_total")
    added = [labels for labels in after if labels["endpoint"] != "/metrics"]
    assert (before, len(added)) == (0, 3)


async def test_tokens_and_durations_of_a_stream_are_measured() -> None:
    async with running(FakeWorker(stream=streams(token("a"), last_token("b")))) as sidecar:
        await sidecar.complete(**STREAM)
        scrape = await scrape_metrics(sidecar)
    labels = {"gen_ai_operation_name": "text_completion", "gen_ai_request_model": "tiny"}
    assert scrape.value("openai_server_prompt_tokens_total", model="tiny") == 3
    assert scrape.value("openai_server_cached_tokens_total", model="tiny") == 1
    assert scrape.value("openai_server_completion_tokens_total", model="tiny") == 2
    assert scrape.value("gen_ai_client_token_usage_sum", gen_ai_token_type="input", **labels) == 3
    assert scrape.value("gen_ai_client_token_usage_sum", gen_ai_token_type="output", **labels) == 2
    for name in ("request_duration", "time_to_first_token", "time_per_output_token"):
        assert scrape.value(f"gen_ai_server_{name}_seconds_count", **labels) == 1, name
        assert scrape.value(f"gen_ai_server_{name}_seconds_bucket", le="+Inf", **labels) == 1, name
    first_token = scrape.value("gen_ai_server_time_to_first_token_seconds_sum")
    assert 0 < first_token < scrape.value("gen_ai_server_request_duration_seconds_sum")


async def test_a_whole_response_has_tokens_but_no_time_to_first_token() -> None:
    async with running(FakeWorker()) as sidecar:
        await sidecar.chat(n=2)
        await sidecar.send("POST", "/v1/embeddings", {"input": "x", "model": "made-up"})
        scrape = await scrape_metrics(sidecar)
    assert scrape.value("openai_server_completion_tokens_total", endpoint="/v1/chat/completions") == 4
    assert scrape.value("gen_ai_server_request_duration_seconds_count", gen_ai_operation_name="chat") == 1
    assert scrape.value("gen_ai_server_request_duration_seconds_count", error_type="404") == 1
    assert scrape.value("gen_ai_server_time_to_first_token_seconds_count") == 0


async def test_running_requests_and_those_without_a_token_are_counted() -> None:
    may_start, may_end = asyncio.Event(), asyncio.Event()

    async def stream(_: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        await may_start.wait()
        yield token("one")
        await may_end.wait()
        yield last_token("two")

    def running_and_waiting(scrape: Scrape) -> tuple[float, float]:
        endpoint = {"endpoint": "/v1/completions"}
        waiting = scrape.value("openai_server_requests_waiting", **endpoint)
        return scrape.value("openai_server_requests_running", **endpoint), waiting

    worker = FakeWorker(stream=stream)
    async with running(worker) as sidecar:
        call = sidecar.start("POST", "/v1/completions", STREAM)
        await worker.arrived.get()
        assert running_and_waiting(await scrape_metrics(sidecar)) == (1, 1)
        may_start.set()
        await call.until(b"one")
        assert running_and_waiting(await scrape_metrics(sidecar)) == (1, 0)
        may_end.set()
        await call.task
        assert running_and_waiting(await scrape_metrics(sidecar)) == (0, 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_slots_and_their_queue_are_measured(stream: bool) -> None:
    may_end = asyncio.Semaphore(0)

    async def infer(_: ModelInferRequest) -> ModelInferResponse:
        await may_end.acquire()
        return whole("x")

    async def generate(_: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        await may_end.acquire()
        yield last_token("x")

    async def admitted_queued_and_waits() -> tuple[float, float, float]:
        scrape = await scrape_metrics(sidecar)
        names = ("requests_admitted", "requests_queued", "queue_seconds_count")
        first, second, third = (scrape.value(f"openai_server_{name}") for name in names)
        return first, second, third

    worker = FakeWorker(infer, generate)
    async with running(worker, max_concurrency=1, max_queue=2) as sidecar:
        assert await admitted_queued_and_waits() == (0, 0, 0)
        calls = []
        for k in range(3):
            calls.append(sidecar.start("POST", "/v1/completions", {"prompt": "x", "stream": stream}))
            while (await admitted_queued_and_waits())[:2] != (1, k):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert (await sidecar.complete(prompt="x", stream=stream)).status == 429
        calls[2].disconnect()  # a request that leaves the queue counts as one that waited
        await calls[2].task
        assert await admitted_queued_and_waits() == (1, 1, 1)
        for _ in range(2):
            may_end.release()
        for call in calls[:2]:
            await call.task
            assert call.reply.status == 200
        assert await admitted_queued_and_waits() == (0, 0, 2)
        assert (await scrape_metrics(sidecar)).value("openai_server_queue_seconds_sum") > 0


async def test_a_stream_that_fails_midway_counts_as_failed_and_a_cancelled_one_as_499() -> None:
    failing = FakeWorker(stream=streams(token("a"), fails=Refusal("INTERNAL", "secret")))
    async with running(failing) as sidecar:
        assert (await sidecar.complete(**STREAM)).status == 200
        assert (await scrape_metrics(sidecar)).value("openai_server_requests_total", status="500", model="tiny") == 1
    async with running(FakeWorker(stream=hangs_midway)) as sidecar:
        call = sidecar.start("POST", "/v1/completions", STREAM)
        await call.until(b"one")
        call.disconnect()
        await call.task
        scrape = await scrape_metrics(sidecar)
        assert scrape.value("openai_server_requests_total", status="499", model="tiny") == 1
        assert scrape.value("openai_server_requests_running", endpoint="/v1/completions") == 0


@pytest.mark.parametrize("fails", [False, True])
async def test_the_delivered_tokens_of_an_unfinished_stream_are_counted(
    caplog: pytest.LogCaptureFixture, fails: bool
) -> None:
    caplog.set_level(logging.INFO)

    async def stream(_: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        for text in ("one", "two", "three"):
            yield token(text)
        if fails:
            raise Refusal("INTERNAL", "secret")
        await asyncio.Event().wait()

    exporter = InMemorySpanExporter()
    observer = Observer(log_access=True, tracer=Tracer(exporting(exporter)))
    async with running(FakeWorker(stream=stream), observer=observer) as sidecar:
        call = sidecar.start("POST", "/v1/completions", STREAM)
        await call.until(b"three")
        if not fails:
            call.disconnect()
        await call.task
        scrape = await scrape_metrics(sidecar)
    assert scrape.value("openai_server_completion_tokens_total", model="tiny") == 3
    assert scrape.value("openai_server_prompt_tokens_total") == 0
    assert scrape.value("gen_ai_client_token_usage_count") == 0
    [(_, fields)] = lines(caplog)
    assert (fields["status"], fields["completion_tokens"]) == (500 if fails else 499, 3)
    assert "prompt_tokens" not in fields
    [span] = exporter.get_finished_spans()
    assert dict(span.attributes or {})["gen_ai.usage.output_tokens"] == 3


async def test_with_an_admin_port_health_and_metrics_are_not_on_the_api() -> None:
    async with running(FakeWorker(), admin_port=0) as sidecar:
        for path in ("/metrics", "/livez", "/readyz", "/health"):
            assert (await sidecar.get(path)).status == 404, path
        assert (await sidecar.get("/v1/models")).status == 200


# ---- Ids


@pytest.mark.parametrize("stream", [False, True])
async def test_the_clients_request_id_reaches_the_backend_and_the_response(stream: bool) -> None:
    worker = FakeWorker()
    headers = {"x-request-id": "mine-1", "traceparent": PARENT, "tracestate": "vendor=1"}
    async with running(worker) as sidecar:
        reply = await sidecar.send("POST", "/v1/completions", {"prompt": "x", "stream": stream}, headers)
    assert reply.headers["x-request-id"] == "mine-1"
    if stream and worker.step_batches:
        parameters = {name: value.string_param for name, value in worker.requests[0].parameters.items()}
        assert (parameters["anyserve_request_id"], parameters["anyserve_traceparent"]) == ("mine-1", PARENT)
        assert parameters["anyserve_tracestate"] == "vendor=1"
    else:
        assert set(headers.items()) <= set(worker.metadata[0])
        assert "anyserve_request_id" not in worker.requests[0].parameters


async def test_an_invalid_request_id_is_replaced() -> None:
    async with running(FakeWorker()) as sidecar:
        reply = await sidecar.send("POST", "/v1/completions", {"prompt": "x"}, {"x-request-id": "two words"})
    assert reply.headers["x-request-id"].startswith("req_")


async def test_errors_have_the_request_id_too() -> None:
    async with running(FakeWorker()) as sidecar:
        for path in ("/v1/completions", "/nowhere"):
            reply = await sidecar.send("POST", path, b"{", {"x-request-id": "mine"})
            assert (reply.status >= 400, reply.headers["x-request-id"]) == (True, "mine")


# ---- Access lines


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, Any]]]:
    records = [record for record in caplog.records if record.name == "openai_server.access"]
    return [(record.getMessage(), record.__dict__["fields"]) for record in records]


async def test_each_request_is_one_line_without_its_text_or_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "the prompt that no log may contain"
    headers = {"x-request-id": "mine", "authorization": "Bearer sk-secret-key"}
    async with running(FakeWorker(stream=streams(token("a"), last_token("b")))) as sidecar:
        await sidecar.send("POST", "/v1/completions", {"prompt": secret, "stream": True}, headers)
        await sidecar.send("POST", "/v1/completions", {"prompt": secret, "model": "none"}, headers)
        await sidecar.get("/readyz")
        await sidecar.get("/metrics")
    [(message, fields), (_, failed)] = lines(caplog)
    assert message == "POST /v1/completions"
    assert fields.pop("ttft") <= fields.pop("duration")
    assert fields == {
        "status": 200,
        "request_id": "mine",
        "endpoint": "/v1/completions",
        "model": "tiny",
        "stream": True,
        "prompt_tokens": 3,
        "cached_tokens": 1,
        "completion_tokens": 2,
        "finish_reason": "stop",
        "client": "127.0.0.1",
    }
    assert failed.pop("duration") > 0
    assert failed == {"status": 404, "request_id": "mine", "endpoint": "/v1/completions", "client": "127.0.0.1"}
    for record in caplog.records:
        if record.name.startswith("openai_server"):
            fields_text = json.dumps({key: str(value) for key, value in record.__dict__.items()})
            assert secret not in fields_text + record.getMessage()
            assert "sk-secret-key" not in fields_text + record.getMessage()


@pytest.mark.parametrize("stream", [False, True])
async def test_the_line_has_the_finish_reason_of_the_response(caplog: pytest.LogCaptureFixture, stream: bool) -> None:
    caplog.set_level(logging.INFO)
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    async with running(FakeWorker(infer=answers(whole(call)), stream=streams(last_token(call)))) as sidecar:
        reply = await sidecar.chat(tools=tools, stream=stream)
    assert reply.status == 200, reply.body
    choice = reply.events[-1]["choices"][0] if stream else reply.json["choices"][0]
    [(_, fields)] = lines(caplog)
    assert fields["finish_reason"] == choice["finish_reason"] == "tool_calls"


async def test_without_an_access_log_there_is_no_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with running(FakeWorker(), access_log=False) as sidecar:
        await sidecar.complete(prompt="x")
    assert not lines(caplog)


# ---- Spans


def exporting(exporter: InMemorySpanExporter) -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


def spans_to(exporter: InMemorySpanExporter) -> Observer:
    return Observer(log_access=False, tracer=Tracer(exporting(exporter)))


async def test_a_span_belongs_to_the_clients_trace_and_the_call_to_the_span() -> None:
    exporter, worker = InMemorySpanExporter(), FakeWorker()
    async with serving(worker) as port, app_for(port, observer=spans_to(exporter)) as sidecar:
        began = time.perf_counter()
        await sidecar.send(
            "POST",
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "x"}]},
            {"traceparent": PARENT, "x-request-id": "mine"},
        )
        duration = time.perf_counter() - began
        await sidecar.get("/readyz")
    [span] = exporter.get_finished_spans()
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.end_time - span.start_time <= duration * 1e9, "the span ends with the request, not when it is reported"
    assert span.name == "POST /v1/chat/completions"
    assert span.parent is not None
    assert f"{span.parent.trace_id:032x}-{span.parent.span_id:016x}" in PARENT
    traceparent = dict(worker.metadata[0])["traceparent"]
    assert traceparent == f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"
    attributes = dict(span.attributes or {})
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.request.model"] == "tiny"
    assert attributes["gen_ai.usage.output_tokens"] == 2
    assert attributes["http.response.status_code"] == 200
    assert attributes["anyserve.request_id"] == "mine"


async def test_a_failed_request_is_a_failed_span() -> None:
    exporter = InMemorySpanExporter()
    worker = FakeWorker(infer=refuses(Refusal("UNAVAILABLE", "away")))
    async with serving(worker) as port, app_for(port, observer=spans_to(exporter)) as sidecar:
        await sidecar.complete(prompt="x")
    [span] = exporter.get_finished_spans()
    assert span.status.status_code.name == "ERROR"
    assert dict(span.attributes or {})["error.type"] == "503"
