"""The fields of an `error` frame. PURE.

Wrappers may raise these errors too, with subclasses and values of their own, so nothing about them is certain.
"""

import math
from typing import Any

from anyserve_worker.pipelines.core.errors import PipelineError
from anyserve_worker.pipelines.host.requests import InvalidTensor
from protos import contract

MAX_MESSAGE = 1000
"""Characters of an error's message."""
STATUSES = frozenset(
    (
        *("CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
        *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE"),
        *("UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
    )
)
"""Those of gRPC."""


def error_fields(error: PipelineError) -> dict[str, Any]:
    """Raises TypeError or ValueError for an error that can't be sent, and what its own methods raise."""
    if error.status not in STATUSES:
        raise ValueError(f"{type(error).__name__}: gRPC has no status {error.status!r} for errors")
    message, field = _text(str(error)), _text(error.field)
    return {
        "status": error.status,
        "message": message if len(message) <= MAX_MESSAGE else message[:MAX_MESSAGE] + "…",
        "tensor": error.tensor if isinstance(error, InvalidTensor) else contract.BODY.name if field else "",
        "field": field,
        "reason": _text(error.reason),
        "retry_after": _seconds(error.retry_after),
    }


def _text(text: str) -> str:
    """The text without unpaired surrogates, which gRPC can't send."""
    return text.encode("utf-8", "replace").decode()


def _seconds(value: float | None) -> float | None:
    """None: it is no time."""
    return None if value is None or not math.isfinite(value) or value < 0 else float(value)
