"""The body of a request to an upstream with OpenAI's API. PURE."""

from typing import Any

from anyserve_worker.pipelines.core.errors import InvalidInput
from anyserve_worker.pipelines.core.request import ChatRequest

_WITHOUT_EVENT = {
    "logprobs": "Log probabilities can't be returned for this model.",
    "top_logprobs": "Log probabilities can't be returned for this model.",
    "audio": "Audio can't be returned for this model.",
}
"""Fields whose answer no event can carry."""


def upstream_body(request: ChatRequest, model: str, *, with_usage: bool) -> dict[str, Any]:
    """`with_usage`: whether to request the counts of a stream. Raises InvalidInput."""
    body = {name: value for name, value in request.body.items() if value is not None}
    for field, problem in _WITHOUT_EVENT.items():
        if body.get(field):
            raise InvalidInput(problem, field=field)
        body.pop(field, None)
    if "audio" in body.get("modalities", ()):
        raise InvalidInput(_WITHOUT_EVENT["audio"], field="modalities")
    options = body.pop("stream_options", None) or {}
    body |= {"model": model, "messages": request.messages, "stream": request.streams}
    if request.streams and with_usage:
        body["stream_options"] = {**options, "include_usage": True}
    return body
