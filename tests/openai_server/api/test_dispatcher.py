"""The dispatcher: admission, responses, errors and cancellation, with fakes of everything around it."""

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.types import Message

from openai_server.access.gate import Gate
from openai_server.api.dispatcher import AdministrationPort, Dispatcher
from openai_server.api.endpoint import Endpoint, Handler
from openai_server.core.errors import APIError, InvalidRequest, Unauthorized
from openai_server.core.request_context import RequestContext
from openai_server.http.json_response import JSONResponse
from openai_server.http.streaming import ClientGone, EventStream, EventWriter
from openai_server.telemetry.observer import Observer
from tests.openai_server.api.fakes import Client, FakeAccess, services
from tests.openai_server.exchange import FakeExchange


async def receive() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


class Site:
    """A dispatcher with two endpoints: POST /work and POST /open."""

    def __init__(self, handler: Handler, access: FakeAccess | None = None) -> None:
        self.access = access or FakeAccess()
        self.observer = Observer(log_access=True)
        self.client = Client()
        paths = ("/work", "/open", "/of/{model}")
        self.endpoint = Endpoint(paths=paths, method="POST", handler=lambda _: handler, description=None)
        self.services = services(observer=self.observer, endpoints=[self.endpoint])
        gate = cast(Gate, type("FakeGate", (), {"enter": lambda *_: self.access})())
        self.dispatcher = Dispatcher(self.services, gate, frozenset(("/open", "/gone")))

    def request(self, path: str = "/work", method: str = "POST", **headers: str) -> Coroutine[Any, Any, None]:
        raw_headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        request = {"method": method, "path": path, "raw_path": path.encode(), "headers": raw_headers}
        scope = {**FakeExchange().scope, **request}
        return self.dispatcher(scope, receive, self.client.send)

    @property
    def error(self) -> dict[str, Any]:
        return dict(json.loads(self.client.body)["error"])

    @property
    def ended(self) -> list[tuple[str, int]]:
        """Endpoint and status of each finished request."""
        return [(context.endpoint, context.status) for context in self.observer._ended]


def raising(error: BaseException) -> Handler:
    async def handle(_: RequestContext) -> Response:
        raise error

    return handle


async def answer(_: RequestContext) -> Response:
    return JSONResponse({"ok": True})


async def test_a_request_is_admitted_before_it_is_handled() -> None:
    contexts: list[RequestContext] = []

    async def handle(context: RequestContext) -> Response:
        assert site.access.calls == ["preflight", "authenticate"]
        assert site.dispatcher.running == {asyncio.current_task()}
        contexts.append(context)
        return JSONResponse({"ok": True})

    site = Site(handle)
    await site.request("/of/org/name")
    assert (site.client.status, site.client.body) == (200, b'{"ok":true}')
    [context] = contexts
    assert (context.caller, context.parameters, context.access) == ("label", {"model": "org/name"}, site.access)
    assert site.access.calls == ["preflight", "authenticate", "end"]
    assert not site.dispatcher.running
    assert site.ended == [("/work", 200)]


async def test_an_open_path_needs_no_key_even_where_it_is_not_served() -> None:
    for path, status in (("/open", 200), ("/gone", 404)):
        site = Site(answer, FakeAccess(refusals={"authenticate": Unauthorized("no key")}))
        await site.request(path)
        assert site.client.status == status


async def test_without_a_key_no_path_is_disclosed() -> None:
    for path in ("/work", "/nothing"):
        site = Site(answer, FakeAccess(refusals={"authenticate": Unauthorized("no key")}))
        await site.request(path)
        assert site.client.status == 401
        assert site.access.calls[-1] == "end"


async def test_a_preflight_request_is_answered_first() -> None:
    access = FakeAccess()
    access.preflight = lambda: {"x-preflight": "1"}  # type: ignore[method-assign]
    site = Site(answer, access)
    await site.request("/nothing", "OPTIONS")
    assert (site.client.status, site.client.headers["x-preflight"]) == (204, "1")
    assert access.calls == ["end"]


@pytest.mark.parametrize(
    ("path", "method", "status", "name"),
    [("/nothing", "GET", 404, "other"), ("/work", "GET", 405, "/work"), ("/of/x", "DELETE", 405, "/work")],
)
async def test_a_request_without_a_route_gets_the_error_of_the_router(
    path: str, method: str, status: int, name: str
) -> None:
    site = Site(answer)
    await site.request(path, method)
    assert (site.client.status, site.error["type"]) == (status, "invalid_request_error")
    assert f"{method} {path}" in site.error["message"]
    assert site.client.headers.get("allow") == ("POST" if status == 405 else None)
    assert site.ended == [(name, status)]


async def ok_stream(writer: EventWriter) -> bytes:
    await writer.write(b"data: 1\n\n")
    return b"data: [DONE]\n\n"


async def failed_stream(_: EventWriter) -> bytes:
    raise InvalidRequest("no")


RESPONSES: dict[str, Callable[[], Handler]] = {
    "json": lambda: answer,
    "error": lambda: raising(InvalidRequest("no")),
    "unexpected": lambda: raising(ValueError()),
    "stream": lambda: _returning(lambda: EventStream(ok_stream)),
    "failed stream": lambda: _returning(lambda: EventStream(failed_stream)),
}


