"""OpenTelemetry spans of a request, each with queue, prefill and decode inside. Needs the extra `otel`.

They are created after the request, from the times that the engine recorded, so that they cost a step nothing.
"""

import time
from typing import TYPE_CHECKING, Any

from anyserve_common.tracing import tracer_provider
from anyserve_worker import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from anyserve_worker.telemetry.ended_request import EndedRequest

_SPAN_NAMES = {"generation": "generate", "chat": "chat"}


class Tracer:
    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("anyserve_worker", __version__)
        self._extract_context = TraceContextTextMapPropagator().extract
        self._context_with = set_span_in_context
        self._span_kind, self._error_status = SpanKind.SERVER, Status(StatusCode.ERROR)

    def record(self, model: str, request: "EndedRequest") -> None:
        since_1970 = time.time_ns() - time.monotonic_ns()
        submitted, ended = request.submitted_ns + since_1970, request.ended_ns + since_1970
        origin = request.origin
        parent = self._extract_context({"traceparent": origin.traceparent, "tracestate": origin.tracestate})
        request_span = self._tracer.start_span(
            f"{_SPAN_NAMES[request.kind]} {model}",
            parent,
            self._span_kind,
            _attributes(model, request),
            start_time=submitted,
        )
        if request.error:
            request_span.set_status(self._error_status)
        begin, context = submitted, self._context_with(request_span)
        for phase, end_ns in (("queue", request.started_ns), ("prefill", request.first_ns), ("decode", 0)):
            # A phase that was still under way ended with the request.
            end = end_ns + since_1970 if end_ns else ended
            self._tracer.start_span(phase, context, start_time=begin).end(end)
            begin = end
            if not end_ns:
                break
        request_span.end(ended)

    def close(self) -> None:
        self._provider.shutdown()


def _attributes(model: str, request: "EndedRequest") -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": "chat" if request.kind == "chat" else "text_completion",
        "gen_ai.provider.name": "anyserve",
        "gen_ai.request.model": model,
        "anyserve.outcome": request.outcome,
    }
    counts = {
        "gen_ai.usage.input_tokens": request.n_prompt,
        "gen_ai.usage.output_tokens": request.n_generated,
        "anyserve.cached_tokens": request.n_cached,
    }
    attributes |= {name: count for name, count in counts.items() if count is not None}
    if request.origin.request_id:
        attributes["anyserve.request_id"] = request.origin.request_id
    if request.finish_reasons:
        attributes["gen_ai.response.finish_reasons"] = tuple(request.finish_reasons)
    return attributes


def new_tracer() -> Tracer:
    """Raises ClickException if the exporter that the environment names is not installed."""
    return Tracer(tracer_provider("anyserve_worker", __version__))
