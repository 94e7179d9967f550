"""Log lines and spans of chats with pipelines."""

import logging

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from anyserve_worker.core.errors import ModelNotReady
from anyserve_worker.core.origin import Origin
from anyserve_worker.pipelines.running_answer import PipelineRequest, RunningAnswer
from anyserve_worker.telemetry.observer import Observer
from anyserve_worker.telemetry.tracing import Tracer

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
USAGE = {"prompt_tokens": 5, "completion_tokens": 6, "cached_tokens": None}


def answer() -> RunningAnswer:
    origin = Origin("call-1", "client-7", PARENT)
    return RunningAnswer(PipelineRequest("m", [b"a secret"], origin=origin), timeout=60, idle_timeout=60)


async def test_a_chat_has_a_log_line_without_its_texts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    chat = answer()
    chat.begin(lambda _: None)
    chat.put([b"another secret"])
    chat.complete([], ["length"], USAGE)
    Observer(log_access=True).record("m", chat)
    [record] = caplog.records
    fields = record.__dict__["fields"]
    assert record.getMessage() == "chat"
    assert (fields["request_id"], fields["id"], fields["model"]) == ("client-7", "call-1", "m")
    assert (fields["outcome"], fields["prompt_tokens"], fields["completion_tokens"]) == ("length", 5, 6)
    assert "cached_tokens" not in fields
    assert fields["queue"] + fields["prefill"] + fields["decode"] == pytest.approx(fields["duration"], abs=1e-5)
    assert "secret" not in str(fields)


async def test_a_chat_has_spans_in_the_trace_of_its_client() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    observer = Observer(tracer=Tracer(provider))
    chat = answer()
    chat.begin(lambda _: None)
    chat.complete([b"event"], ["stop"], USAGE)
    observer.record("m", chat)
    failed = answer()
    failed.fail(ModelNotReady("gone"))
    observer.record("m", failed)
    first, second = [span for span in exporter.get_finished_spans() if span.name == "chat m"]
    assert {f"{span.context.trace_id:032x}" for span in (first, second)} == {PARENT.split("-")[1]}
    attributes = dict(first.attributes or {})
    assert (attributes["gen_ai.operation.name"], attributes["gen_ai.usage.output_tokens"]) == ("chat", 6)
    assert "anyserve.cached_tokens" not in attributes
    assert [first.status.is_ok, second.status.is_ok] == [True, False]

    def phases(parent: int) -> list[str]:
        return [s.name for s in exporter.get_finished_spans() if s.parent and s.parent.span_id == parent]

    assert phases(first.context.span_id) == ["queue", "prefill", "decode"]
    assert phases(second.context.span_id) == ["queue"]
