"""Completes parsed requests, which needs the server's keys and the model's name."""

from openai_server.api.opening import texts_of
from openai_server.api.responses.output.summary import summarizing
from openai_server.api.responses.settings import ResponsesRequest
from openai_server.api.services import Services
from openai_server.core.request_context import RequestContext


async def completed(services: Services, request: ResponsesRequest, context: RequestContext) -> ResponsesRequest:
    """The request with the texts of its sealed items, and with the turn for a summary if it ends with a trigger of one.

    Raises APIError and ClientGone.
    """
    if request.compacts:
        request = summarizing(request)
    if not request.sealed_items:
        return request
    return request.with_opened(await texts_of(request.sealed_items, request.turn.model, services, context))
