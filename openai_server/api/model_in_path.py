"""The model in a request's path, or in the header of a gateway. PURE."""

from typing import Protocol

from anyserve_common.text import shortened
from openai_server.core.errors import InvalidRequest
from openai_server.core.request_context import RequestContext


class _WithModel(Protocol):
    model: str | None


def take_model_from_path(request: _WithModel, context: RequestContext) -> None:
    """Sets the request's model to the one in its path, if there is one. The model of a gateway replaces both.

    Raises InvalidRequest if path and body name different models.
    """
    if context.routing.model:
        request.model = context.routing.model
        return
    model = context.parameters.get("model")
    if not model:
        return
    if request.model and request.model != model:
        raise InvalidRequest(
            f"The path names the model '{shortened(model)}', but the body names another one.", param="model"
        )
    request.model = model
