import time
from typing import Any

import pytest

from anyserve_worker.pipelines.upstream.failures import (
    ErrorDetails,
    error_body,
    error_details,
    failure,
    log_text,
    retry_after,
)
from anyserve_worker.pipelines.upstream.scrubbing import MAX_LENGTH, scrub
from protos import contract

PYDANTIC = {"detail": [{"loc": ["body", "messages", 0, "role"], "msg": "Field required", "type": "missing"}]}


@pytest.mark.parametrize(
    ("body", "details"),
    [
        ({"error": {"message": "a", "param": "b", "code": "c"}}, ErrorDetails("a", "b", code="c")),
        ({"error": {"message": "a", "code": 429, "status": "RESOURCE_EXHAUSTED"}}, ErrorDetails("a", status=429)),
        ({"error": {"message": "a", "code": "503"}}, ErrorDetails("a", status=503, code="503")),
        ({"error": {"message": "a", "type": "c"}}, ErrorDetails("a", code="c")),
        ({"error": {"message": "a", "code": 5}}, ErrorDetails("a")),
        ({"error": "a"}, ErrorDetails("a")),
        ({"message": "a"}, ErrorDetails("a")),
        ({"detail": "a"}, ErrorDetails("a")),
        (PYDANTIC, ErrorDetails("Field required", "messages.0.role", code="missing")),
        ([{"error": {"message": "a", "code": 400}}], ErrorDetails("a", status=400)),
        ({"error": True}, ErrorDetails()),
        ("text", ErrorDetails("text")),
        ([], ErrorDetails()),
        (None, ErrorDetails()),
    ],
)
def test_the_forms_of_errors(body: Any, details: ErrorDetails) -> None:
    assert error_details(body) == details


@pytest.mark.parametrize(
    ("details", "is_too_long"),
    [
        (ErrorDetails("x", code="context_length_exceeded"), True),
        (ErrorDetails("x", code="exceed_context_size_error"), True),
        (ErrorDetails("This model's maximum context length is 8192 tokens."), True),
        (ErrorDetails("prompt is too long: 9 tokens > 8 maximum"), True),
        (ErrorDetails("temperature must be at most 2"), False),
    ],
)
def test_prompts_that_are_too_long(details: ErrorDetails, is_too_long: bool) -> None:
    error = failure("invalid", 400, details, str)
    assert error.reason == (contract.REASON_CONTEXT_LENGTH if is_too_long else "")


@pytest.mark.parametrize(("status", "has_text"), [(400, False), (401, True), (404, True), (500, False)])
def test_the_log_has_no_texts_that_may_repeat_a_prompt(status: int, has_text: bool) -> None:
    assert ("boom" in log_text(status, ErrorDetails("boom"), str)) == has_text


def test_a_byte_order_mark_is_no_part_of_the_error() -> None:
    assert error_details(error_body(b'\xef\xbb\xbf{"error": {"message": "m"}}')) == ErrorDetails("m")


def test_a_huge_text_takes_little_time() -> None:
    began_at = time.process_time()
    assert scrub("sk-0123456789 " * 2_000_000, ["swordfish"]).startswith("[hidden] [hidden]")
    assert time.process_time() - began_at < 1


def test_pages_have_no_message() -> None:
    assert error_body(b"<html>nginx</html>") == ""
    assert error_body(b"\xff no json") == "\ufffd no json"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2"}, 2),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 10),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:40 GMT"}, 0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_times_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, now=90) == seconds


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("the key is swordfish", "the key is [hidden]"),
        ("long-secret-value-1 and long-sec****", "[hidden] and [hidden]"),
        ("Incorrect API key provided: sk-ab*****yz.", "Incorrect API key provided: [hidden]"),
        ("GET https://me:pw@host/v1?key=abc&x=1", "GET https://[hidden]@host/v1?key=[hidden]&x=1"),
        ("Authorization: Bearer abc, next", "Authorization: [hidden], next"),
        ('{"api_key": "abc"}', '{"api_key": "[hidden]"}'),
        ("AIzaSyA0123456789 is not valid", "[hidden] is not valid"),
        ("two\nlines\x1b[31m", "two lines [31m"),
        ("max_tokens is too large: 9", "max_tokens is too large: 9"),
        ("x" * 1000, "x" * (MAX_LENGTH - 1) + "…"),
    ],
)
def test_scrubbing(text: str, scrubbed: str) -> None:
    assert scrub(text, ("swordfish", "long-secret-value-1", "")) == scrubbed
