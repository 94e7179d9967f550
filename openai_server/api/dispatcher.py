"""Dispatches every request: finds its endpoint, checks its API key, runs the handler and sends the response.

Only this module maps paths to handlers and errors to responses, and adds the headers that all responses have.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from anyserve_common.text import shortened
from openai_server.access.gate import Gate, RequestAccess
from openai_server.api.client_api import OPENAI, ClientApi
from openai_server.api.endpoint import Endpoint, Handler
from openai_server.api.messages.errors import ANTHROPIC
from openai_server.api.models.anthropic import VERSION_HEADER
from openai_server.api.services import Services
from openai_server.core.errors import MAX_PARAM, APIError, InternalError, ShuttingDown
from openai_server.core.request_context import RequestContext
from openai_server.core.routing import NO_ROUTING
from openai_server.http.json_response import JSONResponse
from openai_server.http.router import Match, Router
from openai_server.http.streaming import CLIENT_CLOSED_REQUEST, ClientGone, EventStream

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Route:
    """An endpoint with its handler for one server."""

    endpoint: Endpoint
    handler: Handler


def routed(endpoints: Iterable[Endpoint], services: Services) -> Router[Route]:
    """The router of these endpoints, with a handler for each."""
    routes = [Route(endpoint, endpoint.handler(services)) for endpoint in endpoints]
    return Router((route.endpoint.method, path, route) for route in routes for path in route.endpoint.paths)


class Dispatcher:
    """The ASGI application of the API's port. `open_paths` need no API key, whether they are served or not."""

    def __init__(self, services: Services, gate: Gate, open_paths: frozenset[str]) -> None:
        self._router = routed(services.endpoints, services)
        self._services = services
        self._observer = services.observer
        self._gate = gate
        self._open_paths = open_paths
        self.running: set[asyncio.Task[object]] = set()
        """Tasks of the requests in progress."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.running.add(task)
        match = self._router.find(scope["method"], scope["path"])
        if (route := match.route) is None:
            context = self._observer.begin(scope, receive)
        else:
            endpoint = route.endpoint
            context = self._observer.begin(
                scope,
                receive,
                endpoint=endpoint.name,
                operation=endpoint.operation,
                is_logged=endpoint.is_logged,
                parameters=match.parameters,
            )
        api = _client_api(route, scope)
        access = context.access = self._gate.enter(scope["method"], scope["headers"])
        try:
            response = await self._response(match, api, context, access)
            self._add_headers(response, api, context, access)
            try:
                await response(scope, receive, send)
            except (asyncio.CancelledError, Exception) as error:
                if isinstance(response, EventStream) and not response.is_started:
                    response = error_response(error, context, api)
                    self._add_headers(response, api, context, access)
                    await response(scope, receive, send)
                elif isinstance(error, Exception):
                    log.exception("%s %s: the response failed (%s)", context.method, context.path, context.id)
            context.status = response.status_code  # a stream changes it if it fails midway
        finally:
            access.end()
            self.running.discard(task)
            self._observer.end(context)

    async def _response(
        self, match: Match[Route], api: ClientApi, context: RequestContext, access: RequestAccess
    ) -> Response:
        """The response, also for an error: admission and authentication come before the path."""
        try:
            if (preflight := access.preflight()) is not None:
                return Response(status_code=204, headers=preflight)
            if context.scope["path"] not in self._open_paths:
                access.authenticate()
                context.caller = access.caller.label
                if context.routing is not NO_ROUTING and not context.caller:
                    context.caller = context.routing.fairness_id
                    access.share_as(context.caller)
            return await _handled(match, context)
        except (asyncio.CancelledError, Exception) as error:
            return error_response(error, context, api)

    def _add_headers(self, response: Response, api: ClientApi, context: RequestContext, access: RequestAccess) -> None:
        """Adds the headers that every response has."""
        headers = response.raw_headers
        for name in api.request_id_headers:
            headers.append((name, context.id.encode()))
        if access.headers:
            headers += [(name.encode(), value.encode("latin-1")) for name, value in access.headers.items()]
        if self._services.draining:
            # The client opens a new connection for its next request, and a load balancer picks another server for it.
            headers.append((b"connection", b"close"))


class AdministrationPort:
    """The ASGI application of `--admin-port`: no keys, limits or telemetry."""

    def __init__(self, endpoints: Iterable[Endpoint], services: Services) -> None:
        self._router = routed(endpoints, services)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match = self._router.find(scope["method"], scope["path"])
        context = RequestContext(
            method=scope["method"], path=scope["path"], scope=scope, receive=receive, parameters=match.parameters
        )
        try:
            response = await _handled(match, context)
        except (asyncio.CancelledError, Exception) as error:
            response = error_response(error, context, OPENAI)
        await response(scope, receive, send)


def _client_api(route: Route | None, scope: Scope) -> ClientApi:
    """The API whose conventions the response follows: for a path that is not served, the one that the client uses."""
    if route is not None and route.endpoint.client_api is not OPENAI:
        return route.endpoint.client_api
    if route is None and scope["path"].startswith(_MESSAGES):
        return ANTHROPIC
    for name, _ in scope["headers"]:
        if name == VERSION_HEADER:
            return ANTHROPIC
    return OPENAI


_MESSAGES = ("/v1/messages/", "/messages/")


async def _handled(match: Match[Route], context: RequestContext) -> Response:
    """Runs the handler. Raises what it raises, and APIError if the path or method is not served."""
    if match.route is not None and not match.allowed:
        return await match.route.handler(context)
    where = f"{shortened(context.method)} {shortened(context.scope['path'], MAX_PARAM)}"
    if match.route is None:
        raise APIError(404, f"Not Found: {where}")
    raise APIError(405, f"Method Not Allowed: {where}", headers={"allow": ", ".join(match.allowed)})


def error_response(error: BaseException, context: RequestContext, api: ClientApi) -> Response:
    """The response for an exception that a handler raised, in the form of this API."""
    if isinstance(error, ClientGone | ClientDisconnect):
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    if isinstance(error, asyncio.CancelledError):  # the server shuts down, and --drain-timeout is over
        error = ShuttingDown()
    elif isinstance(error, APIError):
        cause = f" ({error.__cause__!r})" if error.__cause__ else ""
        log.debug("%d: %s%s", error.status, error.message, cause)
    else:
        log.error("%s %s failed (%s)", context.method, context.path, context.id, exc_info=error)
        error = InternalError()
    answer = api.error(error, context.id)
    return JSONResponse(answer.content, answer.status, answer.headers)
