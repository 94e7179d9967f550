"""The registry entries of `/openapi.json` and the reference page, and their handlers.

Both handlers import their content on the first request: it takes some memory, and few clients need it.
"""

from typing import Any

from starlette.responses import Response

from openai_server.api import endpoint
from openai_server.api.docs import paths
from openai_server.api.endpoint import Description, Endpoint, Handler
from openai_server.api.services import Services
from openai_server.core.request_context import RequestContext


def openapi(services: Services) -> Handler:
    async def handle(_: RequestContext) -> Response:
        from openai_server.api import openapi

        document = openapi.encoded(services.endpoints, keys=services.needs_keys())
        return Response(document, media_type="application/json")

    return handle


def page(_: Services) -> Handler:
    async def handle(context: RequestContext) -> Response:
        from openai_server.api.docs import files

        return await files.respond(context)

    return handle


OPENAPI = Endpoint(
    paths=("/openapi.json",),
    method="GET",
    handler=openapi,
    is_open=True,
    description=Description(
        tag="Server",
        summary="This document",
        answers=[dict[str, Any]],
        example={"openapi": "3.1.0", "info": {"title": "anyserve-openai", "version": "0.1.0"}, "paths": {}},
        errors=endpoint.ALWAYS,
    ),
)
PAGE = Endpoint(paths=tuple(paths.FILES), method="GET", handler=page, is_open=True, description=None)
