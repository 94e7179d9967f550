"""Completes parsed requests: opens their sealed items, which needs the server's keys and the model's name."""

from collections.abc import Sequence

from openai_server.api.responses.input.sealed import SealedItem
from openai_server.api.responses.output.summary import summarizing
from openai_server.api.responses.settings import ResponsesRequest
from openai_server.api.services import Services
from openai_server.core.errors import BackendError, from_backend
from openai_server.core.request_context import RequestContext
from openai_server.core.sealing import NotOpened, Sealer
from openai_server.http.streaming import unless_gone


async def completed(services: Services, request: ResponsesRequest, context: RequestContext) -> ResponsesRequest:
    """The request with the texts of its sealed items, and with the turn for a summary if it ends with a trigger of one.

    Raises APIError and ClientGone.
    """
    if not request.compacts:
        return await opened(services, request, context)
    summarized = summarizing(request)
    return await opened(services, summarized, context)


async def opened(services: Services, request: ResponsesRequest, context: RequestContext) -> ResponsesRequest:
    """The request with the texts of its sealed items. Raises APIError and ClientGone."""
    if not request.sealed_items:
        return request
    return request.with_opened(await texts_of(request.sealed_items, request.turn.model, services, context))


async def texts_of(
    items: Sequence[SealedItem], model: str | None, services: Services, context: RequestContext
) -> list[str | None]:
    """The text of each item; None: it wasn't sealed for this model with one of the server's keys. Raises APIError and
    ClientGone."""
    try:
        found = await unless_gone(context.scope, services.catalog.resolve(model))
    except BackendError as error:
        raise from_backend(error, {}) from error
    work = services.threads.run(context.caller, _texts, services.sealer, items, found.name)
    return await unless_gone(context.scope, work)


def _texts(sealer: Sealer, items: Sequence[SealedItem], model: str) -> list[str | None]:
    texts: list[str | None] = []
    for item in items:
        try:
            texts.append(sealer.open(item.text, item.kind, model))
        except NotOpened:
            texts.append(None)
    return texts
