"""The handler of `POST /v1/responses/{response_id}/cancel`."""

from starlette.responses import Response

from openai_server.api.endpoint import Handler
from openai_server.api.responses.retrieval.answer import response_object
from openai_server.api.services import Services
from openai_server.core.request_context import RequestContext
from openai_server.core.store_errors import NothingStored
from openai_server.http.json_response import JSONResponse


def cancel(services: Services) -> Handler:
    async def handler(context: RequestContext) -> Response:
        store, background, id = services.store, services.background, context.parameters["response_id"]
        if store is None or background is None:
            raise NothingStored
        context.access.count_request()
        response = await store.cancel(context.access.owner, id)
        background.stop(id)
        return JSONResponse(response_object(response, frozenset(), None))

    return handler
