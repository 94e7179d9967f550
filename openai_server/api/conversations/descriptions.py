"""The descriptions of `/v1/conversations`."""

from typing import Any

from openai_server.api import endpoint
from openai_server.api.conversations.answer import Conversation, DeletedConversation
from openai_server.api.conversations.request import (
    CONVERSATION_UPDATE_FIELDS,
    NEW_CONVERSATION_FIELDS,
    NEW_CONVERSATION_ITEMS_FIELDS,
    ConversationUpdate,
    NewConversation,
    NewConversationItems,
)
from openai_server.api.endpoint import Description, Example, RequestType
from openai_server.api.examples import CREATED
from openai_server.api.responses.retrieval.answer import ItemList
from openai_server.api.responses.retrieval.descriptions import ITEM, ITEMS
from openai_server.api.responses.retrieval.parameters import CONVERSATION_ID, INCLUDE, ITEM_ID, PAGE

_TAG = "Conversations"
_METADATA = {"topic": "launch"}
_ID = CONVERSATION_ID.example
_CONVERSATION: dict[str, Any] = {
    "id": _ID,
    "object": "conversation",
    "created_at": CREATED,
    "metadata": _METADATA,
}
_QUESTION = {"role": "user", "content": "What is the capital of France?"}
_READS = endpoint.STORE
_WRITES = endpoint.STORE | endpoint.OF_BODY | {403}

CREATE_CONVERSATION = Description(
    tag=_TAG,
    summary="Create a conversation",
    requests=[RequestType("conversations", NewConversation, NEW_CONVERSATION_FIELDS)],
    examples={"question": Example("With a first message", {"items": [_QUESTION], "metadata": _METADATA})},
    answers=[Conversation],
    example=_CONVERSATION,
    errors=_WRITES,
)
GET_CONVERSATION = Description(
    tag=_TAG,
    summary="A conversation",
    parameters=[CONVERSATION_ID],
    answers=[Conversation],
    example=_CONVERSATION,
    errors=_READS,
)
UPDATE_CONVERSATION = Description(
    tag=_TAG,
    summary="Replace the metadata of a conversation",
    parameters=[CONVERSATION_ID],
    requests=[RequestType("conversations/{conversation_id}", ConversationUpdate, CONVERSATION_UPDATE_FIELDS)],
    examples={"metadata": Example("Metadata", {"metadata": _METADATA})},
    answers=[Conversation],
    example=_CONVERSATION,
    errors=_WRITES,
)
DELETE_CONVERSATION = Description(
    tag=_TAG,
    summary="Delete a conversation",
    parameters=[CONVERSATION_ID],
    answers=[DeletedConversation],
    example={"id": _ID, "object": "conversation.deleted", "deleted": True},
    errors=_READS,
)
ADD_ITEMS = Description(
    tag=_TAG,
    summary="Add items to a conversation",
    parameters=[CONVERSATION_ID, INCLUDE],
    requests=[
        RequestType("conversations/{conversation_id}/items", NewConversationItems, NEW_CONVERSATION_ITEMS_FIELDS)
    ],
    examples={"question": Example("A message", {"items": [_QUESTION]})},
    answers=[ItemList],
    example=ITEMS,
    errors=_WRITES,
)
LIST_ITEMS = Description(
    tag=_TAG,
    summary="The items of a conversation",
    parameters=[CONVERSATION_ID, INCLUDE, *PAGE],
    answers=[ItemList],
    example=ITEMS,
    errors=_READS,
)
GET_ITEM = Description(
    tag=_TAG,
    summary="An item of a conversation",
    parameters=[CONVERSATION_ID, ITEM_ID, INCLUDE],
    answers=[Any],
    example=ITEM,
    errors=_READS,
)
DELETE_ITEM = Description(
    tag=_TAG,
    summary="Remove an item from a conversation",
    parameters=[CONVERSATION_ID, ITEM_ID],
    answers=[Conversation],
    example=_CONVERSATION,
    errors=_READS,
)
