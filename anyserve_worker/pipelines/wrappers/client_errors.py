"""Errors that a wrapper raises for its client. PURE."""

from typing import Any

from anyserve_worker.pipelines.core.errors import InvalidInput, PipelineError, TimedOut, TooManyRequests, UpstreamAway

HAYSTACK_ERROR = "PipelineRuntimeError"
"""Haystack's class for an error of a component, whose own error is the cause."""
_TYPES: dict[int, type[PipelineError]] = {429: TooManyRequests, 503: UpstreamAway, 504: TimedOut}


def client_error(error: BaseException) -> PipelineError | None:
    """The client's error for one of ours, or for an HTTPException of Starlette or FastAPI, which is recognized by its
    attributes. None: the error is not meant for clients."""
    while type(error).__name__ == HAYSTACK_ERROR and error.__cause__:
        error = error.__cause__
    if isinstance(error, PipelineError):
        return error
    status: Any = getattr(error, "status_code", None)
    if not isinstance(status, int) or not hasattr(error, "detail"):
        return None
    error_type = _TYPES.get(status, InvalidInput if 400 <= status < 500 else None)
    if error_type is None:
        return None
    detail = error.detail
    message = detail if isinstance(detail, str) and detail else "The pipeline refuses the request."
    return error_type(message, retry_after=_retry_after(error))


def _retry_after(error: BaseException) -> float | None:
    for name, value in (getattr(error, "headers", None) or {}).items():
        if name.lower() == "retry-after" and str(value).isdecimal():
            return float(value)
    return None
