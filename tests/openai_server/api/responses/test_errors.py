"""Errors of `/v1/responses`, before and after the beginning of a stream."""

import re
from typing import Any

import pytest

from openai_server.access.rates import Account, Bucket
from openai_server.api.responses.errors import RESPONSES_API
from openai_server.core.errors import (
    APIError,
    BackendError,
    InternalError,
    InvalidRequest,
    Overloaded,
    RateLimited,
    TooManyConnections,
    Unavailable,
    from_backend,
)
from protos import contract
from tests.openai_server.api.responses.output.streams import events, request, writer

CODEX_WAIT = re.compile(r"(?i)try again in\s*(\d+(?:\.\d+)?)\s*(s|ms|seconds?)")
"""The expression that Codex looks for in the message of a rate limit."""
TOO_LONG = from_backend(
    BackendError(
        "INVALID_ARGUMENT", "The prompt is too long.", {contract.ERROR_REASON: contract.REASON_CONTEXT_LENGTH}
    ),
    {},
)
QUEUE_FULL = from_backend(
    BackendError("RESOURCE_EXHAUSTED", "The queue is full.", {contract.ERROR_REASON: contract.REASON_QUEUE_FULL}), {}
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TOO_LONG, "context_length_exceeded"),
        (QUEUE_FULL, "rate_limit_exceeded"),
        (RateLimited("The limit is reached.", 1.5), "rate_limit_exceeded"),
        (InvalidRequest("No.", param="input"), "invalid_prompt"),
        (Unavailable("Gone."), "server_error"),
        (InternalError(), "server_error"),
    ],
)
def test_a_failed_response_has_a_code_that_codex_reads(error: APIError, code: str) -> None:
    stream = writer(request())
    *_, event, failed = events(stream.begin(1, None) + stream.failure(error))
    assert failed["type"] == "response.failed"
    message = failed["response"]["error"]["message"]
    assert failed["response"]["error"] == {"code": code, "message": message}
    assert (failed["response"]["status"], failed["response"]["usage"]) == ("failed", None)
    detail = {"code": error.code, "message": message, "param": error.param}
    assert {name: event[name] for name in detail} == detail
    assert event["error"] == {"type": error.type, **detail}


def test_a_failure_before_the_first_event_has_the_beginning_of_a_stream() -> None:
    kinds = [event["type"] for event in events(writer(request()).failure(InternalError()))]
    assert kinds == ["response.created", "response.in_progress", "error", "response.failed"]


def test_a_failure_does_not_close_the_open_item() -> None:
    stream = writer(request())
    data = stream.begin(1, None) + stream.text(0, "a") + stream.failure(InternalError())
    *_, delta, error, failed = events(data)
    assert (delta["type"], error["type"]) == ("response.output_text.delta", "error")
    assert failed["response"]["output"] == []


def answer(error: APIError) -> Any:
    response = RESPONSES_API.error(error, "request-id")
    assert (response.status, response.headers) == (error.status, error.headers)
    return response.content


def test_a_prompt_that_is_too_long_is_refused_with_its_code() -> None:
    assert TOO_LONG.status == 400
    assert answer(TOO_LONG) == TOO_LONG.envelope()
    assert answer(TOO_LONG)["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (RateLimited("The limit is reached; please try again in 120ms.", 0.12), 0.12),
        (RateLimited("The limit is reached; please try again in 1m30.5s.", 90.5), 90.5),
        (Overloaded(12), 12),
        (TooManyConnections(), 1),
        (QUEUE_FULL, 1),
        (Unavailable("No backend is ready at the moment; please try again."), 1),
    ],
)
def test_the_message_has_the_wait_in_the_form_that_codex_reads(error: APIError, seconds: float) -> None:
    match = CODEX_WAIT.search(answer(error)["error"]["message"])
    assert match is not None
    assert float(match[1]) / (1000 if match[2] == "ms" else 1) == seconds


@pytest.mark.parametrize("limit", [1, 60])
def test_the_wait_of_a_rate_limit_is_in_its_message(limit: int) -> None:
    account = Account(Bucket(limit, 0), None)
    for _ in range(limit):
        account.take_request(0)
    with pytest.raises(RateLimited) as refused:
        account.take_request(0)
    assert answer(refused.value)["error"]["message"] == (
        f"The limit of {limit} requests per minute is reached; please try again in {60 // limit}s."
    )


def test_an_error_without_a_wait_keeps_its_message() -> None:
    assert answer(InvalidRequest("No.")) == InvalidRequest("No.").envelope()
