"""The handlers of `/v1/conversations`."""

from collections.abc import Awaitable, Callable, Mapping
from os import urandom
from typing import NamedTuple

import orjson
from starlette.responses import Response

from openai_server.api.conversations.answer import Conversation, DeletedConversation, conversation
from openai_server.api.conversations.request import Addition, Reference, parse_items, parse_new, parse_update
from openai_server.api.endpoint import Handler
from openai_server.api.query import query_of
from openai_server.api.responses.retrieval.answer import item_list
from openai_server.api.responses.retrieval.handlers import store_of
from openai_server.api.responses.retrieval.query import include_of, page_of
from openai_server.api.responses.stored_view import shown
from openai_server.api.services import Services
from openai_server.core.request_context import RequestContext
from openai_server.core.store_errors import ItemExists, ItemNotFound
from openai_server.http.json_response import JSONResponse
from openai_server.store.records import Item, Page
from openai_server.store.store import Store


class _Call(NamedTuple):
    """A request for stored objects."""

    services: Services
    store: Store
    context: RequestContext
    query: Mapping[str, str]

    @property
    def owner(self) -> str:
        return self.context.access.owner

    @property
    def id(self) -> str:
        """The conversation's id."""
        return self.context.parameters["conversation_id"]

    @property
    def item_id(self) -> str:
        return self.context.parameters["item_id"]


def _handler(answer: Callable[[_Call], Awaitable[object]]) -> Callable[[Services], Handler]:
    def create(services: Services) -> Handler:
        async def handle(context: RequestContext) -> Response:
            call = _Call(services, store_of(services), context, query_of(context))
            context.access.count_request()
            return JSONResponse(await answer(call))

        return handle

    return create


async def _create(call: _Call) -> Conversation:
    addition, _ = await call.services.bodies.read(parse_new, call.context)
    items = await _resolved(call, addition)
    id, created_at = f"conv_{urandom(16).hex()}", call.services.clock()
    await call.store.create_conversation(call.owner, id, created_at, orjson.dumps(addition.metadata), items)
    return Conversation(id=id, created_at=int(created_at), metadata=addition.metadata)


async def _get(call: _Call) -> Conversation:
    return conversation(await call.store.conversation(call.owner, call.id))


async def _update(call: _Call) -> Conversation:
    update, _ = await call.services.bodies.read(parse_update, call.context)
    return conversation(await call.store.set_metadata(call.owner, call.id, orjson.dumps(update.metadata or {})))


async def _delete(call: _Call) -> DeletedConversation:
    await call.store.delete_conversation(call.owner, call.id)
    return DeletedConversation(id=call.id)


async def _add_items(call: _Call) -> object:
    include = include_of(call.query)
    addition, _ = await call.services.bodies.read(parse_items, call.context)
    items = await _resolved(call, addition)
    try:
        await call.store.add_items(call.owner, call.id, items)
    except ItemExists as error:
        error.param = "items"
        raise
    return item_list(Page(items, has_more=False), include, None)


async def _list_items(call: _Call) -> object:
    include, page = include_of(call.query), page_of(call.query)
    return item_list(await call.store.items(call.owner, call.id, page), include, None)


async def _get_item(call: _Call) -> object:
    include = include_of(call.query)
    item = await call.store.item(call.owner, call.id, call.item_id)
    return shown(item.body, include, None)


async def _delete_item(call: _Call) -> Conversation:
    return conversation(await call.store.delete_item(call.owner, call.id, call.item_id))


async def _resolved(call: _Call, addition: Addition) -> list[Item]:
    """The items, with stored ones in place of references. Raises ItemNotFound, and ItemExists for a repeated one."""
    references = [item for item in addition.items if isinstance(item, Reference)]
    if not references:
        return [item for item in addition.items if isinstance(item, Item)]
    found = await call.store.items_by_id(call.owner, [reference.id for reference in references])
    items: dict[str, Item] = {}
    for entry in addition.items:
        if isinstance(entry, Item):
            items[entry.id] = entry
        elif entry.id not in found:
            raise ItemNotFound(entry.id, entry.field)
        elif entry.id in items:
            raise ItemExists(entry.id, entry.field)
        else:
            items[entry.id] = Item(entry.id, found[entry.id])
    return list(items.values())


create_conversation = _handler(_create)
get_conversation = _handler(_get)
update_conversation = _handler(_update)
delete_conversation = _handler(_delete)
add_items = _handler(_add_items)
list_items = _handler(_list_items)
get_item = _handler(_get_item)
delete_item = _handler(_delete_item)
