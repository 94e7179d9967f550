"""The registry entries of the probes, and their handlers."""

import logging
from collections.abc import Callable

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
        if (store := services.store) is None:
            return JSONResponse(_OK)
        return JSONResponse(Health("ok", "unavailable" if store.is_away else "ok"))

    return handle


def _probe(path: str, handler: Callable[[Services], Handler], summary: str, errors: frozenset[int]) -> Endpoint:
    return Endpoint(
        paths=(path,),
        method="GET",
        handler=handler,
        is_open=True,
        is_logged=False,
        is_administration=True,
        description=Description(
            tag="Server", summary=summary, answers=[Health], example={"status": "ok"}, errors=errors
        ),
    )


_READY_ERRORS = endpoint.ALWAYS | {503}
LIVE = _probe("/livez", live, "Whether the server runs", endpoint.ALWAYS)
READY = _probe("/readyz", ready, "Whether a request for the default model would be answered", _READY_ERRORS)
HEALTH = _probe("/health", ready, "The same as /readyz", _READY_ERRORS)
