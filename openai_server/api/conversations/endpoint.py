"""The registry entries of `/v1/conversations`."""

from functools import partial

from openai_server.api.deferred import endpoint_in
from openai_server.api.responses.errors import RESPONSES_API

_endpoint = partial(endpoint_in, "openai_server.api.conversations", client_api=RESPONSES_API)
_CONVERSATION = "/conversations/{conversation_id}"
_ITEM = f"{_CONVERSATION}/items/{{item_id}}"

CONVERSATIONS = (
    _endpoint("POST", "/conversations", "create_conversation"),
    _endpoint("GET", _CONVERSATION, "get_conversation"),
    _endpoint("POST", _CONVERSATION, "update_conversation"),
    _endpoint("DELETE", _CONVERSATION, "delete_conversation"),
    _endpoint("POST", f"{_CONVERSATION}/items", "add_items"),
    _endpoint("GET", f"{_CONVERSATION}/items", "list_items"),
    _endpoint("GET", _ITEM, "get_item"),
    _endpoint("DELETE", _ITEM, "delete_item"),
)
