"""Completes parsed requests, which needs the store, the server's keys and the model's name."""

from openai_server.api.opening import texts_of
from openai_server.api.prompt_files.step import with_files
from openai_server.api.responses.output.summary import summarizing
from openai_server.api.responses.settings import ResponsesRequest
from openai_server.api.responses.storage.history import with_state
from openai_server.api.services import Services
from openai_server.core.request_context import RequestContext


async def completed(services: Services, request: ResponsesRequest, context: RequestContext) -> ResponsesRequest:
    """The request with its stored items, the texts of its files and those of its sealed items, and with the turn for a
    summary if it ends with a trigger of one.

    Raises APIError and ClientGone.
    """
    request = await with_state(services, request, context)
    messages = request.turn.messages
    request.turn = await with_files(services, request.turn, context)
    if request.compacts:
        request = summarizing(request, messages)
    if not request.sealed_items:
        return request
    return request.with_opened(await texts_of(request.sealed_items, request.turn.model, services, context))
