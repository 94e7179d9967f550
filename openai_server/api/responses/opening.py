"""Opens the sealed items of a request, which needs the server's keys and the model's name."""

from collections.abc import Sequence

from openai_server.api.responses.sealed import SealedItem
from openai_server.api.responses.settings import ResponsesRequest
from openai_server.api.services import Services
from openai_server.core.errors import BackendError, UnsupportedParameter, from_backend
from openai_server.core.request_context import RequestContext
from openai_server.core.sealing import NotOpened, Sealer
from openai_server.http.streaming import unless_gone


async def opened(services: Services, request: ResponsesRequest, context: RequestContext) -> ResponsesRequest:
    """The request with the texts of its sealed items. Raises APIError and ClientGone."""
    if request.compacts:
        raise UnsupportedParameter(
            "input", "'input' ends with a compaction_trigger, which this server doesn't support."
        )
    if not request.sealed_items:
        return request
    try:
        model = await unless_gone(context.scope, services.catalog.resolve(request.turn.model))
    except BackendError as error:
        raise from_backend(error, {}) from error
    work = services.threads.run(context.caller, _texts, services.sealer, request.sealed_items, model.name)
    return request.with_opened(await unless_gone(context.scope, work))


def _texts(sealer: Sealer, items: Sequence[SealedItem], model: str) -> list[str | None]:
    """The text of each item; None: it wasn't sealed for this model with one of the server's keys."""
    texts: list[str | None] = []
    for item in items:
        try:
            texts.append(sealer.open(item.text, item.kind, model))
        except NotOpened:
            texts.append(None)
    return texts
