import pytest
from anthropic import types

from openai_server.api.messages.errors import ANTHROPIC, stream_error
from openai_server.core.context_length import Room
from openai_server.core.errors import APIError, BackendError, InternalError, Overloaded, RateLimited, from_backend
from protos import contract
from tests.openai_server.api.messages.package import check


@pytest.mark.parametrize(
    ("error", "status", "type"),
    [
        (APIError(400, "x"), 400, "invalid_request_error"),
        (APIError(401, "x"), 401, "authentication_error"),
        (APIError(403, "x"), 403, "permission_error"),
        (APIError(404, "x"), 404, "not_found_error"),
        (APIError(405, "x"), 405, "invalid_request_error"),
        (APIError(408, "x"), 408, "invalid_request_error"),
        (RateLimited("x", 2), 429, "rate_limit_error"),
        (Overloaded(), 529, "overloaded_error"),
        (APIError(429, "x", code=contract.REASON_QUEUE_FULL), 529, "overloaded_error"),
        (InternalError(), 500, "api_error"),
        (APIError(502, "x"), 502, "api_error"),
        (APIError(503, "x", code="backend_unavailable"), 503, "api_error"),
        (APIError(504, "x"), 504, "timeout_error"),
    ],
)
def test_errors_have_anthropics_statuses_types_and_form(error: APIError, status: int, type: str) -> None:
    answer = ANTHROPIC.error(error, "req_1")
    expected = {"type": type, "message": error.message}
    assert (answer.status, answer.headers) == (status, error.headers)
    assert answer.content == {"type": "error", "error": expected, "request_id": "req_1"}
    assert stream_error(error) == {"type": "error", "error": expected, "request_id": None}
    check(types.ErrorResponse, answer.content)


def overflow(room: Room | None, *, prompt: str = "", context: str = "") -> str:
    details = {
        contract.ERROR_REASON: contract.REASON_CONTEXT_LENGTH,
        contract.ERROR_PROMPT_TOKENS: prompt,
        contract.ERROR_CONTEXT_LENGTH: context,
    }
    error = BackendError("INVALID_ARGUMENT", "too long", details)
    return stream_error(from_backend(error, {}, room))["error"]["message"]


def test_a_prompt_that_is_too_long_has_the_numbers_that_clients_read() -> None:
    room = Room(100)
    assert overflow(room, prompt="101") == "prompt is too long: 101 tokens > 100 maximum"
    assert overflow(room, prompt="100") == "prompt is too long: 100 tokens > 99 maximum"
    assert overflow(room, prompt=">4000") == "prompt is too long: 4000 tokens > 100 maximum"
    assert overflow(room, context="50", prompt="60") == "prompt is too long: 60 tokens > 50 maximum"
    for message in (overflow(room), overflow(Room(None), prompt="101"), overflow(None)):
        assert message.startswith("prompt is too long: ")
        assert "> " not in message
