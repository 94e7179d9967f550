"""Methods get the request by keyword; `body` has the form of the API that the method is for."""

import sys
from pathlib import Path
from typing import Any

import pytest

from anyserve_worker.pipelines.core.errors import InvalidInput, PipelineError, TimedOut, TooManyRequests, UpstreamAway
from anyserve_worker.pipelines.wrappers.arguments import responses_body
from anyserve_worker.pipelines.wrappers.client_errors import client_error
from anyserve_worker.pipelines.wrappers.headers import request_headers
from tests.anyserve_worker.pipelines.wrappers.wrappers import MESSAGES, request, started, text, write_wrapper

ITEMS: list[dict[str, Any]] = [
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]}
]


async def seen_by(tmp_path: Path, source: str, *, name: str = "greeter", **fields: Any) -> dict[str, Any]:
    pipeline, _ = await started(write_wrapper(tmp_path, "seen = {}\n", source, name=name))
    await text(pipeline, request({"temperature": 0.5}, **fields))
    seen: dict[str, Any] = sys.modules[f"{name}.pipeline_wrapper"].seen
    return seen


async def test_a_chat_method_gets_the_chat(tmp_path: Path) -> None:
    source = "def run_chat_completion(model, messages, body): seen.update(locals())"
    body = {"model": "greeter", "messages": MESSAGES, "stream": True, "temperature": 0.5}
    assert await seen_by(tmp_path, source) == {"model": "greeter", "messages": MESSAGES, "body": body}


async def test_a_response_method_gets_input_items(tmp_path: Path) -> None:
    source = "async def run_response_async(model, input_items, body): seen.update(locals())"
    body = {"model": "greeter", "input": ITEMS, "stream": True, "temperature": 0.5}
    seen = await seen_by(tmp_path, source, input_items=ITEMS)
    assert seen == {"model": "greeter", "input_items": ITEMS, "body": body}


async def test_headers_are_for_methods_that_declare_them(tmp_path: Path) -> None:
    headers = {"x-request-id": "r1"}
    source = "def run_chat_completion(model, messages, body, headers=None): seen.update(locals())"
    seen = await seen_by(tmp_path, source, headers=headers)
    assert type(seen["headers"]).__module__ == "starlette.datastructures"
    assert seen["headers"]["X-Request-ID"] == "r1"
    source = "def run_chat_completion(**all): seen.update(all)"
    seen = await seen_by(tmp_path, source, headers=headers, name="second")
    assert seen.keys() == {"model", "messages", "body"}


def test_headers_without_starlette(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "starlette.datastructures", None)
    headers = request_headers({"X-Request-Id": "r1"})
    assert dict(headers) == {"x-request-id": "r1"}
    assert headers["X-REQUEST-ID"] == headers.get("x-Request-Id") == "r1"
    assert "x-request-ID" in headers
    assert headers.get("authorization") is None
    assert len(headers) == 1


async def test_a_task_that_the_wrapper_lacks_is_refused(tmp_path: Path) -> None:
    pipeline, _ = await started(write_wrapper(tmp_path, "def run_response(input_items): ..."))
    with pytest.raises(InvalidInput, match="input_items is required by this model, which has the task responses"):
        await text(pipeline)
    pipeline, _ = await started(write_wrapper(tmp_path, "def run_chat_completion(messages): ...", name="chatter"))
    with pytest.raises(InvalidInput, match="input_items can't be used with this model, which has the task chat"):
        await text(pipeline, request(input_items=ITEMS))


