from collections.abc import Iterator
from typing import Any

import pytest

from openai_server.core import current_request
from openai_server.core.request_context import RequestContext
from openai_server.telemetry.request_start import MAX_PATH_LENGTH, begin, request_id


@pytest.fixture(autouse=True)
def no_request() -> Iterator[None]:
    """Other tests run outside a request."""
    token = current_request.context.set(None)
    yield
    current_request.context.reset(token)


PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def scope(path: bytes = b"/x", **headers: str) -> dict[str, Any]:
    told = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {"method": "GET", "raw_path": path, "headers": told, "client": ("10.0.0.1", 5)}


async def receive() -> Any:
    raise AssertionError("nothing is received")


def started(scope: dict[str, Any]) -> RequestContext:
    return begin(scope, receive, clock=lambda: 1.0, on_waiting=lambda _, __: None)


def begun(path: bytes = b"/x", **headers: str) -> RequestContext:
    return started(scope(path, **headers))


@pytest.mark.parametrize("id", ["a", "3f2a-77", "~!{}", "x" * 128])
def test_a_sane_id_of_the_client_is_taken(id: str) -> None:
    assert request_id(id) == id
    assert begun(x_request_id=id).id == id


@pytest.mark.parametrize("id", ["", " ", "a b", "a\nb", "a\x7f", "ä", "x" * 129, "a\n"])
def test_any_other_gets_a_new_one(id: str) -> None:
    made = {request_id(id) for _ in range(2)}
    assert len(made) == 2
    assert all(name.startswith("req_") for name in made)


def test_what_is_no_trace_context_is_left_out() -> None:
    for parent, state, passed_on in [
        (PARENT, "a=1", "a=1"),
        (PARENT, "a", ""),
        (PARENT + "0", "a=1", ""),
        ("", "a=1", ""),
    ]:
        context = begun(traceparent=parent, tracestate=state)
        assert context.traceparent == (PARENT if parent == PARENT else "")
        assert context.tracestate == passed_on


def test_a_tracestate_of_several_headers_is_one_list() -> None:
    given = scope(traceparent=PARENT, tracestate="a=1")
    given["headers"].append((b"tracestate", b"b=2"))
    context = started(given)
    assert context.headers[1:] == [("traceparent", PARENT), ("tracestate", "a=1,b=2")]


def test_the_current_context_is_that_of_the_request() -> None:
    context = begun(x_request_id="one")
    assert current_request.request_id() == "one"
    assert dict(context.headers) == {"x-request-id": "one"}
    assert begun(x_request_id="two", traceparent=PARENT).headers == [("x-request-id", "two"), ("traceparent", PARENT)]
    assert current_request.request_id() == "two"


def test_a_path_is_one_word_of_bounded_length() -> None:
    assert begun(b"/a%20b?\xff\n\x1b[0m").path == "/a%20b?\\xff??[0m"
    assert len(begun(b"/" + b"x" * 9999).path) == MAX_PATH_LENGTH