def _returning(response: Callable[[], Response]) -> Handler:
    async def handle(_: RequestContext) -> Response:
        return response()

    return handle


@pytest.mark.parametrize("name", RESPONSES)
async def test_every_response_has_the_same_headers(name: str) -> None:
    site = Site(RESPONSES[name]())
    site.access.headers = {"vary": "Origin"}
    site.services.draining = True
    await site.request(**{"x-request-id": "raw_headers"})
    headers = [header for header, _ in site.client.messages[0]["headers"]]
    assert len(set(headers)) == len(headers)
    assert (site.client.headers["x-request-id"], site.client.headers["vary"]) == ("raw_headers", "Origin")
    assert site.client.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidRequest("no"), 400),
        (APIError(429, "later", headers={"retry-after": "1"}), 429),
        (asyncio.CancelledError(), 503),
        (ClientGone(), 499),
        (ClientDisconnect(), 499),
    ],
)
async def test_an_error_becomes_a_response(error: BaseException, status: int) -> None:
    site = Site(raising(error))
    await site.request()
    assert site.client.status == status
    assert site.client.messages[-1]["type"] == "http.response.body"
    if status != 499:
        assert site.error["message"]
    assert site.client.headers.get("retry-after") == ("1" if status in (429, 503) else None)
    assert site.ended == [("/work", status)]


async def test_an_unexpected_error_is_logged_and_not_disclosed(caplog: pytest.LogCaptureFixture) -> None:
    site = Site(raising(ValueError("secret")))
    await site.request()
    assert (site.client.status, site.error["type"]) == (500, "server_error")
    assert b"secret" not in site.client.body
    [line] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert line.exc_info is not None
    assert "secret" in str(line.exc_info[1])


async def test_a_stream_that_fails_before_its_first_event_has_the_status_of_the_error() -> None:
    site = Site(_returning(lambda: EventStream(failed_stream)))
    await site.request()
    assert (site.client.status, site.error["message"]) == (400, "no")
    assert site.ended == [("/work", 400)]


async def test_a_stream_that_fails_midway_is_recorded_with_the_status_of_the_error() -> None:
    async def events(writer: EventWriter) -> bytes:
        await writer.write(b"data: 1\n\n")
        raise InvalidRequest("no")

    site = Site(_returning(lambda: EventStream(events)))
    await site.request()
    assert site.client.status == 200
    assert b'"message":"no"' in site.client.body
    assert site.ended == [("/work", 400)]


async def test_a_cancelled_request_still_answers() -> None:
    entered = asyncio.Event()

    async def handle(_: RequestContext) -> Response:
        entered.set()
        await asyncio.Event().wait()
        raise AssertionError

    site = Site(handle)
    task = asyncio.create_task(site.request())
    await entered.wait()
    task.cancel()
    await asyncio.wait([task])
    assert site.client.status == 503
    assert site.access.calls[-1] == "end"
    assert not site.dispatcher.running


@pytest.mark.parametrize("cancellations", [1, 2])
async def test_a_stream_that_is_cancelled_during_its_last_send_is_not_followed_by_another_response(
    cancellations: int,
) -> None:
    """The cancellation comes while the last events are sent, or again while its own error event is sent."""
    sending = asyncio.Queue[bytes]()

    async def events(writer: EventWriter) -> bytes:
        await writer.write(b"data: 1\n\n")
        if cancellations == 2:
            await asyncio.Event().wait()
        return b"data: [DONE]\n\n"

    async def send(message: Message) -> None:
        site.client.messages.append(message)
        if message["type"] == "http.response.body":
            sending.put_nowait(message["body"])
            if message.get("more_body") is False:
                await asyncio.Event().wait()

    site = Site(_returning(lambda: EventStream(events)))
    scope = {**FakeExchange().scope, "method": "POST", "path": "/work", "raw_path": b"/work", "headers": []}
    task = asyncio.create_task(site.dispatcher(scope, receive, send))
    for _ in range(cancellations):
        assert await sending.get()
        if cancellations == 1:
            assert await sending.get()
        task.cancel()
    await task
    assert site.client.status == 200  # fails if there are two responses
    assert site.ended == [("/work", 503)]


async def test_a_response_that_fails_midway_is_not_followed_by_another(caplog: pytest.LogCaptureFixture) -> None:
    async def parts() -> Any:
        yield b"x"
        raise ValueError("secret")

    site = Site(_returning(lambda: StreamingResponse(parts())))
    await site.request()
    assert (site.client.status, site.client.body) == (200, b"x")
    assert [record.levelno for record in caplog.records if record.exc_info] == [logging.ERROR]


@pytest.mark.parametrize(("path", "status"), [("/work", 200), ("/nothing", 404), ("/open", 200)])
async def test_the_administration_port_needs_no_keys_and_is_not_measured(path: str, status: int) -> None:
    site = Site(answer)
    scope = {"type": "http", "method": "POST", "path": path, "headers": []}
    await AdministrationPort([site.endpoint], site.services)(scope, receive, site.client.send)
    assert site.client.status == status
    assert "x-request-id" not in site.client.headers
    assert not site.access.calls
    assert not site.ended
