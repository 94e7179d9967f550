"""OpenTelemetry spans, one a request; the extra `otel`, which is imported only if tracing is on.

The span belongs to the trace that the client names in `traceparent`, and the calls to the backend carry the span's own.
"""

from typing import TYPE_CHECKING, Any

from anyserve_common.tracing import tracer_provider
from openai_server import __version__
from openai_server.telemetry.endpoints import OPERATIONS

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from openai_server.telemetry.record import Record

PROVIDER = "anyserve"
_SAMPLED = 1


class Tracer:
    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("openai_server", __version__)
        self._context_of = TraceContextTextMapPropagator().extract
        self._server, self._failed = SpanKind.SERVER, Status(StatusCode.ERROR)

    def begin(self, record: "Record") -> None:
        parent = self._context_of({"traceparent": record.traceparent, "tracestate": record.tracestate})
        span = self._tracer.start_span(f"{record.method} {record.endpoint}", parent, self._server)
        record.span, context = span, span.get_span_context()
        sampled = context.trace_flags & _SAMPLED
        record.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{sampled:02x}"
        record.tracestate = context.trace_state.to_header()

    def end(self, record: "Record") -> None:
        span, ended = record.span, None
        if span.is_recording():
            ended = span.start_time + int(record.duration * 1e9)
            span.set_attributes({name: value for name, value in _attributes(record).items() if value not in ("", None)})
            if record.first_token is not None:
                begun = span.start_time
                span.add_event("first token", timestamp=begun + int((record.first_token - record.started) * 1e9))
            if record.status >= 500:
                span.set_status(self._failed)
        span.end(ended)

    def close(self) -> None:
        self._provider.shutdown()


def _attributes(record: "Record") -> dict[str, Any]:
    operation = OPERATIONS.get(record.endpoint)
    usage = record.usage
    return {
        "http.request.method": record.method,
        "http.route": record.endpoint,
        "http.response.status_code": record.status,
        "error.type": str(record.status) if record.status >= 400 else None,
        "client.address": record.client,
        "anyserve.request_id": record.id,
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": operation and PROVIDER,
        "gen_ai.request.model": record.model,
        "gen_ai.usage.input_tokens": usage and usage.prompt,
        "gen_ai.usage.output_tokens": record.completion_tokens,
        "gen_ai.response.finish_reasons": tuple(record.finish_reasons) or None,
    }


def tracer() -> Tracer:
    """Raises ClickException if the exporter that the environment names is not installed."""
    return Tracer(tracer_provider("openai_server", __version__))
