"""The registry entries of `/v1/messages` and `/v1/messages/count_tokens`."""

from openai_server.api.deferred import description_in, handler_in
from openai_server.api.endpoint import Endpoint, by_model
from openai_server.api.messages.errors import ANTHROPIC

_HANDLERS = "openai_server.api.messages.handlers"
_DESCRIPTIONS = "openai_server.api.messages.descriptions"

MESSAGES = Endpoint(
    paths=("/v1/messages", "/messages", *by_model("messages")),
    method="POST",
    handler=handler_in(_HANDLERS, "messages"),
    client_api=ANTHROPIC,
    operation="chat",
    description=description_in(_DESCRIPTIONS, "MESSAGES"),
)
COUNT_TOKENS = Endpoint(
    paths=("/v1/messages/count_tokens", "/messages/count_tokens", *by_model("messages/count_tokens")),
    method="POST",
    handler=handler_in(_HANDLERS, "count_tokens"),
    client_api=ANTHROPIC,
    description=description_in(_DESCRIPTIONS, "COUNT_TOKENS"),
)
