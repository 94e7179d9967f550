"""The descriptions of `/v1/responses/{response_id}` and `/v1/responses/{response_id}/input_items`."""

from openai_server.api import endpoint
from openai_server.api.endpoint import Description
from openai_server.api.responses.answer import ResponseObject
from openai_server.api.responses.descriptions import RESPONSES
from openai_server.api.responses.output.stream_events import EVENT_TYPES
from openai_server.api.responses.retrieval.answer import DeletedResponse, ItemList
from openai_server.api.responses.retrieval.parameters import INCLUDE, ITEM_ID, PAGE, RESPONSE_ID, STREAM

ITEM = {
    "type": "message",
    "id": ITEM_ID.example,
    "status": "completed",
    "role": "user",
    "content": [{"type": "input_text", "text": "What is the capital of France?"}],
}
"""A stored item."""
ITEMS = {"object": "list", "data": [ITEM], "first_id": ITEM["id"], "last_id": ITEM["id"], "has_more": False}

GET_RESPONSE = Description(
    tag="Stored responses",
    summary="A stored response, or the stream of a background response",
    parameters=[RESPONSE_ID, INCLUDE, *STREAM],
    answers=[ResponseObject],
    events=EVENT_TYPES,
    example={**RESPONSES.example, "store": True},
    errors=endpoint.STORE,
)
DELETE_RESPONSE = Description(
    tag="Stored responses",
    summary="Delete a stored response",
    parameters=[RESPONSE_ID],
    answers=[DeletedResponse],
    example={"id": RESPONSES.example["id"], "object": "response", "deleted": True},
    errors=endpoint.STORE,
)
RESPONSE_INPUT_ITEMS = Description(
    tag="Stored responses",
    summary="The items that a stored response was generated from",
    parameters=[RESPONSE_ID, INCLUDE, *PAGE],
    answers=[ItemList],
    example=ITEMS,
    errors=endpoint.STORE,
)
