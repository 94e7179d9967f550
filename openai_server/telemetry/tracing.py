"""OpenTelemetry spans, one a request; the extra `otel`, which is imported only if tracing is on.

The span belongs to the trace that the client names in `traceparent`, and the calls to the backend carry the span's own.
Where the spans go is said by OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER, …).
"""

import importlib
import importlib.util
import os
from typing import TYPE_CHECKING, Any

import click

from openai_server import __version__
from openai_server.telemetry.endpoints import OPERATIONS

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from openai_server.telemetry.record import Record

AUTO, ON, OFF = "auto", "on", "off"
CHOICES = (AUTO, ON, OFF)
PROVIDER = "anyserve"
MISSING = "tracing needs the packages of the extra 'otel': pip install 'anyserve-openai[otel]'"
_SAMPLED = 1


def wanted(choice: str) -> bool:
    """`auto`: if the environment says where to, and the packages are there. Raises ClickException."""
    if choice == OFF or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    there = importlib.util.find_spec("opentelemetry") is not None
    there = there and importlib.util.find_spec("opentelemetry.sdk") is not None
    if choice == ON:
        if not there:
            raise click.ClickException(MISSING)
        return True
    return there and any(
        os.environ.get(name) for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    )


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
    """Sends spans to where the environment says. Raises ClickException if its exporter is not installed."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    about = {"service.name": os.environ.get("OTEL_SERVICE_NAME") or "openai_server", "service.version": __version__}
    provider = TracerProvider(resource=Resource.create(about))
    provider.add_span_processor(BatchSpanProcessor(_exporter()))
    return Tracer(provider)


def _exporter() -> Any:
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    kind = "grpc" if protocol == "grpc" else "http"
    try:
        module = importlib.import_module(f"opentelemetry.exporter.otlp.proto.{kind}.trace_exporter")
    except ImportError as error:
        package = f"opentelemetry-exporter-otlp-proto-{kind}"
        raise click.ClickException(f"tracing over {protocol or 'http/protobuf'} needs the package {package}") from error
    return module.OTLPSpanExporter()
