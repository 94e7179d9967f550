"""The error of a response that failed. PURE."""

from openai_server.api.responses.answer import ResponseError
from openai_server.api.responses.errors import message_of
from openai_server.api.responses.output.stream_events import ResponseErrorDetail, ResponseErrorEvent
from openai_server.core.errors import APIError
from protos import contract


def error_event(error: APIError) -> ResponseErrorEvent:
    """The error in the forms of OpenAI and Open Responses together."""
    message = message_of(error)
    detail = ResponseErrorDetail(error.type, error.code, message, error.param)
    return ResponseErrorEvent(code=error.code, message=message, param=error.param, error=detail)


def response_error(error: APIError) -> ResponseError:
    """The `error` of a failed response."""
    message = message_of(error)
    if error.code == contract.REASON_CONTEXT_LENGTH:
        return ResponseError(error.code, message)
    if error.status == 429:
        return ResponseError("rate_limit_exceeded", message)
    return ResponseError("invalid_prompt" if error.status < 500 else "server_error", message)
