"""Failures of gRPC as BackendErrors."""

import grpc
import pytest
from grpc import aio

from openai_server.backends import calls as backend
from openai_server.core.errors import BackendError
from protos import contract


@pytest.mark.parametrize(
    ("code", "message", "status"),
    [
        (grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2", "UNAVAILABLE"),
        (grpc.StatusCode.INTERNAL, "the model failed", "INTERNAL"),
        (grpc.StatusCode.CANCELLED, "Received RST_STREAM with error code 8", "CANCELLED"),
    ],
)
def test_a_call_that_is_dropped_without_a_status_may_be_tried_elsewhere(
    code: grpc.StatusCode, message: str, status: str
) -> None:
    error = aio.AioRpcError(code, aio.Metadata(), aio.Metadata((contract.ERROR_TENSOR, "prompt")), details=message)
    found = backend._failure(error)
    assert isinstance(found, BackendError)
    assert (found.status, found.message, found.tensor) == (status, message, "prompt")
