"""The last events of a stream of `/v1/responses` that failed. PURE."""

from collections.abc import Sequence

from openai_server.api.answers import AnswerIdentity
from openai_server.api.responses.answer import ResponseError, ResponseItem
from openai_server.api.responses.errors import message_of
from openai_server.api.responses.output.state import failed
from openai_server.api.responses.output.stream_events import (
    ResponseErrorDetail,
    ResponseErrorEvent,
    ResponseFailed,
    StreamEvent,
)
from openai_server.api.responses.settings import Settings
from openai_server.core.errors import APIError
from protos import contract


def failure_events(
    identity: AnswerIdentity, settings: Settings, items: Sequence[ResponseItem], error: APIError
) -> tuple[StreamEvent, StreamEvent]:
    """The error in the forms of OpenAI and Open Responses together, and the failed response with these items."""
    message = message_of(error)
    detail = ResponseErrorDetail(error.type, error.code, message, error.param)
    return (
        ResponseErrorEvent(code=error.code, message=message, param=error.param, error=detail),
        ResponseFailed(response=failed(identity, settings, items, _response_error(error))),
    )


def _response_error(error: APIError) -> ResponseError:
    """The `error` of a failed response."""
    message = message_of(error)
    if error.code == contract.REASON_CONTEXT_LENGTH:
        return ResponseError(error.code, message)
    if error.status == 429:
        return ResponseError("rate_limit_exceeded", message)
    return ResponseError("invalid_prompt" if error.status < 500 else "server_error", message)
