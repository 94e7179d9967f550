"""OpenTelemetry spans of a generation: the whole, and in it queue, prefill and decode; the extra `otel`.

They are made when it has ended, of the times that the engine took down, so that a step pays nothing for them. Where
they go is said by OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER, …).
"""

import importlib
import importlib.util
import os
import time
from typing import TYPE_CHECKING, Any

import click

from anyserve_worker import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from anyserve_worker.engine.handle import Generation

AUTO, ON, OFF = "auto", "on", "off"
CHOICES = (AUTO, ON, OFF)
MISSING = "tracing needs the packages of the extra 'otel': pip install 'anyserve-openai[otel]'"


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
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("anyserve_worker", __version__)
        self._context_of = TraceContextTextMapPropagator().extract
        self._inside = set_span_in_context
        self._server, self._failed = SpanKind.SERVER, Status(StatusCode.ERROR)

    def ended(self, model: str, generation: "Generation") -> None:
        since_1970 = time.time_ns() - time.monotonic_ns()
        submitted, ended = generation.submitted_ns + since_1970, generation.ended_ns + since_1970
        origin = generation.origin
        parent = self._context_of({"traceparent": origin.traceparent, "tracestate": origin.tracestate})
        whole = self._tracer.start_span(
            f"generate {model}", parent, self._server, _attributes(model, generation), start_time=submitted
        )
        if generation.error:
            whole.set_status(self._failed)
        begin, context = submitted, self._inside(whole)
        for phase, end_ns in (("queue", generation.started_ns), ("prefill", generation.first_ns), ("decode", 0)):
            # What had not ended when the request did, ended with it.
            end = end_ns + since_1970 if end_ns else ended
            self._tracer.start_span(phase, context, start_time=begin).end(end)
            begin = end
            if not end_ns:
                break
        whole.end(ended)

    def close(self) -> None:
        self._provider.shutdown()


def _attributes(model: str, generation: "Generation") -> dict[str, Any]:
    first = generation.sequences[0]
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "anyserve",
        "gen_ai.request.model": model,
        "gen_ai.usage.input_tokens": first.n_prompt,
        "gen_ai.usage.output_tokens": generation.n_generated,
        "anyserve.cached_tokens": max(0, first.n_cached),
        "anyserve.outcome": generation.outcome,
    }
    if generation.origin.request_id:
        attributes["anyserve.request_id"] = generation.origin.request_id
    if generation.reasons:
        attributes["gen_ai.response.finish_reasons"] = tuple(generation.reasons)
    return attributes


def tracer() -> Tracer:
    """Sends spans to where the environment says. Raises ClickException if its exporter is not installed."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    about = {"service.name": os.environ.get("OTEL_SERVICE_NAME") or "anyserve_worker", "service.version": __version__}
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
