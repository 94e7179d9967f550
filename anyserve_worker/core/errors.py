"""What can go wrong with a request, as types that carry their gRPC status. PURE.

`service/servicer.py` converts them once, at the edge: to a status with trailing metadata (unary) or to an error
response (stream). Nothing else chooses a status code.
"""

from grpc import StatusCode

from anyserve_common.text import shortened
from protos import contract

MAX_MESSAGE = 500
"""Characters. Message and tensor travel in headers, and too large headers end the connection with every call on it."""
MAX_NAME = 100
"""Characters of a name that a client made up, of a tensor or the part of a guide; longer ones are left out."""


class WorkerError(Exception):
    """`status`: gRPC code. `reason`: a word for programs. `tensor`: the input to blame; `part`: the part of the guide
    in it. Each but the status may be empty."""

    status = StatusCode.INTERNAL
    reason = ""

    def __init__(self, message: str, *, tensor: str = "", part: str = "") -> None:
        super().__init__(shortened(message, MAX_MESSAGE))
        self.tensor = _if_short(tensor)
        self.part = _if_short(part)

    @property
    def details(self) -> dict[str, str]:
        """What the contract sends beside status and message, by its names."""
        details = {
            contract.ERROR_REASON: self.reason,
            contract.ERROR_TENSOR: self.tensor,
            contract.ERROR_PART: self.part,
        }
        return {name: value for name, value in details.items() if value}


def _if_short(name: str) -> str:
    """Empty for a name that no header can have."""
    return name if len(name) <= MAX_NAME and name.isascii() and name.isprintable() else ""


class InvalidRequest(WorkerError):
    """The request can never work; the message names the tensor."""

    status = StatusCode.INVALID_ARGUMENT


class ContextLengthExceeded(InvalidRequest):
    """`context_length` and `prompt_tokens` are for the client, as the contract writes them; both may be empty."""

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
