"""Stores the response to one request: before its end is announced, and when its client leaves or it fails."""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, Protocol

from msgspec.structs import replace

from openai_server.api.responses.answer import ResponseItem, ResponseObject
from openai_server.api.responses.settings import ResponsesRequest, StoreUse
from openai_server.core.errors import APIError
from openai_server.core.store_errors import (
    ConversationNotFound,
    ResponseNotFound,
    StoreAway,
    StoreQuotaExceeded,
    Superseded,
)
from openai_server.http.json_response import encode
from openai_server.store.records import CONTINUED, Ending, Item, NewResponse
from openai_server.store.store import Store

RETRY_SECONDS = 1.0
"""Time between two attempts to store how a response ended."""
OPTIONAL_SECONDS = 2.0
"""Maximum time for which a response waits for a transaction of the store if it goes on without the store, too."""


class Keeping(Protocol):
    """The store's side of one response."""

    async def finish(self, response: ResponseObject) -> ResponseObject:
        """Stores the response at its end, and returns what to announce. Raises APIError if it must be stored."""

    async def settle(self, response: ResponseObject | None) -> None:
        """Stores how a response ended that `finish` hasn't stored. None: it was never announced, or was announced as
        not stored. Goes on until the store answers."""


class StoredResponse:
    """Stores a response. `new` is the response as it begins."""

    def __init__(self, store: Store, use: StoreUse, new: NewResponse) -> None:
        self._store = store
        self._use = use
        self._has_begun = False
        self._late: asyncio.Task[None] | None = None
        """A transaction that the response hasn't waited for to its end."""
        self._new = new

    async def begin(self) -> bool:
        """Adds the response before its id is sent. Whether it is stored. Raises APIError if it must be."""
        try:
            await self._in_time(self._store.begin(self._new))
        except (StoreAway, StoreQuotaExceeded):
            if not self._is_optional:
                raise
            return False
        self._has_begun = True
        return True

    async def finish(self, response: ResponseObject) -> ResponseObject:
        try:
            await self._in_time(self._store.finish(self._new, ending(response), has_begun=self._has_begun))
        except (StoreAway, StoreQuotaExceeded):
            if not self._is_optional:
                raise
        except Superseded:
            pass  # deleted while it was generated
        else:
            self._has_begun = False
            return response
        return replace(response, store=False)

    async def settle(self, response: ResponseObject | None) -> None:
        if self._late is not None:
            with suppress(APIError, Superseded):
                await self._late
                self._has_begun = True
        while self._has_begun:
            try:
                if response is None:
                    await self._store.delete_response(self._new.owner, self._new.id)
                else:
                    await self._store.finish(self._new, ending(response), has_begun=True)
            except StoreAway:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            except (ResponseNotFound, Superseded):
                pass
            self._has_begun = False

    async def _in_time(self, transaction: Coroutine[Any, Any, None]) -> None:
        """Raises StoreAway if the response can go on without the store, and that takes too long."""
        if not self._is_optional:
            await transaction
            return
        task = asyncio.create_task(transaction)
        try:
            await asyncio.wait((task,), timeout=OPTIONAL_SECONDS)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not task.done():
            self._late = task
            raise StoreAway
        await task

    @property
    def _is_optional(self) -> bool:
        """Whether the response goes on without the store if that fails."""
        return not (self._use.store or self._use.continues)


class AppendedItems:
    """Appends the items of a response with `store: false` to its conversation. `may_be_repeated`: whether an earlier
    run of the same line of a batch may have done so."""

    def __init__(
        self, store: Store, owner: str, conversation_id: str, input: Sequence[Item], *, may_be_repeated: bool
    ) -> None:
        self._store = store
        self._owner = owner
        self._conversation_id = conversation_id
        self._input = input
        self._may_be_repeated = may_be_repeated

    async def finish(self, response: ResponseObject) -> ResponseObject:
        if response.status in CONTINUED and not await self._is_appended(response):
            items = [*self._input, *items_of(response.output)]
            with suppress(ConversationNotFound):  # it was deleted meanwhile
                await self._store.append(self._owner, self._conversation_id, items)
        return response

    async def _is_appended(self, response: ResponseObject) -> bool:
        ids = [item.id for item in response.output]
        return self._may_be_repeated and bool(await self._store.items_by_id(self._owner, ids))

    async def settle(self, response: ResponseObject | None) -> None:
        """Nothing has been stored."""


def new_response(owner: str, request: ResponsesRequest, response: ResponseObject, input: Sequence[Item]) -> NewResponse:
    """The response to store. `response` is the object as it begins, `input` has the request's own items."""
    return NewResponse(
        id=response.id,
        owner=owner,
        created_at=response.created_at,
        model=response.model,
        body=encode(replace(response, output=())),
        base=request.use.base,
        conversation_end=request.history.conversation_end,
        input=input,
    )


def ending(response: ResponseObject) -> Ending:
    return Ending(status=response.status, body=encode(replace(response, output=())), output=items_of(response.output))


def items_of(output: Sequence[ResponseItem]) -> Sequence[Item]:
    return [Item(item.id, encode(item)) for item in output]
