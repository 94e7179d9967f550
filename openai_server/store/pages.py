"""Parts of lists of items. A part begins after an item, whose place stays when that is deleted."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Row, and_, bindparam, or_, select

from openai_server.core.store_errors import ItemNotFound, ResponseNotFound
from openai_server.store.blobs import ReadableBlobs
from openai_server.store.chain import ANY_DEPTH, END, chained, end_of
from openai_server.store.fitting import fitting
from openai_server.store.items import read_item
from openai_server.store.records import Order, Page, PageRequest
from openai_server.store.tables import conversations, items, responses

Place = tuple[int, int]
"""An item's place in a context: the depth of its response in the chain, and its position there. The items of the
conversation, which are older, have the depth CONVERSATION."""

MAX_PAGE_BYTES = 16 << 20
"""Maximum size of a page's items, unless the first one is larger. A page has fewer items than requested if these are
larger: the length of an item is limited only by that of a request."""
CONVERSATION = 2**31 - 1
_FIRST: dict[Order, Place] = {"asc": (CONVERSATION, -1), "desc": (-1, END)}
"""The places before the first item."""

_r, _c, _i, _d = responses.c, conversations.c, items.c, chained.c
_KEYS = (_i.pk, _i.n_bytes)
_BODIES = select(_i.pk, _i.id, _i.body, _i.blob).where(_i.pk.in_(bindparam("keys", expanding=True)))
_n = bindparam("n", type_=BigInteger())
_depth, _position = bindparam("depth", type_=BigInteger()), bindparam("position", type_=BigInteger())


# ---- The items of a conversation

_IN_CONVERSATION = and_(
    _i.conversation_id == bindparam("conversation"),
    _i.conversation_position <= bindparam("end", type_=BigInteger()),
)


def _conversation_page(after: ColumnElement[bool], order: ColumnElement[int]) -> Any:
    return select(*_KEYS).where(_IN_CONVERSATION, _i.deleted_at.is_(None), after).order_by(order).limit(_n)


_CONVERSATION_PAGE = {
    "asc": _conversation_page(_i.conversation_position > _position, _i.conversation_position.asc()),
    "desc": _conversation_page(_i.conversation_position < _position, _i.conversation_position.desc()),
}
_CONVERSATION_PLACE = (
    select(_i.conversation_position)
    .where(_IN_CONVERSATION, _i.id == bindparam("item"))
    .order_by(_i.deleted_at.is_not(None), _i.pk.desc())
    .limit(1)
)


def conversation_page(
    connection: Connection, blobs: ReadableBlobs | None, conversation_id: str, page: PageRequest, end: int = END
) -> Page:
    """The items up to the position `end`. Raises ItemNotFound."""
    position = _FIRST[page.order][1]
    if page.after is not None:
        place = _conversation_place(connection, conversation_id, end, page.after)
        if place is None:
            raise ItemNotFound(page.after, "after")
        position = place
    return _page(connection, blobs, _of_conversation(connection, conversation_id, end, page, position), page)


def _conversation_place(connection: Connection, conversation_id: str, end: int, item_id: str) -> int | None:
    parameters = {"conversation": conversation_id, "end": end, "item": item_id}
    position: int | None = connection.scalar(_CONVERSATION_PLACE, parameters)
    return position


def _of_conversation(
    connection: Connection, conversation_id: str, end: int, page: PageRequest, position: int
) -> list[Row[Any]]:
    parameters = {"conversation": conversation_id, "end": end, "position": position, "n": page.limit + 1}
    return list(connection.execute(_CONVERSATION_PAGE[page.order], parameters))


def _page(connection: Connection, blobs: ReadableBlobs | None, found: Sequence[Row[Any]], page: PageRequest) -> Page:
    """`found` has the keys and sizes of the items in their order, one more than the page if that is not the last."""
    keys: list[int] = [row.pk for row in fitting(found[: page.limit], MAX_PAGE_BYTES)]
    if not keys:
        return Page([], has_more=False)
    rows = {row.pk: row for row in connection.execute(_BODIES, {"keys": keys})}
    return Page([read_item(blobs, rows[key]) for key in keys], has_more=len(found) > len(keys))


# ---- The items that a response was generated from

_IN_CONTEXT = and_(_i.response_id == _d.id, or_(_d.depth > 0, ~_i.is_output))


def _chain_page(after: ColumnElement[bool], *order: ColumnElement[int]) -> Any:
    return select(*_KEYS).select_from(items.join(chained, _IN_CONTEXT)).where(after).order_by(*order).limit(_n)


_CHAIN_PAGE = {
    "asc": _chain_page(
        or_(_d.depth < _depth, and_(_d.depth == _depth, _i.response_position > _position)),
        *(_d.depth.desc(), _i.response_position.asc()),
    ),
    "desc": _chain_page(
        or_(_d.depth > _depth, and_(_d.depth == _depth, _i.response_position < _position)),
        *(_d.depth.asc(), _i.response_position.desc()),
    ),
}
_CHAIN_PLACE = select(_d.depth, _i.response_position).where(
    _IN_CONTEXT, _i.owner == bindparam("of_owner"), _i.id == bindparam("item")
)
_OLDEST = (
    select(_d.conversation_id, _d.conversation_end, _c.id.label("found"))
    .select_from(chained.outerjoin(conversations, and_(_c.id == _d.conversation_id, _c.deleted_at.is_(None))))
    .order_by(_d.depth.desc())
    .limit(1)
)
_RESPONSE = select(_r.id).where(
    _r.id == bindparam("response"), _r.owner == bindparam("of_owner"), _r.deleted_at.is_(None)
)


def input_page(connection: Connection, blobs: ReadableBlobs | None, owner: str, id: str, page: PageRequest) -> Page:
    """Raises ResponseNotFound and ItemNotFound."""
    if connection.execute(_RESPONSE, {"response": id, "of_owner": owner}).first() is None:
        raise ResponseNotFound(id)
    oldest = connection.execute(_OLDEST, {"response": id, "max_depth": ANY_DEPTH}).one()
    conversation_id, end = oldest.found, end_of(oldest)
    depth, position = _FIRST[page.order]
    if page.after is not None:
        depth, position = _place(connection, owner, id, conversation_id, end, page.after)
    found: list[Row[Any]] = []
    # The items of the conversation come before those of the chain in the order "asc", and after them in "desc".
    for is_conversation in (True, False) if page.order == "asc" else (False, True):
        n = page.limit + 1 - len(found)
        if n == 0:
            break
        if not is_conversation:
            found += _of_chain(connection, id, page, (depth, position), n)
        elif conversation_id is not None and (page.order == "desc" or depth == CONVERSATION):
            start = position if depth == CONVERSATION else _FIRST[page.order][1]
            found += _of_conversation(connection, conversation_id, end, page, start)[:n]
    return _page(connection, blobs, found, page)


def _place(connection: Connection, owner: str, id: str, conversation_id: str | None, end: int, item_id: str) -> Place:
    parameters = {"response": id, "max_depth": ANY_DEPTH, "of_owner": owner, "item": item_id}
    row = connection.execute(_CHAIN_PLACE, parameters).first()
    if row is not None:
        return row.depth, row.response_position
    position = None
    if conversation_id is not None:
        position = _conversation_place(connection, conversation_id, end, item_id)
    if position is None:
        raise ItemNotFound(item_id, "after")
    return CONVERSATION, position


def _of_chain(connection: Connection, id: str, page: PageRequest, after: Place, n: int) -> list[Row[Any]]:
    parameters = {"response": id, "max_depth": ANY_DEPTH, "depth": after[0], "position": after[1], "n": n}
    return list(connection.execute(_CHAIN_PAGE[page.order], parameters))
