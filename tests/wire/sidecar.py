"""The real ASGI application with a fake worker, called in process."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from openai_server.app import App
from openai_server.backends.pool import Pool
from openai_server.config import Config
from openai_server.core.model_files import EVERY_MODEL, TemplateFile
from openai_server.serving import backends
from openai_server.telemetry.observer import Observer
from tests.openai_server.exchange import FakeExchange
from tests.wire.fake_worker import FakeWorker, serving

Application = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]


@dataclass
class Reply:
    """The response; while a stream is open, its part so far."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    complete: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """Returns the content of the error envelope, which must have all of its fields."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        return dict(error)

    @property
    def anthropic_error(self) -> dict[str, Any]:
        """Returns the content of an error in the form of Anthropic's API."""
        body = self.json
        assert body.keys() == {"type", "error", "request_id"}
        assert body["type"] == "error"
        assert body["request_id"] == self.headers["request-id"] == self.headers["x-request-id"]
        assert body["error"].keys() - {"details"} == {"type", "message"}
        assert body["error"]["message"]
        return dict(body["error"])

    @property
    def anthropic_events(self) -> list[Any]:
        """Returns the JSON of each event; checks that each has its type as its name."""
        assert self.status == 200, self.body
        blocks = self.body.decode().split("\n\n")
        assert blocks.pop() == ""
        events = []
        for block in blocks:
            name, data = block.split("\n")
            events.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {events[-1]['type']}"
        return events

    def names_field(self, param: str) -> bool:
        """Returns whether the error names this field, in the form of either API."""
        error = self.json["error"]
        return bool(error["param"] == param if "param" in error else f"'{param}'" in error["message"])

    @property
    def events(self) -> list[Any]:
        """Returns the JSON of each event; checks that the stream is well-formed and ends with [DONE]. An event with a
        name has it as its `type` too."""
        assert self.status == 200, self.body
        blocks = self.body.decode().split("\n\n")
        assert blocks.pop() == ""
        events = [block for block in blocks if not block.startswith(":")]
        assert events.pop() == "data: [DONE]"
        payloads = []
        for event in events:
            *name, data = event.split("\n")
            payload = json.loads(data.removeprefix("data: "))
            assert name == ([f"event: {payload['type']}"] if "type" in payload else [])
            payloads.append(payload)
        return payloads

    @property
    def pings(self) -> int:
        return self.body.count(b": ping\n\n")


class Call:
    """An HTTP request that is running."""

    def __init__(
        self,
        app: Application,
        method: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
    ) -> None:
        self.reply = Reply()
        self._gone = asyncio.Event()
        self._parts = [body]
        self._grew = asyncio.Condition()
        self._exchange = FakeExchange(is_free=False)
        path, _, query = path.partition("?")
        scope = {
            **self._exchange.scope,
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        if self._parts:
            return {"type": "http.request", "body": self._parts.pop(), "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        async with self._grew:
            if message["type"] == "http.response.start":
                assert not self.reply.status, "two responses"
                self.reply.status = message["status"]
                self.reply.headers = {name.decode(): value.decode() for name, value in message["headers"]}
                assert len(self.reply.headers) == len(message["headers"]), "a header twice"
            else:
                self.reply.body += message.get("body", b"")
                self.reply.complete = not message.get("more_body", False)
            self._grew.notify_all()

    async def until(self, text: bytes) -> None:
        """Waits until the body contains `text`."""
        async with self._grew:
            await self._grew.wait_for(lambda: text in self.reply.body)

    def disconnect(self) -> None:
        self._gone.set()
        self._exchange.leave()


class Sidecar:
    def __init__(self, app: App, worker_port: int) -> None:
        self.app = app
        self.worker_port = worker_port

    def start(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Call:
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return Call(self.app, method, path, content, headers or {})

    async def send(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        call = self.start(method, path, body, headers)
        await asyncio.wait_for(call.task, 30)
        assert call.reply.complete
        sent_id = dict(headers or {}).get("x-request-id")
        id = call.reply.headers["x-request-id"]
        assert id.startswith("req_") or id == sent_id
        return call.reply

    async def get(self, path: str) -> Reply:
        return await self.send("GET", path)

    async def complete(self, **body: object) -> Reply:
        return await self.send("POST", "/v1/completions", body)

    async def chat(self, *messages: dict[str, Any], **body: object) -> Reply:
        chat = list(messages) or [{"role": "user", "content": "hi"}]
        return await self.send("POST", "/v1/chat/completions", {"messages": chat, **body})


def for_all(source: str) -> dict[str, TemplateFile]:
    """Returns the value of `chat_template` with this source for all models."""
    return {EVERY_MODEL: TemplateFile("template.jinja", source)}


@asynccontextmanager
async def app_for(
    port: int, *, observer: Observer | None = None, pool: Pool | None = None, **config: Any
) -> AsyncIterator[Sidecar]:
    """Yields an application with the backend at `port`, or with the backends in `pool`, from startup to shutdown."""
    settings = Config(**{"anyserve_endpoint": (f"127.0.0.1:{port}",), **config})
    app = App(settings, pool or backends(settings), observer)
    await app.open_store()
    to_app: asyncio.Queue[Message] = asyncio.Queue()
    from_app: asyncio.Queue[Message] = asyncio.Queue()
    lifespan = asyncio.create_task(app({"type": "lifespan", "state": {}}, to_app.get, from_app.put))
    await to_app.put({"type": "lifespan.startup"})
    assert (await from_app.get())["type"] == "lifespan.startup.complete"
    try:
        yield Sidecar(app, port)
    finally:
        await to_app.put({"type": "lifespan.shutdown"})
        with suppress(asyncio.CancelledError):
            await lifespan


@asynccontextmanager
async def running(worker: FakeWorker, *, observer: Observer | None = None, **config: Any) -> AsyncIterator[Sidecar]:
    async with serving(worker) as port, app_for(port, observer=observer, **config) as sidecar:
        yield sidecar
