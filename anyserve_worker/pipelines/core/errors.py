"""Errors of a request to a pipeline, as types that carry their gRPC status by name. PURE.

Every other exception in a pipeline is an internal error: the log has its traceback, the client only the fact.
"""


class PipelineError(Exception):
    """An error with a message for the client. `field`: path of the body's field that is wrong; empty: none.
    `retry_after`: seconds after which the request may succeed; None: unknown."""

    status = "INTERNAL"
    reason = ""
    """One of the contract's REASON_ constants, or empty."""

    def __init__(self, message: str, *, field: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.retry_after = retry_after


class InvalidInput(PipelineError):
    """The request can never succeed."""

    status = "INVALID_ARGUMENT"


class TooManyRequests(PipelineError):
    """The pipeline or its upstream has no room for the request now."""

    status = "RESOURCE_EXHAUSTED"


class UpstreamFailed(PipelineError):
    """The upstream refused this worker, or answered with nonsense. The message must not repeat its secrets."""

    status = "UNKNOWN"


class UpstreamAway(PipelineError):
    """The upstream can't be reached, or is overloaded."""

    status = "UNAVAILABLE"


class TimedOut(PipelineError):
    """A time limit has passed."""

    status = "DEADLINE_EXCEEDED"


class SetupError(Exception):
    """The pipeline can't be served. The message is one line for the operator, and names the file."""
