"""What can go wrong with a request, as types that carry their gRPC status.

`servicer.py` converts them once, at the edge: to a status with trailing metadata (unary) or to an error response
(stream). Nothing else chooses a status code.
"""

from grpc import StatusCode

from protos import contract

MAX_MESSAGE = 500
"""Characters. Message and tensor travel in headers, and too large headers end the connection with everybody on it."""
MAX_TENSOR_NAME = 100


class WorkerError(Exception):
    """`status`: gRPC code. `reason`: a word for programs, may be empty. `tensor`: the input to blame, may be empty."""

    status = StatusCode.INTERNAL
    reason = ""

    def __init__(self, message: str, *, tensor: str = "") -> None:
        super().__init__(message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…")
        fits = tensor.isascii() and tensor.isprintable() and len(tensor) <= MAX_TENSOR_NAME
        self.tensor = tensor if fits else ""


class InvalidRequest(WorkerError):
    """The request can never work; the message names the tensor."""

    status = StatusCode.INVALID_ARGUMENT


class ContextLengthExceeded(InvalidRequest):
    reason = contract.REASON_CONTEXT_LENGTH


class UnknownModel(WorkerError):
    status = StatusCode.NOT_FOUND


class ModelNotReady(WorkerError):
    status = StatusCode.UNAVAILABLE


class Draining(WorkerError):
    status = StatusCode.UNAVAILABLE
    reason = contract.REASON_DRAINING


class QueueFull(WorkerError):
    status = StatusCode.RESOURCE_EXHAUSTED
    reason = contract.REASON_QUEUE_FULL


class DeadlineExceeded(WorkerError):
    status = StatusCode.DEADLINE_EXCEEDED


class EngineFailure(WorkerError):
    """llama.cpp could not compute a step; the request is lost, the engine goes on."""

    status = StatusCode.INTERNAL


class LoadError(Exception):
    """The model file cannot be served; the message is one line."""


class NoRoom(Exception):
    """Between model runner and engine: llama.cpp found no KV cells for the step, and changed nothing."""


class TrialOverrun(Exception):
    """Between guides and their queue: compiling the guide takes more processor time than it was given."""


class TrialLost(Exception):
    """Between guides and their queue: a trial ended without a verdict. It was killed from outside, or never ran."""
