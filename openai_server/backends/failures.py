"""Failed gRPC calls as BackendErrors."""

import asyncio
import re

from google.protobuf.message import Message
from grpc import aio

from openai_server.core.errors import REQUEST_TOO_LARGE, BackendError
from protos import contract

FAILURES = (aio.AioRpcError, aio.UsageError, asyncio.CancelledError)
"""Exceptions that a call raises."""


def failure_of(error: BaseException, request: Message | None = None) -> BaseException:
    """The exception to raise for a failed call with this request. A channel that this process closes cancels its calls
    and refuses new ones; that is UNAVAILABLE, unless the task itself was cancelled."""
    if isinstance(error, aio.AioRpcError):
        return _rpc_error(error, request)
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
        return error
    closed = BackendError("UNAVAILABLE", "the connection to the backend was closed")
    closed.is_loss = True
    return closed


_TOO_LARGE = re.compile(r"(?P<side>Sent|Received) message larger than max \((?P<size>\d+) vs\. (?P<limit>\d+)\)")
"""gRPC's message for a message that one side may not send or receive. Sizes are in bytes."""
_RESET = re.compile(r"(Stream removed \(RST_STREAM \()?Received RST_STREAM with error code \d+\)*")
"""gRPC's message for a call that the server or a proxy dropped without a status, such as a server that exits. Newer
releases have it in brackets."""

_LOST = re.compile(r"(?!failed to connect).*(RST_STREAM|Socket closed|Connection reset|Broken pipe)", re.DOTALL)
"""gRPC's messages for a call whose connection ended. It has others for calls that found no connection."""


def _rpc_error(error: aio.AioRpcError, request: Message | None = None) -> BackendError:
    details = {
        key: value if isinstance(value, str) else value.decode(errors="replace")
        for key, value in error.trailing_metadata() or ()
    }
    status, message = error.code().name, error.details() or ""
    if status == "INTERNAL" and _RESET.fullmatch(message):
        status = "UNAVAILABLE"
    elif status == "RESOURCE_EXHAUSTED" and (found := _TOO_LARGE.search(message)):
        size, limit = int(found["size"]), int(found["limit"])
        # Either side receives: the backend the request, or this server the response.
        if found["side"] == "Sent" or (request is not None and size == request.ByteSize()):
            return request_too_large(size, limit)
        details[contract.ERROR_REASON] = contract.REASON_RESPONSE_TOO_LARGE
        message = f"The response takes {size} bytes in the backend's format; the limit is {limit} bytes."
    failure = BackendError(status, message, details)
    failure.is_loss = status == "UNAVAILABLE" and not failure.reason and bool(_LOST.match(error.details() or ""))
    return failure


def is_refused(error: BackendError) -> bool:
    """Whether the server refuses or fails a kind of call that others need not: a lookup that it doesn't implement, or
    that it restricts."""
    is_restricted = error.status == "UNAVAILABLE" and "restricted" in error.message
    return is_restricted or error.status not in ("UNAVAILABLE", "CANCELLED", "NOT_FOUND", "DEADLINE_EXCEEDED")


def request_too_large(size: int, limit: int) -> BackendError:
    message = f"The request takes {size} bytes in the backend's format; the limit is {limit} bytes."
    return BackendError("RESOURCE_EXHAUSTED", message, {contract.ERROR_REASON: REQUEST_TOO_LARGE})
