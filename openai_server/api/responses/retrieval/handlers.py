"""The handlers of `/v1/responses/{response_id}` and `/v1/responses/{response_id}/input_items`."""

from starlette.responses import Response

from openai_server.api.endpoint import Handler
from openai_server.api.query import query_of
from openai_server.api.responses.background.follow import follow
from openai_server.api.responses.retrieval.answer import DeletedResponse, item_list, response_object
from openai_server.api.responses.retrieval.query import include_of, page_of, starting_after, wants_stream
from openai_server.api.responses.stored_view import ENCRYPTED
from openai_server.api.services import Services
from openai_server.core.request_context import RequestContext
from openai_server.core.sealing import Seal
from openai_server.core.store_errors import NothingStored
from openai_server.http.json_response import JSONResponse
from openai_server.store.store import Store


def store_of(services: Services) -> Store:
    """Raises NothingStored if the server has no store."""
    if services.store is None:
        raise NothingStored
    return services.store


def get_response(services: Services) -> Handler:
    async def handle(context: RequestContext) -> Response:
        store, query = store_of(services), query_of(context)
        include, id = include_of(query), context.parameters["response_id"]
        context.access.count_request()
        if wants_stream(query):
            return await follow(services, context, id, starting_after(query))
        response = await store.response(context.access.owner, id)
        return JSONResponse(response_object(response, include, _seal(services, include, response.model)))

    return handle


def delete_response(services: Services) -> Handler:
    async def handle(context: RequestContext) -> Response:
        store, id = store_of(services), context.parameters["response_id"]
        context.access.count_request()
        await store.delete_response(context.access.owner, id)
        if services.background is not None:
            services.background.stop(id)
        return JSONResponse(DeletedResponse(id=id))

    return handle


def list_input_items(services: Services) -> Handler:
    async def handle(context: RequestContext) -> Response:
        store, query = store_of(services), query_of(context)
        include, page, id = include_of(query), page_of(query), context.parameters["response_id"]
        context.access.count_request()
        owner, seal = context.access.owner, None
        if ENCRYPTED in include:
            seal = _seal(services, include, (await store.response(owner, id)).model)
        return JSONResponse(item_list(await store.input_items(owner, id, page), include, seal))

    return handle


def _seal(services: Services, include: frozenset[str], model: str) -> Seal | None:
    return services.sealer.sealing("reasoning", model) if ENCRYPTED in include else None
