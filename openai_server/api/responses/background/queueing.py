"""Answers a request for a background response: queues it, and returns it as it is queued, or its stream."""

from msgspec import Raw

from openai_server.api.answers import AnswerIdentity
from openai_server.api.generation_handler import Generation
from openai_server.api.responses.background.follow import follow
from openai_server.api.responses.background.queued_request import QueuedRequest, encoded
from openai_server.api.responses.output.state import queued
from openai_server.api.responses.settings import ResponsesRequest
from openai_server.api.responses.storage.history import input_items
from openai_server.api.responses.storage.keeping import new_response
from openai_server.api.services import Services
from openai_server.core.errors import BackendError, from_backend
from openai_server.http.json_response import JSONResponse
from openai_server.http.streaming import EventStream, unless_gone


async def queue(services: Services, generation: Generation[ResponsesRequest]) -> JSONResponse | EventStream:
    """Raises APIError, and ClientGone before the response is queued."""
    store, background = services.store, services.background
    assert store is not None
    assert background is not None
    request, context = generation.request, generation.context
    try:
        model = await unless_gone(context.scope, services.catalog.resolve(request.turn.model))
    except BackendError as error:
        raise from_backend(error, {}) from error
    context.model = model.name
    response = queued(AnswerIdentity(generation.id, generation.created, model.name), request.settings)
    job = QueuedRequest(
        model=model.name, request_id=context.id, traceparent=context.traceparent, body=Raw(request.source)
    )
    items = await input_items(services, request, context)
    await store.queue(new_response(context.access.owner, request, response, items), encoded(job))
    background.runner.wake()
    if request.stream:
        return await follow(services, context, response.id)
    return JSONResponse(response)
