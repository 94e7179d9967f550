"""Writes the log line and the spans of a request that has ended: a generation, or a chat with a pipeline."""

import logging

from anyserve_common.logs import log_fields
from anyserve_worker.telemetry.ended_request import EndedRequest
from anyserve_worker.telemetry.tracing import Tracer

log = logging.getLogger("anyserve_worker.access")


class Observer:
    def __init__(self, *, log_access: bool = False, tracer: Tracer | None = None) -> None:
        self._log_access = log_access
        self._tracer = tracer

    def record(self, model: str, request: EndedRequest) -> None:
        """Records a request that has ended. Called on the event loop."""
        if self._log_access:
            _log(model, request)
        if self._tracer:
            self._tracer.record(model, request)

    def close(self) -> None:
        if self._tracer:
            self._tracer.close()


def _log(model: str, request: EndedRequest) -> None:
    origin = request.origin
    fields = {
        "request_id": origin.request_id,
        "id": origin.id,
        "model": model,
        "outcome": request.outcome,
        "prompt_tokens": request.n_prompt,
        "cached_tokens": request.n_cached,
        "completion_tokens": request.n_generated,
        "queue": _seconds(request.submitted_ns, request.started_ns),
        "prefill": _seconds(request.started_ns, request.first_ns),
        "decode": _seconds(request.first_ns, request.ended_ns),
        "duration": _seconds(request.submitted_ns, request.ended_ns),
    }
    log_fields(log, logging.INFO, request.kind, fields)


def _seconds(begin_ns: int, end_ns: int) -> float | None:
    """Returns the seconds between two times; None if one of them is 0, because it was not reached."""
    return round((end_ns - begin_ns) / 1e9, 6) if begin_ns and end_ns else None
