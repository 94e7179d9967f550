import grpc
import pytest

from openai_server.core.errors import (
    GRPC_TO_HTTP,
    APIError,
    BackendError,
    ModelNotFound,
    NoTextModel,
    UnsupportedParameter,
    from_backend,
)


def test_the_table_has_every_status_but_ok() -> None:
    assert set(GRPC_TO_HTTP) == {code.name for code in grpc.StatusCode} - {"OK"}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("INVALID_ARGUMENT", 400),
        ("OUT_OF_RANGE", 400),
        ("FAILED_PRECONDITION", 400),
        ("NOT_FOUND", 404),
        ("RESOURCE_EXHAUSTED", 429),
        ("UNAVAILABLE", 503),
        ("DEADLINE_EXCEEDED", 504),
        ("UNIMPLEMENTED", 501),
        ("a word that is no status", 502),
    ],
)
def test_a_grpc_status_is_mapped_to_an_http_status(status: str, expected: int) -> None:
    assert from_backend(BackendError(status, "m"), {}).status == expected


@pytest.mark.parametrize(
    ("status", "type"),
    [(400, "invalid_request_error"), (429, "rate_limit_error"), (499, "invalid_request_error"), (500, "server_error")],
)
def test_the_error_type_follows_from_the_status(status: int, type: str) -> None:
    assert APIError(status, "m").envelope() == {"error": {"message": "m", "type": type, "param": None, "code": None}}


def test_an_error_without_a_message_gets_a_default_message() -> None:
    assert from_backend(BackendError("INVALID_ARGUMENT", ""), {}).message


def test_errors_have_the_codes_of_openai() -> None:
    assert ModelNotFound("x").code == "model_not_found"
    assert UnsupportedParameter("tools").param == "tools"


@pytest.mark.parametrize(
    ("message", "public"),
    [
        ("no such thing", "no such thing"),
        ('Traceback (most recent call last):\n  File "/srv/model.py", line 3, in run\nValueError: boom', ""),
        ("Error generating stream: Traceback (most recent call last):\n  x", "Error generating stream"),
        (
            "failed: ValueError: boom\n\nAt:\n  /models/m/1/model.py(45): execute\n",
            "failed: ValueError: boom",
        ),
        ('it broke in File "model.py", line 7', "it broke in"),
        ("assertion failed in /build/src/engine/run.cpp:12", "assertion failed in"),
        ("can't open 'x/y.json' and/or z", "can't open 'x/y.json' and/or z"),
    ],
)
def test_a_backends_traceback_is_logged_and_not_sent(
    message: str, public: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = from_backend(BackendError("UNKNOWN", message), {})
    assert error.message == (public or "The model backend failed.")
    assert (message in caplog.text) == (message != public)


def test_the_message_about_missing_text_models_has_single_spaces() -> None:
    assert "  " not in NoTextModel(["a", "b"]).message


@pytest.mark.parametrize(
    ("status", "seconds", "header"),
    [
        ("RESOURCE_EXHAUSTED", "7", "7"),
        ("RESOURCE_EXHAUSTED", "1.2", "2"),
        ("UNAVAILABLE", "0", "1"),
        ("UNAVAILABLE", "-5", "1"),
        ("UNAVAILABLE", "86400", "60"),
        ("UNAVAILABLE", "soon", "1"),
        ("UNAVAILABLE", "nan", "1"),
        ("UNAVAILABLE", "inf", "1"),
        ("UNAVAILABLE", "", "1"),
        ("INTERNAL", "7", None),
    ],
)
def test_the_wait_that_a_backend_reports_is_the_retry_after_header(
    status: str, seconds: str, header: str | None
) -> None:
    error = from_backend(BackendError(status, "m", {"error_retry_after": seconds}), {})
    assert error.headers.get("retry-after") == header
