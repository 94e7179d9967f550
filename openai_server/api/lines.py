"""Answers the lines of batches: each is one request, which no connection has brought."""

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

from starlette.responses import Response

from openai_server.access.keys import Caller
from openai_server.api.dispatcher import error_response
from openai_server.api.endpoint import Endpoint, Handler
from openai_server.api.lone_request import Enter, lone_request, not_now, scope
from openai_server.api.lost_lines import LostLines
from openai_server.api.services import Services
from openai_server.core import tiers
from openai_server.core.errors import APIError, BackendError, UnsupportedParameter
from openai_server.core.request_context import RequestContext
from openai_server.core.usage import Usage
from openai_server.http.streaming import EventStream
from openai_server.store.batch_records import BatchUsage

log = logging.getLogger(__name__)

LINE_URLS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages")
"""The endpoints whose requests can be lines of a batch."""
METHOD = "BATCH"
"""Stands in log lines where a request has its method."""
NO_ROOM = frozenset({429, 503})
"""Statuses of an overload, of a server that shuts down, and of a backend or store that is away."""
BACKEND_AWAY = frozenset({"PERMISSION_DENIED", "UNAUTHENTICATED"})
"""Statuses of a backend that refuses all requests, and is reported as one that fails."""
DEFAULT_HEADERS = {"anthropic-version": "2023-06-01"}


class LineAnswer(NamedTuple):
    """The response to a line. `body` is its JSON."""

    status: int
    request_id: str
    body: bytes
    usage: BatchUsage


class Lines:
    """`enter` returns the access of a line of this caller: `Gate.enter_line`."""

    def __init__(self, services: Services, enter: Enter) -> None:
        self._services = services
        self._enter = enter
        self._endpoints = {endpoint.name: endpoint for endpoint in services.endpoints if endpoint.name in LINE_URLS}
        self._lost = LostLines()
        self._handlers: dict[str, Handler] = {}
        """By URL; created for the first line."""

    async def answer(
        self, url: str, body: bytes, caller: Caller, headers: Mapping[str, str] = {}, *, key: str = ""
    ) -> LineAnswer:
        """The response of the endpoint `url`, one of LINE_URLS, to this body, in the tier of batches, as if `caller`
        had sent it. Errors of the request, and of a model that fails on it, are responses with their status. A line
        that runs again with the same `key` has the same id, and stores nothing twice.

        Raises `jobs.runner.NotNow` if there is no room for it at the moment, or the backend or the store can't be
        reached: it may be tried again. A line during which the backend is lost again and again has failed.
        """
        async with self._lost.turn(key):
            return await self._answer(self._endpoints[url], body, caller, headers, key)

    async def _answer(
        self, endpoint: Endpoint, body: bytes, caller: Caller, headers: Mapping[str, str], key: str
    ) -> LineAnswer:
        url = endpoint.name
        request = scope(METHOD, url, _raw({**DEFAULT_HEADERS, **headers}), body)
        with lone_request(
            self._services.observer,
            self._enter,
            caller,
            request,
            endpoint=f"{url} (batch)",
            operation=endpoint.operation,
        ) as context:
            context.tier, context.answer_key = tiers.BATCH, key
            response = await self._response(endpoint, context, lambda: self._lost.may_be_tried_again(key))
            self._lost.forget(key)
            context.status = response.status_code
            return LineAnswer(response.status_code, context.id, bytes(response.body), _usage(context.usage))

    async def _response(
        self, endpoint: Endpoint, context: RequestContext, may_be_tried_again: Callable[[], bool]
    ) -> Response:
        """`may_be_tried_again` is called if the backend was lost meanwhile. Raises NotNow."""
        try:
            response = await self._handler(endpoint)(context)
            if isinstance(response, EventStream):  # it has not begun
                raise UnsupportedParameter("stream", "'stream' is not supported in the lines of a batch.")
            return response
        except Exception as error:
            if isinstance(error, APIError) and _is_for_later(error) and (not _is_loss(error) or may_be_tried_again()):
                raise not_now(error) from error
            return error_response(error, context, endpoint.client_api)

    def _handler(self, endpoint: Endpoint) -> Handler:
        handler = self._handlers.get(endpoint.name)
        if handler is None:
            handler = self._handlers[endpoint.name] = endpoint.handler(self._services)
        return handler


def _is_for_later(error: APIError) -> bool:
    cause = error.__cause__
    return error.status in NO_ROOM or (isinstance(cause, BackendError) and cause.status in BACKEND_AWAY)


def _is_loss(error: APIError) -> bool:
    return isinstance(error.__cause__, BackendError) and error.__cause__.is_loss


def _raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]


def _usage(counts: Usage | None) -> BatchUsage:
    """Zero where the backend doesn't count."""
    if counts is None:
        return BatchUsage()
    return BatchUsage(
        input=counts.prompt, cached=counts.cached or 0, output=counts.completion, reasoning=counts.marked or 0
    )
