"""The ASGI application: the parts put together, every error in OpenAI's envelope, an id on every response."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from secrets import token_hex
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from openai_server.catalog import Catalog
from openai_server.chat.plan import Planner
from openai_server.chat.template import Templates
from openai_server.config import Config
from openai_server.errors import APIError, InternalError, ShuttingDown
from openai_server.generation import Generator
from openai_server.pool import Pool
from openai_server.routes import GENERATION, JSON, Endpoint, Routes
from openai_server.tasks import Tasks

log = logging.getLogger(__name__)

LAST_WORDS = 1.0
"""Seconds for requests that were cancelled to tell their clients."""


class App:
    """Serves `config` with `backend`, which it closes at the end."""

    def __init__(self, config: Config, backend: Pool) -> None:
        self._backend = backend
        self._running: set[asyncio.Task[object]] = set()
        self._catalog = Catalog(backend, served=config.served_model, aliases=config.model_alias)
        templates = Templates(
            clock=time.thread_time,
            now=datetime.now,
            seconds=config.template_timeout,
            characters=config.template_max_chars,
        )
        planner = Planner(templates, chat_template=config.chat_template, new_id=lambda: f"call_{token_hex(12)}")
        self.routes = Routes(
            backend,
            self._catalog,
            Generator(backend, self._catalog, planner, ping_interval=config.ping_interval),
            Tasks(backend, self._catalog, planner),
            clock=time.time,
            max_body_bytes=config.max_body_bytes,
        )
        self._starlette = Starlette(
            routes=self.routes.table(),
            exception_handlers={APIError: _api_error, HTTPException: _router_error, Exception: _unexpected_error},
            lifespan=self._lifespan,
        )
        self._starlette.router.redirect_slashes = False

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        watch = asyncio.create_task(self._backend.watch(self._catalog.forget))
        try:
            yield
        finally:
            if self._running:  # uvicorn has cancelled them, and does not wait until they have said so
                await asyncio.wait(self._running, timeout=LAST_WORDS)
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
            await self._backend.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._starlette(scope, receive, send)
            return
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            await self._answer(scope, receive, send)
        finally:
            self._running.discard(task)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        id = f"req_{token_hex(16)}"
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], (b"x-request-id", id.encode())]
                if self.routes.draining:
                    # The client's next request goes over another connection, and that to another server.
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            if scope["method"] == "POST" and (endpoint := GENERATION.get(scope["path"])):
                await self._generate(endpoint, id, scope, receive, send)
            else:
                await self._starlette(scope, receive, send_with_id)
        except asyncio.CancelledError:
            # The server has waited for this answer long enough.
            if not started:
                await _respond(ShuttingDown())(scope, receive, send_with_id)
        except Exception:
            log.exception("%s %s failed (%s)", scope["method"], scope["path"], id)
            if not started:  # Starlette has answered already, and raises for the log alone
                await _respond(InternalError())(scope, receive, send_with_id)

    async def _generate(self, endpoint: Endpoint, id: str, scope: Scope, receive: Receive, send: Send) -> None:
        """What the router would do, but each token reaches `send` itself. Raises only if nothing was sent."""
        try:
            response = await self.routes.generate(Request(scope, receive), endpoint)
            await self._with_id(response, id)(scope, receive, send)
        except APIError as error:
            await self._with_id(_told(error), id)(scope, receive, send)

    def _with_id(self, response: Response, id: str) -> Response:
        response.headers["x-request-id"] = id
        if self.routes.draining:
            response.headers["connection"] = "close"
        return response


def _respond(error: APIError) -> Response:
    return JSON(error.envelope(), status_code=error.status, headers=error.headers)


def _told(error: APIError) -> Response:
    log.debug("%d: %s", error.status, error.message, exc_info=error.__cause__)
    return _respond(error)


async def _api_error(_: Request, error: Any) -> Response:
    return _told(error)


async def _router_error(request: Request, error: Any) -> Response:
    """The router's own 404 and 405, whose headers (Allow) are kept."""
    message = f"{error.detail}: {request.method} {request.url.path}"
    return _respond(APIError(error.status_code, message, headers=dict(error.headers or {})))


async def _unexpected_error(_: Request, __: Exception) -> Response:
    return _respond(InternalError())
