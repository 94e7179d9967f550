"""The registry entries of `/v1/responses/{response_id}` and `/v1/responses/{response_id}/input_items`."""

from openai_server.api.deferred import description_in, handler_in
from openai_server.api.endpoint import Endpoint, with_v1
from openai_server.api.responses.errors import RESPONSES_API

_HANDLERS = "openai_server.api.responses.retrieval.handlers"
_DESCRIPTIONS = "openai_server.api.responses.retrieval.descriptions"

GET_RESPONSE = Endpoint(
    paths=with_v1("/responses/{response_id}"),
    method="GET",
    handler=handler_in(_HANDLERS, "get_response"),
    client_api=RESPONSES_API,
    description=description_in(_DESCRIPTIONS, "GET_RESPONSE"),
)
DELETE_RESPONSE = Endpoint(
    paths=with_v1("/responses/{response_id}"),
    method="DELETE",
    handler=handler_in(_HANDLERS, "delete_response"),
    client_api=RESPONSES_API,
    description=description_in(_DESCRIPTIONS, "DELETE_RESPONSE"),
)
RESPONSE_INPUT_ITEMS = Endpoint(
    paths=with_v1("/responses/{response_id}/input_items"),
    method="GET",
    handler=handler_in(_HANDLERS, "list_input_items"),
    client_api=RESPONSES_API,
    description=description_in(_DESCRIPTIONS, "RESPONSE_INPUT_ITEMS"),
)
