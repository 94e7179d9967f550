"""Opens what this server sealed in earlier responses, which needs the server's keys and the model's name."""

from collections.abc import Sequence

from openai_server.api.sealed_items import SealedItem
from openai_server.api.services import Services
from openai_server.core.errors import BackendError, from_backend
from openai_server.core.request_context import RequestContext
from openai_server.core.sealing import NotOpened, Sealer
from openai_server.http.streaming import unless_gone


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
