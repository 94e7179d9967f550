"""Writes the log line and the spans of a generation that has ended."""

import logging

from anyserve_common.logs import log_fields
from anyserve_worker.engine.running_request import RunningGeneration
from anyserve_worker.telemetry.tracing import Tracer

log = logging.getLogger("anyserve_worker.access")


class Observer:
    def __init__(self, *, log_access: bool = False, tracer: Tracer | None = None) -> None:
        self._log_access = log_access
        self._tracer = tracer

    def record(self, model: str, generation: RunningGeneration) -> None:
        """Records a generation that has ended. Called on the event loop."""
        if self._log_access:
            _log(model, generation)
        if self._tracer:
            self._tracer.record(model, generation)

    def close(self) -> None:
        if self._tracer:
            self._tracer.close()


def _log(model: str, generation: RunningGeneration) -> None:
    origin, first = generation.origin, generation.sequences[0]
    fields = {
        "request_id": origin.request_id,
        "id": origin.id,
        "model": model,
        "outcome": generation.outcome,
        "prompt_tokens": first.n_prompt,
        "cached_tokens": max(0, first.n_cached),
        "completion_tokens": generation.n_generated,
        "queue": _seconds(generation.submitted_ns, generation.started_ns),
        "prefill": _seconds(generation.started_ns, generation.first_ns),
        "decode": _seconds(generation.first_ns, generation.ended_ns),
        "duration": _seconds(generation.submitted_ns, generation.ended_ns),
    }
    log_fields(log, logging.INFO, "generation", fields)


def _seconds(begin_ns: int, end_ns: int) -> float | None:
    """Returns the seconds between two times; None if one of them is 0, because it was not reached."""
    return round((end_ns - begin_ns) / 1e9, 6) if begin_ns and end_ns else None
