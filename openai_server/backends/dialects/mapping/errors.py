"""The status of an error in a foreign backend's stream, which has only a message. PURE."""

from openai_server.backends.dialects.anyserve.decode import status_of
from openai_server.backends.dialects.mapping.schema import Errors
from openai_server.core.errors import BackendError
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelStreamInferResponse


def stream_error(known: Errors, response: ModelStreamInferResponse) -> BackendError:
    """UNKNOWN if the message has none of the parts that the file lists, nor one of Triton's own."""
    message = response.error_message
    for status, parts in (
        ("NOT_FOUND", known.not_found),
        ("INVALID_ARGUMENT", known.invalid),
        ("UNAVAILABLE", known.unavailable),
    ):
        if any(part in message for part in parts):
            return BackendError(status, message)
    if any(part in message for part in known.context_length):
        return BackendError("INVALID_ARGUMENT", message, {contract.ERROR_REASON: contract.REASON_CONTEXT_LENGTH})
    return BackendError(status_of(message), message)
