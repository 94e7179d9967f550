"""The status of an error in a foreign backend's stream, which has only a message. PURE."""

from openai_server.backends.dialects.mapping.schema import Errors
from openai_server.core.errors import BackendError
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelStreamInferResponse


def stream_error(known: Errors, response: ModelStreamInferResponse) -> BackendError:
    """UNKNOWN if none of the known parts is in the message."""
    return backend_error(known, response.error_message)


def backend_error(known: Errors, message: str, status: str = "UNKNOWN") -> BackendError:
    for name, parts in (
        ("NOT_FOUND", known.not_found),
        ("INVALID_ARGUMENT", known.invalid),
        ("UNAVAILABLE", known.unavailable),
    ):
        if any(part in message for part in parts):
            return BackendError(name, message)
    if any(part in message for part in known.context_length):
        return BackendError("INVALID_ARGUMENT", message, {contract.ERROR_REASON: contract.REASON_CONTEXT_LENGTH})
    return BackendError(status, message)
