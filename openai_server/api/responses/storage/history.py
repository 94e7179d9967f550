"""Adds what a request takes from the store: the items that it continues or refers to."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from secrets import token_hex
from typing import ParamSpec, TypeVar

from msgspec.structs import replace

from openai_server.api.responses.input.body import MAX_INPUT_ITEMS
from openai_server.api.responses.input.stored import stored_items
from openai_server.api.responses.request import own_items, with_history
from openai_server.api.responses.settings import ResponsesRequest, StoreUse
from openai_server.api.services import Services
from openai_server.core.errors import UnsupportedParameter
from openai_server.core.request_context import RequestContext
from openai_server.core.store_errors import HistoryTooLarge, ItemNotFound, StoreAway
from openai_server.http.streaming import unless_gone
from openai_server.store.records import NO_HISTORY, NOTHING, Item
from openai_server.store.store import Store

P = ParamSpec("P")
T = TypeVar("T")

INLINE_BYTES = 32 << 10
"""Bytes of a request with its history up to which it is parsed on the event loop, in about a millisecond."""


async def with_state(services: Services, request: ResponsesRequest, context: RequestContext) -> ResponsesRequest:
    """The request with its history and the items that it refers to, and with `settings.store` as far as it is known
    before the answer.

    Raises UnsupportedParameter if the server has no store for it, StoreAway, StoreQuotaExceeded, NotFound errors of the
    store and ClientGone.
    """
    store, use = services.store, request.use
    if store is None:
        _refuse(use)
        return request
    if use.background and use.store is False:
        raise UnsupportedParameter("background", "'background' needs a stored response, but 'store' is false.")
    if store.is_away and (use.store or use.background or use.continues):
        raise StoreAway
    if use.continues:
        request = await unless_gone(context.scope, _continued(services, store, request, context))
    if use.store or (use.continues and use.store is not False) or use.base.conversation_id is not None:
        await store.check_quota(context.access.owner)  # before the generation, since such a request fails without it
    stores = use.store is not False and not store.is_away
    return replace(request, settings=replace(request.settings, store=stores)) if stores else request


async def _continued(
    services: Services, store: Store, request: ResponsesRequest, context: RequestContext
) -> ResponsesRequest:
    use, owner, max_bytes = request.use, context.access.owner, services.bodies.max_bytes
    history = NO_HISTORY
    if use.base != NOTHING:
        history = await store.history(
            owner, use.base, max_bytes=max_bytes, max_items=MAX_INPUT_ITEMS, may_be_deleted=use.is_queued
        )
    earlier = {item.id for item in history.items}
    others = {id: path for id, path in use.references.items() if id not in earlier}
    referenced = await _referenced(store, owner, others, max_bytes)
    n_bytes = _size(item.body for item in history.items) + _size(referenced.values())
    context.access.hold(n_bytes)
    bodies = [item.body for item in history.items]
    continued = await _beside_the_loop(
        services, context, n_bytes + len(request.source), with_history, request, bodies, referenced, services.caps
    )
    continued.history, continued.referenced = history, referenced
    return continued


async def input_items(services: Services, request: ResponsesRequest, context: RequestContext) -> Sequence[Item]:
    """The request's own items as they are stored. Raises what FairThreads raises."""
    n_bytes = len(request.source) + _size(request.referenced.values())
    return await _beside_the_loop(services, context, n_bytes, _input_items, request)


def _input_items(request: ResponsesRequest) -> Sequence[Item]:
    taken = {item.id for item in request.history.items}
    return stored_items(own_items(request), token_hex(16), taken)


async def _beside_the_loop(
    services: Services, context: RequestContext, n_bytes: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """The result of `work`, which takes time in proportion to `n_bytes`: in a thread if that is long."""
    if n_bytes <= INLINE_BYTES:
        return work(*args, **kwargs)
    return await services.threads.run(context.caller, work, *args, **kwargs)


async def _referenced(store: Store, owner: str, references: Mapping[str, str], max_bytes: int) -> Mapping[str, bytes]:
    """The items with these ids. Raises ItemNotFound and HistoryTooLarge."""
    if not references:
        return {}
    found = await store.items_by_id(owner, list(references))
    for id, field in references.items():
        if id not in found:
            raise ItemNotFound(id, field)
    if _size(found.values()) > max_bytes:
        raise HistoryTooLarge("input", f"{max_bytes} bytes")
    return {id: found[id] for id in references}


def _size(bodies: Iterable[bytes]) -> int:
    return sum(map(len, bodies))


def _refuse(use: StoreUse) -> None:
    """Raises UnsupportedParameter for a request that needs a store."""
    reason = "this server stores nothing (its option --store)"
    if use.background:
        raise UnsupportedParameter(
            "background", f"'background' is not supported: {reason}, so the response would be lost."
        )
    for name in ("previous_response_id", "conversation"):
        if (use.base.previous_response_id if name == "previous_response_id" else use.base.conversation_id) is not None:
            raise UnsupportedParameter(name, f"'{name}' is not supported: {reason}. Send the earlier items in 'input'.")
    for path in use.references.values():
        raise UnsupportedParameter(path, f"'{path}' refers to a stored item, but {reason}. Send the item.")
