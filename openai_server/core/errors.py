"""Error types that carry their HTTP status, and the table from gRPC status to HTTP status.

PURE. The envelope is OpenAI's: `{"error": {"message", "type", "param", "code"}}`, for every status.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, isfinite
from types import MappingProxyType
from typing import Any, TypedDict

from anyserve_common.text import shortened
from openai_server.core import context_length, guide_parts
from openai_server.core.context_length import Room
from protos import contract

log = logging.getLogger(__name__)


class ErrorContent(TypedDict):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(TypedDict):
    """The JSON envelope of every error response."""

    error: ErrorContent


MAX_MESSAGE = 1000
"""Characters of a message."""
MAX_PARAM = 200
"""Characters of a `param`, which may contain names that the client chose."""


class APIError(Exception):
    """An error response: an HTTP status and the four fields of the envelope.

    `param` names the request field that caused the error, as a path such as `messages[0].content`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
        room: Room | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = shortened(message, MAX_MESSAGE)
        self.param = param and shortened(param, MAX_PARAM)
        self.code = code
        self.headers = headers or {}
        self.room = room
        """The numbers of a prompt that is too long; None for other errors."""

    @property
    def type(self) -> str:
        if self.status == 429:
            return "rate_limit_error"
        return "invalid_request_error" if self.status < 500 else "server_error"

    def envelope(self) -> Error:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class InvalidRequest(APIError):
    """The request itself is invalid (status 400)."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(400, message, param=param, code=code)


class UnsupportedParameter(InvalidRequest):
    """A field of OpenAI's API, or a value of such a field, that this server doesn't support."""

    def __init__(self, param: str, message: str = "") -> None:
        super().__init__(
            message or f"'{shortened(param)}' is not supported by this server.",
            param=param,
            code="unsupported_parameter",
        )


class TaskNotSupported(InvalidRequest):
    """The model doesn't support the task of the endpoint, such as a chat with an embedding model."""

    def __init__(self, model: str, task: str, tasks: Iterable[str]) -> None:
        super().__init__(
            f"The model '{model}' does not support the task '{task}'. It supports: {', '.join(tasks)}.",
            param="model",
            code="unsupported_task",
        )


class NoChatTemplate(TaskNotSupported):
    """A chat with a model whose chat template is unknown."""

    def __init__(self) -> None:
        InvalidRequest.__init__(
            self,
            "This model can't chat: its backend reports no chat template. Completions work. The server's options "
            "--chat-template NAME=FILE and --tokenizer NAME=FOLDER set a template.",
            param="model",
            code="unsupported_task",
        )


class OnlyChats(TaskNotSupported):
    """A prompt for a model that takes conversations only. `param`: the client's field with the prompt."""

    def __init__(self, model: str, param: str) -> None:
        InvalidRequest.__init__(
            self,
            f"The model '{shortened(model)}' takes conversations, not prompts: use /v1/chat/completions, /v1/responses "
            "or /v1/messages.",
            param=param,
            code="unsupported_task",
        )


class UnknownDialect(InvalidRequest):
    """No dialect fits the model's tensors."""

    def __init__(self, model: str) -> None:
        super().__init__(
            f"No dialect of this server fits the tensors of the model '{shortened(model)}'. Its operator can choose "
            "one with --dialect, or describe the tensors in a file for --mapping.",
            param="model",
            code="unsupported_model",
        )


class NoTextModel(InvalidRequest):
    """The request names no model, and there is none that it could get."""

    def __init__(self, models: Sequence[str]) -> None:
        shown = ", ".join(shortened(model) for model in models[:5])
        super().__init__(
            f"No dialect of this server fits any model of the backend ({shown}). Its operator can choose one "
            "with --dialect, or describe the tensors in a file for --mapping.",
            param="model",
            code="unsupported_model",
        )


class ModelNotFound(APIError):
    def __init__(self, model: str) -> None:
        super().__init__(
            404, f"The model '{shortened(model)}' does not exist on this server.", param="model", code="model_not_found"
        )


class BodyTooLarge(APIError):
    def __init__(self, limit: int) -> None:
        super().__init__(413, f"The request body is larger than {limit} bytes.", code="request_too_large")


class UnsupportedEncoding(APIError):
    def __init__(self, content_encoding: str) -> None:
        super().__init__(
            415,
            f"The request body has the Content-Encoding {shortened(content_encoding)!r}; this server reads only "
            "'identity'.",
            code="unsupported_content_encoding",
            headers={"accept-encoding": "identity"},
        )


class TooManyValues(APIError):
    def __init__(self, limit: int) -> None:
        super().__init__(
            413,
            f"The request body has more than {limit} JSON values, this server's limit (--max-json-values). Commas "
            "and opening brackets are counted, including those in strings.",
            code="request_too_large",
        )


