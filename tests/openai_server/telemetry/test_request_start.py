from collections.abc import Iterator
from typing import Any

import pytest

from openai_server.core import current_request
from openai_server.core.request_context import RequestContext
from openai_server.telemetry.request_start import MAX_PATH_LENGTH, begin, request_id


@pytest.fixture(autouse=True)
def no_request() -> Iterator[None]:
    """Resets the current request, so that other tests run outside of one."""
    token = current_request.context.set(None)
    yield
    current_request.context.reset(token)


PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def scope(path: bytes = b"/x", **headers: str) -> dict[str, Any]:
    raw_headers = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {"method": "GET", "raw_path": path, "headers": raw_headers, "client": ("10.0.0.1", 5)}


async def receive() -> Any:
    raise AssertionError("nothing is received")


def started(scope: dict[str, Any]) -> RequestContext:
    return begin(scope, receive, clock=lambda: 1.0, on_waiting=lambda _, __: None)


def started_with(path: bytes = b"/x", **headers: str) -> RequestContext:
    return started(scope(path, **headers))


@pytest.mark.parametrize("id", ["a", "3f2a-77", "~!{}", "x" * 128])
def test_a_valid_id_of_the_client_is_used(id: str) -> None:
    assert request_id(id) == id
    assert started_with(x_request_id=id).id == id


@pytest.mark.parametrize("id", ["", " ", "a b", "a\nb", "a\x7f", "ä", "x" * 129, "a\n"])
def test_an_invalid_id_is_replaced(id: str) -> None:
    ids = {request_id(id) for _ in range(2)}
    assert len(ids) == 2
    assert all(name.startswith("req_") for name in ids)


def test_an_invalid_trace_context_is_left_out() -> None:
    for parent, state, passed_on in [
        (PARENT, "a=1", "a=1"),
        (PARENT, "a", ""),
        (PARENT + "0", "a=1", ""),
        ("", "a=1", ""),
    ]:
        context = started_with(traceparent=parent, tracestate=state)
        assert context.traceparent == (PARENT if parent == PARENT else "")
        assert context.tracestate == passed_on


def test_several_tracestate_headers_are_joined() -> None:
    request_scope = scope(traceparent=PARENT, tracestate="a=1")
    request_scope["headers"].append((b"tracestate", b"b=2"))
    context = started(request_scope)
    assert context.headers[1:] == [("traceparent", PARENT), ("tracestate", "a=1,b=2")]


def test_the_current_context_is_that_of_the_last_request() -> None:
    context = started_with(x_request_id="one")
    assert current_request.request_id() == "one"
    assert dict(context.headers) == {"x-request-id": "one"}
    assert started_with(x_request_id="two", traceparent=PARENT).headers == [
        ("x-request-id", "two"),
        ("traceparent", PARENT),
    ]
    assert current_request.request_id() == "two"


def test_a_logged_path_is_one_word_of_limited_length() -> None:
    assert started_with(b"/a%20b?\xff\n\x1b[0m").path == "/a%20b?\\xff??[0m"
    assert len(started_with(b"/" + b"x" * 9999).path) == MAX_PATH_LENGTH
