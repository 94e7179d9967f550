"""Answers about stored responses, and lists of stored items. PURE."""

from collections.abc import Sequence, Set
from typing import Any, Literal

import msgspec
from msgspec import Struct

from openai_server.api.responses.answer import ResponseUsage
from openai_server.api.responses.stored_view import shown
from openai_server.core.sealing import Seal
from openai_server.core.usage import Usage
from openai_server.store.records import Page, StoredResponse


class ItemList(Struct, kw_only=True):
    object: Literal["list"] = "list"
    data: Sequence[Any]
    """Items of a conversation."""
    first_id: str
    """Empty if there are no items, as is `last_id`: the `openai` package's types require a text."""
    last_id: str
    has_more: bool


class DeletedResponse(Struct, kw_only=True):
    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


def item_list(page: Page, include: Set[str], seal: Seal | None) -> ItemList:
    items = page.items
    return ItemList(
        data=[shown(item.body, include, seal) for item in items],
        first_id=items[0].id if items else "",
        last_id=items[-1].id if items else "",
        has_more=page.has_more,
    )


def response_object(response: StoredResponse, include: Set[str], seal: Seal | None) -> dict[str, Any]:
    """The response object, with its status and its output as they are now."""
    output = [shown(item.body, include, seal) for item in response.output]
    return {**_object.decode(response.body), "status": response.status, "output": output}


def usage_of(response: StoredResponse) -> Usage | None:
    """The token counts; None if the backend didn't count."""
    usage = _usage.decode(response.body).usage
    if usage is None:
        return None
    details = usage.input_tokens_details, usage.output_tokens_details
    return Usage(usage.input_tokens, usage.output_tokens, details[0].cached_tokens, details[1].reasoning_tokens)


class _WithUsage(Struct):
    usage: ResponseUsage | None = None


_usage = msgspec.json.Decoder(_WithUsage)
_object: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])