class BodyTooComplex(APIError):
    def __init__(self) -> None:
        super().__init__(413, "The request body takes too much time or memory to decode.", code="request_too_large")


class BodyTooSlow(APIError):
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(408, f"The request body did not arrive within {seconds:g} s.", code="request_timeout")


class AboveLimit(InvalidRequest):
    """A field exceeds a limit of this server. `kind` is the field's type: integer, string or array."""

    def __init__(self, param: str, problem: str, *, kind: str) -> None:
        code = "integer_above_max_value" if kind == "integer" else f"{kind}_above_max_length"
        super().__init__(f"'{shortened(param, MAX_PARAM)}' {problem}.", param=param, code=code)


class Unauthorized(APIError):
    def __init__(self, message: str) -> None:
        super().__init__(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


class RateLimited(APIError):
    """The caller has used up its requests or tokens per minute (access/rates.py) for the next `wait` seconds."""

    def __init__(self, message: str, wait: float) -> None:
        headers = {"retry-after": str(max(1, ceil(wait))), "retry-after-ms": str(ceil(wait * 1000))}
        super().__init__(429, message, code="rate_limit_exceeded", headers=headers)


MAX_RETRY_AFTER = 60
"""Seconds. OpenAI's clients ignore a longer Retry-After."""


class Overloaded(APIError):
    """The server has as many requests, or bytes of bodies, as it accepts (access/gate.py, access/turns.py).

    `wait` is the number of seconds after which the client should retry.
    """

    def __init__(self, wait: float = 1) -> None:
        super().__init__(
            429,
            "The server has too many requests at the moment; please try again.",
            code="server_overloaded",
            headers={"retry-after": str(min(max(1, ceil(wait)), MAX_RETRY_AFTER))},
        )


class NoFlexCapacity(APIError):
    """No capacity for a request of the tier `flex` at the moment, or its caller has as many as it may."""

    def __init__(self, wait: float = 1) -> None:
        super().__init__(
            429,
            "The server has no capacity for this request in the service tier 'flex' at the moment; please try again, "
            "or use another tier.",
            code="resource_unavailable",
            headers={"retry-after": str(min(max(1, ceil(wait)), MAX_RETRY_AFTER))},
        )


class TooManyConnections(APIError):
    def __init__(self) -> None:
        super().__init__(
            503,
            "The server has too many connections at the moment; please try again.",
            code="server_overloaded",
            headers={"retry-after": "1"},
        )


class Unavailable(APIError):
    """The backend can't answer at the moment; the client should retry after a second."""

    def __init__(self, message: str) -> None:
        super().__init__(503, message, code="backend_unavailable", headers={"retry-after": "1"})


class ShuttingDown(Unavailable):
    def __init__(self) -> None:
        super().__init__("The server is shutting down.")


class InternalError(APIError):
    """A failure of this server. The response hides the cause, which is logged."""

    def __init__(self) -> None:
        super().__init__(500, "The server failed to process the request.", code="internal_error")


# ---- Errors of the backend

_TRACEBACKS = re.compile(
    r"\s*(?:Traceback \(most recent call last\)|\n\s*At:\s*\n|\bFile \"[^\"\n]+\", line \d+|"
    r"(?<![\w.])/(?:[\w.@+-]+/)+[\w.@+-]+\.(?:py|so|cc|cpp|h)\b)"
)
"""The beginning of a traceback, or a path of a source file, in a backend's message."""


def without_traceback(message: str) -> str:
    """The message before a traceback or the path of a source file; empty if there is nothing before it."""
    found = _TRACEBACKS.search(message)
    return message if found is None else message[: found.start()].rstrip(" \n:-,;('\"")


MAX_BACKEND_MESSAGE = 4 * MAX_MESSAGE
"""Characters of a backend's message, before the part that is useless to a client is removed."""


class BackendError(Exception):
    """A failed gRPC call, or an invalid response (status UNKNOWN).

    `status` is the name of a gRPC status code. `details` has values for the contract's ERROR_ names; any may be absent.
    """

    tried: frozenset[tuple[Any, str]] = frozenset()
    """Pool members that returned this error, each with the model that was called."""
    is_loss = False
    """Whether the backend was lost while it worked on the request, which may be the reason."""

    def __init__(self, status: str, message: str, details: Mapping[str, str] = MappingProxyType({})) -> None:
        message = shortened(message, MAX_BACKEND_MESSAGE)  # the message of a stream's error may be long
        super().__init__(message)
        self.status = status
        self.message = message
        self.details = details
        self.reason = details.get(contract.ERROR_REASON, "")
        """One of the contract's REASON_ words, or empty."""
        self.tensor = details.get(contract.ERROR_TENSOR, "")
        """The input tensor that caused the error, or empty."""


@dataclass(frozen=True, slots=True)
class HttpStatus:
    """How a gRPC status is reported over HTTP."""

    status: int
    code: str | None = None
    message: str = ""
    """Replaces the backend's message where that describes the backend's internals; empty keeps it."""
    retry_after: str = ""
    """Seconds for the Retry-After header; empty sends none."""


_FAILED = "The model backend failed."
_UNAVAILABLE = "The model backend is not available at the moment; please try again."
_TIMED_OUT = "The model did not answer within this server's time limit."
_REFUSED = "The model backend refused this server's credentials."

# Every status except OK. Statuses that mean an error in the request are 4xx and keep the backend's message.
GRPC_TO_HTTP: dict[str, HttpStatus] = {
    # This server sends no response after it has cancelled a call, so here the backend is shutting down.
    "CANCELLED": HttpStatus(503, "backend_unavailable", _UNAVAILABLE, retry_after="1"),
    "UNKNOWN": HttpStatus(502, "backend_error"),
    "INVALID_ARGUMENT": HttpStatus(400),
    "DEADLINE_EXCEEDED": HttpStatus(504, "timeout", _TIMED_OUT),
    "NOT_FOUND": HttpStatus(404, "model_not_found"),
    "ALREADY_EXISTS": HttpStatus(502, "backend_error", _FAILED),
    "PERMISSION_DENIED": HttpStatus(502, "backend_error", _REFUSED),
    "RESOURCE_EXHAUSTED": HttpStatus(429, "rate_limit_exceeded", retry_after="1"),
    "FAILED_PRECONDITION": HttpStatus(400),
    "ABORTED": HttpStatus(503, "backend_unavailable", _UNAVAILABLE, retry_after="1"),
    "OUT_OF_RANGE": HttpStatus(400),
    "UNIMPLEMENTED": HttpStatus(501, "not_implemented"),
    "INTERNAL": HttpStatus(500, "backend_error", _FAILED),
    "UNAVAILABLE": HttpStatus(503, "backend_unavailable", _UNAVAILABLE, retry_after="1"),
    "DATA_LOSS": HttpStatus(500, "backend_error", _FAILED),
    "UNAUTHENTICATED": HttpStatus(502, "backend_error", _REFUSED),
}


REQUEST_TOO_LARGE = "request_too_large"
"""Reason of a BackendError: the request doesn't fit into one message to the backend."""

# Reasons that mean another status than that of the gRPC status.
REASON_TO_HTTP: dict[str, HttpStatus] = {
    REQUEST_TOO_LARGE: HttpStatus(413),
    contract.REASON_RESPONSE_TOO_LARGE: HttpStatus(400),
}


def from_backend(error: BackendError, params: Mapping[str, str], room: Room | None = None) -> APIError:
    """The response for a backend's error, without a traceback, which is logged. `params` maps the name of a tensor, or
    of a part of a guide, to the request field that it came from. `room` is for the message about a prompt that is too
    long; None keeps the backend's."""
    http = REASON_TO_HTTP.get(error.reason) or GRPC_TO_HTTP.get(error.status, GRPC_TO_HTTP["UNKNOWN"])
    part = error.details.get(contract.ERROR_PART, "")
    param = params.get(part) or params.get(error.tensor)
    message = error.message
    if (public := without_traceback(message)) != message:
        log.warning("the backend failed: %s", message)
        message = public
    if error.tensor == contract.LARK.name:
        message = _EXCERPT.split(message, maxsplit=1)[0]
    if http.code == "model_not_found":
        param = "model"
    elif error.reason == contract.REASON_CONTEXT_LENGTH:
        param = param or params.get(contract.PROMPT.name)
    if param:
        # The message names the client's field instead of the tensor, or of the field in the chat's form.
        if error.tensor == contract.BODY.name:
            message = message.replace(f"'{part}'", f"'{param}'")
        function = guide_parts.function_of(part) if part in params else ""
        field = f"'{param}' of the function '{function}'" if function else f"'{param}'"
        message = message.replace(f"tensor '{error.tensor}'", field, 1)
    if room is not None:
        room = room.reported(error.details) if error.reason == contract.REASON_CONTEXT_LENGTH else None
    if room is not None:
        message = context_length.message(param or "", room, message)
    return APIError(
        http.status,
        http.message or message or _FAILED,
        param=param,
        code=error.reason or http.code,
        headers={"retry-after": _retry_after(error, http.retry_after)} if http.retry_after else None,
        room=room,
    )


def _retry_after(error: BackendError, otherwise: str) -> str:
    """Seconds after which the client should retry; `otherwise` if the backend reports no valid number."""
    try:
        seconds = float(error.details.get(contract.ERROR_RETRY_AFTER, ""))
    except ValueError:
        return otherwise
    return str(ceil(min(max(seconds, 1), MAX_RETRY_AFTER))) if isfinite(seconds) else otherwise


_EXCERPT = re.compile(r"\n *\d+ \| ")
"""Precedes lines of the generated grammar, which a backend may quote after an error in it."""
