"""OpenTelemetry spans of a generation, each with queue, prefill and decode inside. Needs the extra `otel`.

They are created after the generation, from the times that the engine recorded, so that they cost a step nothing.
"""

import time
from typing import TYPE_CHECKING, Any

from anyserve_common.tracing import tracer_provider
from anyserve_worker import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from anyserve_worker.engine.running_request import RunningGeneration


class Tracer:
    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("anyserve_worker", __version__)
        self._extract_context = TraceContextTextMapPropagator().extract
        self._context_with = set_span_in_context
        self._span_kind, self._error_status = SpanKind.SERVER, Status(StatusCode.ERROR)

    def record(self, model: str, generation: "RunningGeneration") -> None:
        since_1970 = time.time_ns() - time.monotonic_ns()
        submitted, ended = generation.submitted_ns + since_1970, generation.ended_ns + since_1970
        origin = generation.origin
        parent = self._extract_context({"traceparent": origin.traceparent, "tracestate": origin.tracestate})
        request_span = self._tracer.start_span(
            f"generate {model}", parent, self._span_kind, _attributes(model, generation), start_time=submitted
        )
        if generation.error:
            request_span.set_status(self._error_status)
        begin, context = submitted, self._context_with(request_span)
        for phase, end_ns in (("queue", generation.started_ns), ("prefill", generation.first_ns), ("decode", 0)):
            # A phase that was still under way ended with the request.
            end = end_ns + since_1970 if end_ns else ended
            self._tracer.start_span(phase, context, start_time=begin).end(end)
            begin = end
            if not end_ns:
                break
        request_span.end(ended)

    def close(self) -> None:
        self._provider.shutdown()


def _attributes(model: str, generation: "RunningGeneration") -> dict[str, Any]:
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
    if generation.finish_reasons:
        attributes["gen_ai.response.finish_reasons"] = tuple(generation.finish_reasons)
    return attributes


def new_tracer() -> Tracer:
    """Raises ClickException if the exporter that the environment names is not installed."""
    return Tracer(tracer_provider("anyserve_worker", __version__))