FORMS: dict[str, tuple[Any, Any]] = {
    "token limit": ({"max_tokens": 5}, {"max_output_tokens": 5}),
    "newer token limit": ({"max_tokens": 5, "max_completion_tokens": 6}, {"max_output_tokens": 6}),
    "effort": ({"reasoning_effort": "low"}, {"reasoning": {"effort": "low"}}),
    "instructions": ({"instructions": "Be kind."}, {"instructions": "Be kind."}),
    "same names": (
        {"top_p": 0.5, "metadata": {"a": "b"}, "user": "u", "parallel_tool_calls": False, "seed": 7},
        {"top_p": 0.5, "metadata": {"a": "b"}, "user": "u", "parallel_tool_calls": False, "seed": 7},
    ),
    "schema": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": True}}},
        {"text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}}},
    ),
    "any object, verbosity": (
        {"response_format": {"type": "json_object"}, "verbosity": "low"},
        {"text": {"format": {"type": "json_object"}, "verbosity": "low"}},
    ),
    "function": (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]},
        {"tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}]},
    ),
    "custom tool": (
        {
            "tools": [
                {
                    "type": "custom",
                    "custom": {
                        "name": "c",
                        "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: x"}},
                    },
                }
            ]
        },
        {
            "tools": [
                {
                    "type": "custom",
                    "name": "c",
                    "format": {"type": "grammar", "syntax": "lark", "definition": "start: x"},
                }
            ]
        },
    ),
    "choice by word": ({"tool_choice": "required"}, {"tool_choice": "required"}),
    "choice of a function": (
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"tool_choice": {"type": "function", "name": "f"}},
    ),
    "allowed tools": (
        {
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]},
            }
        },
        {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}},
    ),
}


@pytest.mark.parametrize(("chat", "expected"), FORMS.values(), ids=FORMS.keys())
def test_the_body_of_a_response_has_that_apis_form(chat: dict[str, Any], expected: dict[str, Any]) -> None:
    chat_request = request(chat, input_items=ITEMS)
    before = repr(chat_request.body)
    assert responses_body(chat_request) == {"model": "greeter", "input": ITEMS, "stream": True, **expected}
    assert repr(chat_request.body) == before


# ---- Errors for clients


class HTTPException(Exception):
    def __init__(self, status_code: int, detail: Any = None, headers: dict[str, str] | None = None) -> None:
        super().__init__("internal text")
        self.status_code, self.detail, self.headers = status_code, detail, headers


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (HTTPException(400, "The city is missing."), InvalidInput, "The city is missing."),
        (HTTPException(422, [{"loc": "city"}]), InvalidInput, "The pipeline refuses the request."),
        (HTTPException(429, "Later."), TooManyRequests, "Later."),
        (HTTPException(503, "Away."), UpstreamAway, "Away."),
        (HTTPException(504, "Slow."), TimedOut, "Slow."),
    ],
)
async def test_an_http_exception_is_for_the_client(
    error: HTTPException, expected: type[PipelineError], message: str
) -> None:
    shown = client_error(error)
    assert type(shown) is expected
    assert str(shown) == message


def test_the_time_to_wait_is_passed_on() -> None:
    shown = client_error(HTTPException(429, "Later.", {"Retry-After": "7"}))
    assert shown
    assert shown.retry_after == 7


@pytest.mark.parametrize("error", [HTTPException(500, "secret"), ValueError("secret")])
def test_other_errors_are_not(error: Exception) -> None:
    assert client_error(error) is None


class PipelineRuntimeError(Exception):
    """Has the name of Haystack's class."""


@pytest.mark.parametrize("own", [HTTPException(400, "The city is missing."), InvalidInput("The city is missing.")])
def test_an_error_of_a_component_is_the_cause_of_haystacks(own: Exception) -> None:
    error = PipelineRuntimeError("internal text")
    error.__cause__ = PipelineRuntimeError("of a pipeline in the pipeline")
    error.__cause__.__cause__ = own
    shown = client_error(error)
    assert type(shown) is InvalidInput
    assert str(shown) == "The city is missing."
    assert client_error(PipelineRuntimeError("secret")) is None


async def test_errors_that_a_wrapper_raises(tmp_path: Path) -> None:
    source = """
        from anyserve_worker.pipelines.core.errors import TooManyRequests
        class HTTPException(Exception):
            status_code, detail = 400, "The city is missing."
        def run_chat_completion(body):
            yield "a"
            raise {"http": HTTPException, "own": TooManyRequests, "other": KeyError}[body["user"]]("Later.")
    """
    pipeline, _ = await started(write_wrapper(tmp_path, source))
    for user, expected in (("http", InvalidInput), ("own", TooManyRequests), ("other", KeyError)):
        with pytest.raises(expected):
            await text(pipeline, request({"user": user}))
