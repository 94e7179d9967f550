"""The request of a background response as it waits for a runner. PURE."""

import msgspec
from msgspec import Struct

_encode = msgspec.json.Encoder().encode


class QueuedRequest(Struct, frozen=True, kw_only=True):
    """Everything that a runner needs besides the server's own settings."""

    model: str
    """The model that answers, found when the request was received."""
    request_id: str
    """Id of the HTTP request, for log lines."""
    traceparent: str = ""
    """W3C trace context of the HTTP request; empty without one."""
    body: msgspec.Raw
    """The body of the HTTP request."""


def encoded(request: QueuedRequest) -> bytes:
    return _encode(request)


def decoded(data: bytes) -> QueuedRequest:
    """Raises msgspec.DecodeError."""
    return msgspec.json.decode(data, type=QueuedRequest)
