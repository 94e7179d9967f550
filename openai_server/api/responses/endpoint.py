"""The registry entries of `/v1/responses` and the paths below it."""

from openai_server.api.deferred import description_in, handler_in
from openai_server.api.endpoint import Endpoint, by_model, with_v1
from openai_server.api.responses.errors import RESPONSES_API

_HANDLERS = "openai_server.api.responses.handlers"
_BACKGROUND = "openai_server.api.responses.background.cancel"
_DESCRIPTIONS = "openai_server.api.responses.descriptions"

RESPONSES = Endpoint(
    paths=(*with_v1("/responses"), *by_model("responses")),
    method="POST",
    handler=handler_in(_HANDLERS, "responses"),
    client_api=RESPONSES_API,
    operation="chat",
    description=description_in(_DESCRIPTIONS, "RESPONSES"),
)
RESPONSES_COMPACT = Endpoint(
    paths=with_v1("/responses/compact"),
    method="POST",
    handler=handler_in(_HANDLERS, "compact"),
    client_api=RESPONSES_API,
    operation="chat",
    description=description_in(_DESCRIPTIONS, "RESPONSES_COMPACT"),
)
RESPONSES_INPUT_TOKENS = Endpoint(
    paths=with_v1("/responses/input_tokens"),
    method="POST",
    handler=handler_in(_HANDLERS, "input_tokens"),
    client_api=RESPONSES_API,
    description=description_in(_DESCRIPTIONS, "RESPONSES_INPUT_TOKENS"),
)
RESPONSES_CANCEL = Endpoint(
    paths=with_v1("/responses/{response_id}/cancel"),
    method="POST",
    handler=handler_in(_BACKGROUND, "cancel"),
    client_api=RESPONSES_API,
    description=description_in(_DESCRIPTIONS, "RESPONSES_CANCEL"),
)
