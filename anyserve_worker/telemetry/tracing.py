"""OpenTelemetry spans of a generation: the whole, and in it queue, prefill and decode; the extra `otel`.

They are made when it has ended, of the times that the engine took down, so that a step pays nothing for them.
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
        self._context_of = TraceContextTextMapPropagator().extract
        self._inside = set_span_in_context
        self._server, self._failed = SpanKind.SERVER, Status(StatusCode.ERROR)

    def ended(self, model: str, generation: "RunningGeneration") -> None:
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
