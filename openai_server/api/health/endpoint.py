"""The entries of the probes in the registry, and their handlers."""

import logging

from starlette.responses import Response

from openai_server.api import endpoint
from openai_server.api.endpoint import Description, Endpoint, Handler
from openai_server.api.health.answer import Health
from openai_server.api.services import Services
from openai_server.core.errors import BackendError, ShuttingDown, Unavailable
from openai_server.core.request_context import RequestContext
from openai_server.http.json_response import JSONResponse

log = logging.getLogger(__name__)

_OK = Health("ok")


def live(_: Services) -> Handler:
    async def handle(_: RequestContext) -> Response:
        return JSONResponse(_OK)

    return handle


def ready(services: Services) -> Handler:
    async def handle(_: RequestContext) -> Response:
        """200 only if a request for the default model would be answered."""
        if services.draining:
            raise ShuttingDown
        try:
            await services.catalog.check_default()
        except BackendError as error:
            log.debug("not ready: %s: %s", error.status, error.message)
            raise Unavailable("The model backend can't answer at the moment.") from error
        return JSONResponse(_OK)

    return handle


LIVE = Endpoint(
    paths=("/livez",),
    method="GET",
    handler=live,
    is_open=True,
    is_logged=False,
    is_administration=True,
    description=Description(
        tag="Server",
        summary="Whether the server runs",
        answers=[Health],
        example={"status": "ok"},
        errors=endpoint.ALWAYS,
    ),
)
READY = Endpoint(
    paths=("/readyz",),
    method="GET",
    handler=ready,
    is_open=True,
    is_logged=False,
    is_administration=True,
    description=Description(
        tag="Server",
        summary="Whether a request for the default model would be answered",
        answers=[Health],
        example={"status": "ok"},
        errors=endpoint.ALWAYS | {503},
    ),
)
HEALTH = Endpoint(
    paths=("/health",),
    method="GET",
    handler=ready,
    is_open=True,
    is_logged=False,
    is_administration=True,
    description=Description(
        tag="Server",
        summary="The same as /readyz",
        answers=[Health],
        example={"status": "ok"},
        errors=endpoint.ALWAYS | {503},
    ),
)
