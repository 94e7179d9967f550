"""The requests of `/v1/conversations`. PURE."""

from collections.abc import Mapping, Sequence
from secrets import token_hex
from typing import Annotated, Any, NamedTuple

from msgspec import Meta, Struct

from openai_server.access.caps import Caps
from openai_server.api.responses.input.body import Metadata, check_metadata
from openai_server.api.responses.input.conversation import ItemFields, conversation
from openai_server.api.responses.input.fields import INPUT
from openai_server.api.responses.input.items import (
    AdditionalToolsInput,
    CompactionTriggerInput,
    Item,
    ItemReferenceInput,
    ToolSearchOutputInput,
    add_types,
)
from openai_server.api.responses.input.limits import check_items
from openai_server.api.responses.input.stored import stored_items
from openai_server.api.responses.input.toolbox import ToolGroup, toolbox
from openai_server.api.schemas import Fields, convert, load, mapped
from openai_server.api.schemas.tables import Entries, missing
from openai_server.core.errors import InvalidRequest
from openai_server.store import records

MAX_ITEMS = 20
"""Items of one request."""
Items = Annotated[list[Item], Meta(max_length=MAX_ITEMS)]


class NewConversation(Struct, kw_only=True):
    items: Items | None = None
    metadata: Metadata | None = None


class ConversationUpdate(Struct, kw_only=True):
    metadata: Metadata | None
    """None removes all of it."""


class NewConversationItems(Struct, kw_only=True):
    items: Items


_METADATA = {"metadata": Entries()}
NEW_CONVERSATION_FIELDS = Fields(mapped(NewConversation), nested={"items": INPUT, **_METADATA})
CONVERSATION_UPDATE_FIELDS = Fields(mapped(ConversationUpdate), nested=_METADATA)
NEW_CONVERSATION_ITEMS_FIELDS = Fields(mapped(NewConversationItems), nested={"items": INPUT})


class Reference(NamedTuple):
    """A reference to a stored item. `field` is its path in the request."""

    id: str
    field: str


class Addition(Struct):
    """Items to add, in their stored form, and references to stored items."""

    items: Sequence[records.Item | Reference] = ()
    metadata: Mapping[str, str] = {}


def parse_new(body: bytes, caps: Caps) -> Addition:
    """Raises InvalidRequest."""
    payload = load(body)
    add_types(payload.get("items"))
    check_items("items", payload.get("items"), len(body), MAX_ITEMS)
    NEW_CONVERSATION_FIELDS.clean(payload)
    request = convert(payload, NewConversation)
    metadata = request.metadata or {}
    check_metadata(metadata)
    return Addition(_stored(body, request.items or ()), metadata)


def parse_update(body: bytes, caps: Caps) -> ConversationUpdate:
    """Raises InvalidRequest."""
    payload = load(body)
    if "metadata" not in payload:
        raise missing("metadata")
    CONVERSATION_UPDATE_FIELDS.clean(payload)
    request = convert({"metadata": None, **payload}, ConversationUpdate)
    check_metadata(request.metadata or {})
    return request


def parse_items(body: bytes, caps: Caps) -> Addition:
    """Raises InvalidRequest."""
    payload = load(body)
    add_types(payload.get("items"))
    check_items("items", payload.get("items"), len(body), MAX_ITEMS)
    NEW_CONVERSATION_ITEMS_FIELDS.clean(payload)
    return Addition(_stored(body, convert(payload, NewConversationItems).items))


def _stored(body: bytes, items: Sequence[Item]) -> list[records.Item | Reference]:
    """Raises InvalidRequest for items that no conversation can have."""
    for i, item in enumerate(items):
        if isinstance(item, CompactionTriggerInput):
            raise InvalidRequest(
                f"'items[{i}]' is a command for a response; a conversation can't have it.", param=f"items[{i}]"
            )
    groups = (
        ToolGroup(f"items[{i}].tools", item.tools or (), may_replace=True)
        for i, item in enumerate(items)
        if isinstance(item, AdditionalToolsInput | ToolSearchOutputInput)
    )
    conversation(None, items, toolbox(groups), ItemFields(own="items"))
    decoded: list[Any] = load(body).get("items") or []
    taken = {item.id for item in items if isinstance(item, ItemReferenceInput)}
    key, result, own = token_hex(16), list[records.Item | Reference](), list[Any]()
    for i, item in enumerate(items):
        if isinstance(item, ItemReferenceInput):
            result += stored_items(own, f"{key}{i:02x}", taken)
            result.append(Reference(item.id, f"items[{i}]"))
            own = []
        else:
            own.append(decoded[i])
    return [*result, *stored_items(own, key, taken)]
