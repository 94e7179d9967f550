"""Errors of a request, as types that carry their gRPC status. PURE.

Only the service converts them: `servicer.py` to a status with trailing metadata (unary), `stream.py` to an error
response (stream). No other code chooses a status.
"""

from grpc import StatusCode

from anyserve_common.text import shortened
from protos import contract

MAX_MESSAGE = 500
"""Characters. The message is sent in a header, and too large headers end the connection with every call on it."""
MAX_NAME = 100
"""Characters of a name that the client chose: a tensor's or that of a part of a guide. Longer names are left out."""


class WorkerError(Exception):
    """`status`: gRPC status. `reason`: a word for programs. `tensor`: the input that caused the error. `part`: the part
    of the guide that did. All but the status may be empty."""

    status = StatusCode.INTERNAL
    reason = ""

    def __init__(self, message: str, *, tensor: str = "", part: str = "") -> None:
        super().__init__(shortened(message, MAX_MESSAGE))
        self.tensor = _if_short(tensor)
        self.part = _if_short(part)

    @property
    def details(self) -> dict[str, str]:
        """The fields that are sent beside status and message, by their names in the contract."""
        details = {
            contract.ERROR_REASON: self.reason,
            contract.ERROR_TENSOR: self.tensor,
            contract.ERROR_PART: self.part,
        }
        return {name: value for name, value in details.items() if value}


def _if_short(name: str) -> str:
    """Returns the name, or an empty string if it can't be sent in a header."""
    return name if len(name) <= MAX_NAME and name.isascii() and name.isprintable() else ""


class InvalidRequest(WorkerError):
    """The request can never succeed; the message names the tensor."""

    status = StatusCode.INVALID_ARGUMENT


class ContextLengthExceeded(InvalidRequest):
    """`context_length` and `prompt_tokens` are sent to the client in the contract's format; both may be empty."""

    reason = contract.REASON_CONTEXT_LENGTH

    def __init__(self, message: str, *, tensor: str = "", context_length: str = "", prompt_tokens: str = "") -> None:
        super().__init__(message, tensor=tensor)
        self._numbers = {
            contract.ERROR_CONTEXT_LENGTH: context_length,
            contract.ERROR_PROMPT_TOKENS: prompt_tokens,
        }

    @property
    def details(self) -> dict[str, str]:
        return super().details | {name: value for name, value in self._numbers.items() if value}


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


class AnswerTooLarge(WorkerError):
    status = StatusCode.RESOURCE_EXHAUSTED
    reason = contract.REASON_RESPONSE_TOO_LARGE


class DeadlineExceeded(WorkerError):
    status = StatusCode.DEADLINE_EXCEEDED


class EngineFailure(WorkerError):
    """llama.cpp could not compute a step. The request is lost; the engine continues."""

    status = StatusCode.INTERNAL


class LoadError(Exception):
    """The model file cannot be served; the message is one line."""


class NoRoom(Exception):
    """llama.cpp found no KV cells for the step, and changed nothing. Raised by the model runner for the engine."""


class Interrupted(Exception):
    """The step was ended early. Some of its tokens may be in the memory. Raised by the model runner for the engine."""


class TrialOverrun(Exception):
    """Compiling the guide takes more processor time than allowed. Raised by guides for their queue."""


class TrialLost(Exception):
    """A trial ended without a result: its process was killed, or never ran. Raised by guides for their queue."""
