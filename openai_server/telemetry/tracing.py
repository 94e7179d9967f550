"""OpenTelemetry spans, one per request. They need the extra `otel`, which is imported only if tracing is on.

A span belongs to the trace in the client's `traceparent`; calls to the backend have the span's own `traceparent`.
"""

from typing import TYPE_CHECKING, Any

from anyserve_common.tracing import tracer_provider
from openai_server import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from openai_server.core.request_context import RequestContext

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

    def begin(self, context: "RequestContext") -> None:
        parent = self._context_of({"traceparent": context.traceparent, "tracestate": context.tracestate})
        span = self._tracer.start_span(f"{context.method} {context.endpoint}", parent, self._server)
        context.span, of_span = span, span.get_span_context()
        sampled = of_span.trace_flags & _SAMPLED
        context.traceparent = f"00-{of_span.trace_id:032x}-{of_span.span_id:016x}-{sampled:02x}"
        context.tracestate = of_span.trace_state.to_header()

    def end(self, context: "RequestContext") -> None:
        span, ended = context.span, None
        if span.is_recording():
            ended = span.start_time + int(context.duration * 1e9)
            span.set_attributes(
                {name: value for name, value in _attributes(context).items() if value not in ("", None)}
            )
            if context.first_token is not None:
                begun = span.start_time
                span.add_event("first token", timestamp=begun + int((context.first_token - context.started) * 1e9))
            if context.status >= 500:
                span.set_status(self._failed)
        span.end(ended)

    def close(self) -> None:
        self._provider.shutdown()


def _attributes(context: "RequestContext") -> dict[str, Any]:
    operation = context.operation or None
    usage = context.usage
    return {
        "http.request.method": context.method,
        "http.route": context.endpoint,
        "http.response.status_code": context.status,
        "error.type": str(context.status) if context.status >= 400 else None,
        "client.address": context.client,
        "anyserve.request_id": context.id,
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": operation and PROVIDER,
        "gen_ai.request.model": context.model,
        "gen_ai.usage.input_tokens": usage and usage.prompt,
        "gen_ai.usage.output_tokens": context.completion_tokens,
        "gen_ai.response.finish_reasons": tuple(context.finish_reasons) or None,
    }


def tracer() -> Tracer:
    """Raises ClickException if the exporter set in the environment is not installed."""
    return Tracer(tracer_provider("openai_server", __version__))
