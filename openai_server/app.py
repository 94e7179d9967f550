"""The ASGI application: the parts put together, every error in OpenAI's envelope, an id on every response."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from secrets import token_hex
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Message, Receive, Scope, Send

from anyserve_common import tracing
from anyserve_common.text import shortened
from openai_server.access.admission import Admission
from openai_server.access.caps import Caps
from openai_server.access.cors import Cors
from openai_server.access.gate import Gate, Visit
from openai_server.access.key_ring import KeyRing
from openai_server.access.rates import Rates
from openai_server.access.turns import FairThreads
from openai_server.api.bodies.reader import Bodies
from openai_server.api.docs import paths as docs
from openai_server.api.generation import Generator
from openai_server.api.routes import GENERATION, JSON, Endpoint, Routes
from openai_server.api.tasks import Tasks
from openai_server.backends.catalog import Catalog
from openai_server.backends.pool import Pool
from openai_server.config import Config
from openai_server.core.errors import MAX_PARAM, APIError, InternalError, ShuttingDown
from openai_server.http.admin import metrics_route
from openai_server.prompting.plan import Planner
from openai_server.prompting.planner import ChatPlanner
from openai_server.prompting.template import Templates
from openai_server.telemetry.endpoints import Endpoints
from openai_server.telemetry.observer import Observer
from openai_server.telemetry.record import Record

log = logging.getLogger(__name__)

PLANNING_THREADS = 2
"""Render chat templates. More would only take the interpreter from the event loop more often."""
MAX_PLANNED = 4096
"""Chats that wait for one of these threads."""
LAST_WORDS = 1.0
"""Seconds for requests that were cancelled to tell their clients."""


class App:
    """Serves `config` with `backend`, which it closes at the end. `watches` run as long as it does."""

    def __init__(
        self,
        config: Config,
        backend: Pool,
        observer: Observer | None = None,
        watches: Sequence[Callable[[], Awaitable[None]]] = (),
    ) -> None:
        self._backend = backend
        self._running: set[asyncio.Task[object]] = set()
        self._catalog = Catalog(backend, served=config.served_model, aliases=config.model_alias)
        self.observer = observer or Observer.of(log_access=config.access_log, tracing=tracing.wanted(config.tracing))
        self.gate = Gate(
            KeyRing(config.api_key, config.api_key_file),
            Admission(config.max_concurrency, config.max_queue),
            Rates(requests_per_minute=config.requests_per_minute, tokens_per_minute=config.tokens_per_minute),
            Cors(config.cors_origin),
            clock=time.monotonic,
            queue_timeout=config.queue_timeout,
            most_held=config.max_inflight_body_bytes,
            meter=self.observer.metrics,
        )
        caps = Caps(
            output_tokens=config.max_output_tokens,
            n=config.max_n,
            prompt=config.max_prompt_chars,
            schema=config.max_schema_bytes,
        )
        templates = Templates(
            clock=time.thread_time,
            now=datetime.now,
            seconds=config.template_timeout,
            characters=config.template_max_chars,
            compile=None,  # ChatPlanner does, in a process of its own
        )
        threads = FairThreads(
            PLANNING_THREADS, name="planning", waiting=MAX_PLANNED, queue_timeout=config.queue_timeout
        )
        planner = ChatPlanner(
            templates,
            Planner(
                templates,
                chat_template=config.chat_template,
                new_id=lambda: f"call_{token_hex(12)}",
                refuses_markup=config.forged_markup == "refuse",
            ),
            threads,
        )
        self._bodies = Bodies(caps, max_bytes=config.max_body_bytes, max_values=config.max_json_values)
        self.routes = Routes(
            self._catalog,
            Generator(backend, self._catalog, planner, caps, ping_interval=config.ping_interval),
            Tasks(backend, self._catalog, planner, threads),
            clock=time.time,
            bodies=self._bodies,
            max_body_bytes=config.max_body_bytes,
            max_json_values=config.max_json_values,
        )
        self._watches = [backend.watch, self._catalog.watch, self.gate.key_ring.watch, *watches]
        administration = [*self.routes.health_table(), metrics_route(self.observer)]
        self._has_administration = config.admin_port is None
        self.admin = _starlette(administration)
        """What is served on --admin-port."""
        page = [Route(path, self._docs, name=docs.PAGE, include_in_schema=False) for path in docs.FILES]
        table = [
            *self.routes.table(),
            Route("/openapi.json", self._openapi, name="/openapi.json"),
            *(page if config.docs else ()),
            *(administration if self._has_administration else ()),
        ]
        self._endpoints = Endpoints(table)
        self._starlette = _starlette(table, self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        watches = [asyncio.ensure_future(watch()) for watch in self._watches]
        try:
            yield
        finally:
            if self._running:  # uvicorn has cancelled them, and does not wait until they have said so
                await asyncio.wait(self._running, timeout=LAST_WORDS)
            for watch in watches:
                watch.cancel()
            for ended in await asyncio.gather(*watches, return_exceptions=True):
                if isinstance(ended, Exception):
                    log.error("a watch failed", exc_info=ended)
            await self._bodies.close()
            await self._backend.close()
            await asyncio.to_thread(self.observer.close)

    async def _openapi(self, _: Request) -> Response:
        from openai_server.api import openapi  # not before: few ask, and it takes some memory

        keys, administration = bool(self.gate.key_ring.keys), self._has_administration
        return Response(openapi.encoded(keys=keys, administration=administration), media_type="application/json")

    async def _docs(self, request: Request) -> Response:
        from openai_server.api.docs import files  # not before: few open the page

        return await files.respond(request)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._starlette(scope, receive, send)
            return
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        record = self.observer.begin(scope, self._endpoints.name(scope["method"], scope["path"]))
        try:
            await self._answer(record, scope, receive, send)
        finally:
            self._running.discard(task)
            self.observer.end(record)

    async def _answer(self, record: Record, scope: Scope, receive: Receive, send: Send) -> None:
        started = False
        visit = self.gate.visit(scope)

        async def send_with_ours(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started, record.status = True, message["status"]
                message["headers"] = [*message["headers"], *self._own_headers(record, visit)]
            await send(message)

        try:
            if (preflight := visit.preflight()) is not None:
                await Response(status_code=204, headers=preflight)(scope, receive, send_with_ours)
                return
            visit.authenticate()
            record.caller = visit.caller.label
            if scope["method"] == "POST" and (endpoint := GENERATION.get(scope["path"])):
                await self._generate(endpoint, record, visit, scope, receive, send)
            else:
                await self._starlette(scope, receive, send_with_ours)
        except APIError as error:  # of the gate: the others have been answered
            await _told(error)(scope, receive, send_with_ours)
        except asyncio.CancelledError:
            # The server has waited for this answer long enough.
            if not started:
                await _respond(ShuttingDown())(scope, receive, send_with_ours)
        except Exception:
            log.exception("%s %s failed (%s)", record.method, record.path, record.id)
            if not started:  # Starlette has answered already, and raises for the log alone
                await _respond(InternalError())(scope, receive, send_with_ours)
        finally:
            visit.end()

    async def _generate(
        self, endpoint: Endpoint, record: Record, visit: Visit, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """What the router would do, but each token reaches `send` itself. Raises only if nothing was sent."""
        try:
            response = await self.routes.generate(Request(scope, receive), endpoint)
            await self._with_ours(response, record, visit)(scope, receive, send)
        except APIError as error:
            await self._with_ours(_told(error), record, visit)(scope, receive, send)

    def _with_ours(self, response: Response, record: Record, visit: Visit) -> Response:
        record.status = response.status_code
        response.raw_headers += self._own_headers(record, visit)
        return response

    def _own_headers(self, record: Record, visit: Visit) -> list[tuple[bytes, bytes]]:
        """What every answer has, however it is sent."""
        headers = [(b"x-request-id", record.id.encode())]
        if visit.headers:
            headers += [(name.encode(), value.encode("latin-1")) for name, value in visit.headers.items()]
        if self.routes.draining:
            # The client's next request goes over another connection, and that to another server.
            headers.append((b"connection", b"close"))
        return headers


def _starlette(routes: Sequence[BaseRoute], lifespan: Any = None) -> Starlette:
    app = Starlette(
        routes=routes,
        exception_handlers={APIError: _api_error, HTTPException: _router_error, Exception: _unexpected_error},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


def _respond(error: APIError) -> Response:
    return JSON(error.envelope(), status_code=error.status, headers=error.headers)


def _told(error: APIError) -> Response:
    log.debug("%d: %s%s", error.status, error.message, f" ({error.__cause__!r})" if error.__cause__ else "")
    return _respond(error)


async def _api_error(_: Request, error: Any) -> Response:
    return _told(error)


async def _router_error(request: Request, error: Any) -> Response:
    """The router's own 404 and 405, whose headers (Allow) are kept."""
    message = f"{error.detail}: {shortened(request.method)} {shortened(request.scope['path'], MAX_PARAM)}"
    return _respond(APIError(error.status_code, message, headers=dict(error.headers or {})))


async def _unexpected_error(_: Request, __: Exception) -> Response:
    return _respond(InternalError())
