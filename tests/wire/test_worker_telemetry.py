"""Telemetry of the worker, and a trace from the HTTP client into the engine."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from anyserve_worker.core.task_requests import EmbedRequest
from anyserve_worker.telemetry.metrics import Metrics
from anyserve_worker.telemetry.observer import Observer
from anyserve_worker.telemetry.tracing import Tracer
from openai_server.telemetry.observer import Observer as SidecarObserver
from openai_server.telemetry.tracing import Tracer as SidecarTracer
from tests.anyserve_worker.fakes import WAIT_TIMEOUT, FakeRunner, FakeVectorRunner, Gate
from tests.wire.exposition import Scrape
from tests.wire.sidecar import app_for
from tests.wire.test_worker_streams import cancel, client, request, wait_for_n_requests
from tests.wire.worker import OPTIONS, Worker, stub, worker

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def scrape(running: Worker) -> Scrape:
    return Scrape(Metrics(running.repository).text())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_TIMEOUT):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def infer(running: Worker, prompt: str, *, metadata: tuple[tuple[str, str], ...] = ()) -> None:
    async with stub(running.port) as service:
        call: Any = service.ModelInfer
        await call(request(prompt, id="call-1"), metadata=metadata)


# ---- Metrics


async def test_the_work_of_the_engine_is_counted() -> None:
    async with worker({"tiny": FakeRunner({"a prompt": b"four"})}) as running:
        await infer(running, "a prompt")
        await infer(running, "a prompt")
        metrics = scrape(running)
        tiny = {"model": "tiny"}
        assert metrics.value("anyserve_worker_requests_ended_total", outcome="stop", **tiny) == 2
        assert metrics.value("anyserve_worker_prompt_tokens_total", **tiny) == 16
        assert metrics.value("anyserve_worker_cached_tokens_total", **tiny) == 7
        assert metrics.value("anyserve_worker_generated_tokens_total", **tiny) == 10
        assert metrics.value("anyserve_worker_kv_cells", **tiny) == 400
        assert metrics.value("anyserve_worker_model_ready", **tiny) == 1
        steps = metrics.value("anyserve_worker_step_seconds_count", **tiny)
        assert steps == metrics.value("anyserve_worker_step_sequences_bucket", le="1.0", **tiny) == 10
        assert metrics.value("anyserve_worker_step_tokens_sum", **tiny) == 8 + 1 + 8
        for name in ("queue", "prefill", "request"):
            assert metrics.value(f"anyserve_worker_{name}_seconds_count", **tiny) == 2, name
        assert metrics.value("anyserve_worker_threads", step="decode", **tiny) == 1


async def test_current_requests_sequences_and_cells_are_measured() -> None:
    gate = Gate()
    options = replace(OPTIONS, parallel=1, max_queue=1)
    async with worker({"tiny": FakeRunner(gate=gate)}, options) as running, client(running.port) as stream:
        await stream.send(request("one", 0))
        await gate.entered()
        await stream.send(request("two", 1), request("three", 2))
        while not stream.errors:
            await stream.read()
        metrics = scrape(running)
        assert metrics.value("anyserve_worker_requests") == 2
        assert metrics.value("anyserve_worker_sequences_running") == 1
        assert metrics.value("anyserve_worker_requests_refused_total") == 1
        assert metrics.value("anyserve_worker_kv_cells_used") >= 3
        await stream.send(cancel(0), cancel(1))
        await wait_for_n_requests(running, 0)
        gate.open()
        await until(lambda: scrape(running).value("anyserve_worker_requests_ended_total", outcome="cancelled") == 2)


async def test_embeddings_have_their_own_outcome() -> None:
    async with worker(vector_runners={"tiny": FakeVectorRunner()}) as running:
        await running.engines["tiny"].embed(EmbedRequest("abc"))
        assert scrape(running).value("anyserve_worker_requests_ended_total", outcome="embedded") == 1


# ---- Log lines


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.__dict__["fields"] for record in caplog.records if record.name == "anyserve_worker.access"]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_line_of_a_generation_has_the_id_of_the_http_request(
    caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    caplog.set_level(logging.INFO)
    async with (
        worker({"tiny": FakeRunner({"a secret": b"ok"})}, observer=Observer(log_access=True)) as running,
        app_for(running.port) as sidecar,
    ):
        body = {"prompt": "a secret", "stream": stream}
        await sidecar.send("POST", "/v1/completions", body, {"x-request-id": "mine"})
        await wait_for_n_requests(running, 0)
    [fields] = lines(caplog)
    assert fields["id"].startswith("cmpl-")
    assert (fields["request_id"], fields["model"], fields["outcome"]) == ("mine", "tiny", "stop")
    assert (fields["prompt_tokens"], fields["cached_tokens"], fields["completion_tokens"]) == (8, 0, 3)
    assert fields["queue"] + fields["prefill"] + fields["decode"] == pytest.approx(fields["duration"], abs=1e-5)
    assert "secret" not in caplog.text


async def test_the_line_of_a_cancelled_generation_has_that_outcome(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    gate = Gate()
    async with (
        worker({"tiny": FakeRunner(gate=gate)}, observer=Observer(log_access=True)) as running,
        client(running.port) as stream,
    ):
        await stream.send(request("x", 0))
        await gate.entered()
        await stream.send(cancel(0))
        await wait_for_n_requests(running, 0)
        gate.open()
    [fields] = lines(caplog)
    assert fields["outcome"] == "cancelled"


# ---- Spans


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_trace_leads_from_the_client_to_queue_prefill_and_decode(stream: bool) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    observer = Observer(tracer=Tracer(provider))
    sidecar_observer = SidecarObserver(log_access=False, tracer=SidecarTracer(provider))
    async with (
        worker(observer=observer) as running,
        app_for(running.port, observer=sidecar_observer) as sidecar,
    ):
        headers = {"traceparent": PARENT, "tracestate": "vendor=1"}
        await sidecar.send("POST", "/v1/completions", {"prompt": "x", "stream": stream}, headers)
        await wait_for_n_requests(running, 0)
    spans = by_name(exporter)
    sidecar_span, generation_span = spans["POST /v1/completions"], spans["generate tiny"]
    phases = [spans[name] for name in ("queue", "prefill", "decode")]
    assert {f"{span.context.trace_id:032x}" for span in spans.values()} == {PARENT.split("-")[1]}
    assert {span.context.trace_state.to_header() for span in spans.values()} == {"vendor=1"}
    assert generation_span.parent is not None
    assert generation_span.parent.span_id == sidecar_span.context.span_id
    assert all(phase.parent and phase.parent.span_id == generation_span.context.span_id for phase in phases)
    edges = [generation_span.start_time, *(phase.end_time for phase in phases)]
    assert edges[-1] == generation_span.end_time
    assert edges == sorted(edges, key=lambda edge: edge or 0)
    assert [phase.start_time for phase in phases] == edges[:-1]
    assert dict(generation_span.attributes or {})["gen_ai.usage.output_tokens"] == 3


async def test_a_generation_that_never_ran_has_only_a_queue_span() -> None:
    exporter, gate = InMemorySpanExporter(), Gate()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    options = replace(OPTIONS, parallel=1)
    runner = FakeRunner(gate=gate)
    async with (
        worker({"tiny": runner}, options, observer=Observer(tracer=Tracer(provider))) as running,
        client(running.port) as stream,
    ):
        await stream.send(request("one", 0))
        await gate.entered()
        await stream.send(request("two", 1))
        await wait_for_n_requests(running, 2)
        await stream.send(cancel(1))
        await wait_for_n_requests(running, 1)
        gate.open()
        await stream.until_ended((0, 0))
    spans = exporter.get_finished_spans()
    [cancelled] = [span for span in spans if dict(span.attributes or {}).get("anyserve.outcome") == "cancelled"]
    assert [s.name for s in spans if s.parent and s.parent.span_id == cancelled.context.span_id] == ["queue"]
