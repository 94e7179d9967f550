"""Errors in the form of Anthropic's API. PURE.

Clients match the type, the status and some messages: Claude Code shortens its conversation when it reads "prompt is too
long", and reads the two numbers after that.
"""

from typing import Literal, NotRequired, TypedDict

from openai_server.api.client_api import ClientApi, ErrorAnswer
from openai_server.core.context_length import is_number
from openai_server.core.errors import APIError
from protos import contract

OVERLOADED = 529
"""Anthropic's status for a server that has too many requests, of whichever caller."""


class AnthropicErrorDetails(TypedDict):
    error_code: str


class AnthropicErrorContent(TypedDict):
    type: str
    message: str
    details: NotRequired[AnthropicErrorDetails]


class AnthropicError(TypedDict):
    """The JSON envelope of every error response."""

    type: Literal["error"]
    error: AnthropicErrorContent
    request_id: str | None


_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    OVERLOADED: "overloaded_error",
}
"""Types by status. Other statuses below 500 are `invalid_request_error`, and the rest `api_error`."""


def _status(error: APIError) -> int:
    """A full server has a status of its own; 429 is for a caller that exceeds its own rate."""
    return OVERLOADED if error.status in (429, 503) and error.code in _FULL else error.status


_FULL = ("server_overloaded", contract.REASON_QUEUE_FULL)


def _content(error: APIError) -> AnthropicErrorContent:
    status = _status(error)
    type = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    content: AnthropicErrorContent = {"type": type, "message": _message(error)}
    if error.param == _THREAD and status == 400:
        content["details"] = {"error_code": "thread_unsupported_request"}
    return content


_THREAD = "thread"
"""The field for a stored conversation. With the error's code, the `anthropic` package sends the whole one instead."""


def _message(error: APIError) -> str:
    if error.code != contract.REASON_CONTEXT_LENGTH:
        return error.message
    limit = error.room and error.room.context_length
    count = error.room.prompt_tokens.removeprefix(">") if error.room else ""
    if not limit or not is_number(count):
        return f"prompt is too long: {error.message}"
    # A prompt that fills the context leaves no room for the answer.
    return f"prompt is too long: {count} tokens > {limit if int(count) > limit else limit - 1} maximum"


def _answer(error: APIError, request_id: str) -> ErrorAnswer:
    content: AnthropicError = {"type": "error", "error": _content(error), "request_id": request_id}
    return ErrorAnswer(_status(error), content, error.headers)


def stream_error(error: APIError) -> AnthropicError:
    """The data of a stream's last event. The request's id is in the response's headers."""
    return {"type": "error", "error": _content(error), "request_id": None}


ANTHROPIC = ClientApi(_answer, AnthropicError, (b"x-request-id", b"request-id"))
