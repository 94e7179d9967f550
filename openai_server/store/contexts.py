"""The items that responses are generated from: those of the conversation or of the chain of previous responses, which
is followed from row to row, and own ones."""

from collections.abc import Mapping, Sequence

from sqlalchemy import BigInteger, Connection, and_, bindparam, func, select

from openai_server.core.store_errors import (
    ConversationNotFound,
    HistoryTooLarge,
    PreviousResponseNotFound,
    PreviousResponseUnfinished,
)
from openai_server.store.blobs import ReadableBlobs
from openai_server.store.chain import chained, end_of
from openai_server.store.items import items_by_id, read_item, read_items
from openai_server.store.pages import input_page
from openai_server.store.records import FINAL, Base, History, Item, Page, PageRequest
from openai_server.store.tables import conversations, items, responses

_r, _c, _i = responses.c, conversations.c, items.c
_d = chained.c
_LINK_COLUMNS = (_d.id, _d.parent, _d.conversation_id, _d.conversation_end, _d.depth)
_LINKS = (
    select(*_LINK_COLUMNS, func.count(_i.pk).label("n_items"), func.coalesce(func.sum(_i.n_bytes), 0).label("n_bytes"))
    .select_from(chained.outerjoin(items, _i.response_id == _d.id))
    .group_by(*_LINK_COLUMNS)
)
_CHAIN_ITEMS = select(_d.depth, _i.response_position, _i.id, _i.body, _i.blob).where(_i.response_id == _d.id)
_ANY_STATUS = select(_r.status).where(_r.id == bindparam("response"), _r.owner == bindparam("of_owner"))
_STATUS = _ANY_STATUS.where(_r.deleted_at.is_(None))
_CONVERSATION = select(_c.next_position).where(
    _c.id == bindparam("conversation"), _c.owner == bindparam("of_owner"), _c.deleted_at.is_(None)
)
_BEFORE_END = and_(
    _i.conversation_id == bindparam("conversation"),
    _i.conversation_position <= bindparam("end", type_=BigInteger()),
    _i.deleted_at.is_(None),
)
_CONVERSATION_SIZE = select(func.count(), func.coalesce(func.sum(_i.n_bytes), 0)).where(_BEFORE_END)
_CONVERSATION_ITEMS = select(_i.id, _i.body, _i.blob).where(_BEFORE_END).order_by(_i.conversation_position)


class Contexts:
    def __init__(self, blobs: ReadableBlobs | None) -> None:
        self._blobs = blobs

    def history(
        self,
        connection: Connection,
        owner: str,
        base: Base,
        max_bytes: int,
        max_items: int,
        *,
        may_be_deleted: bool = False,
    ) -> History:
        if (previous := base.previous_response_id) is not None:
            limit = _Limit("previous_response_id", max_bytes, max_items)
            status = connection.scalar(
                _ANY_STATUS if may_be_deleted else _STATUS, {"response": previous, "of_owner": owner}
            )
            if status is None:
                raise PreviousResponseNotFound(previous)
            if status not in FINAL:
                raise PreviousResponseUnfinished(previous, status)
            return History(self._chain_items(connection, owner, previous, limit))
        if base.conversation_id is None:
            return History()
        parameters = {"conversation": base.conversation_id, "of_owner": owner}
        next_position = connection.scalar(_CONVERSATION, parameters)
        if next_position is None:
            raise ConversationNotFound(base.conversation_id, "conversation")
        end = next_position - 1
        n_items, n_bytes = _conversation_size(connection, base.conversation_id, end)
        _Limit("conversation", max_bytes, max_items).check(n_items, n_bytes)
        return History(self._conversation_items(connection, base.conversation_id, end), end)

    def input_items(self, connection: Connection, owner: str, id: str, page: PageRequest) -> Page:
        return input_page(connection, self._blobs, owner, id, page)

    def items_by_id(self, connection: Connection, owner: str, ids: Sequence[str]) -> Mapping[str, bytes]:
        return items_by_id(connection, self._blobs, owner, ids)

    def _chain_items(self, connection: Connection, owner: str, id: str, limit: "_Limit") -> Sequence[Item]:
        chain = {"response": id, "max_depth": limit.max_items}
        links = connection.execute(_LINKS, chain).all()
        oldest = max(links, key=lambda link: link.depth)
        n_items, n_bytes = sum(link.n_items for link in links), sum(link.n_bytes for link in links)
        if len(links) > limit.max_items:
            limit.check(len(links), 0)
        if oldest.parent is not None:
            raise PreviousResponseNotFound(id)
        conversation_id, end = oldest.conversation_id, end_of(oldest)
        if conversation_id is not None:
            if connection.scalar(_CONVERSATION, {"conversation": conversation_id, "of_owner": owner}) is None:
                raise PreviousResponseNotFound(id)
            size = _conversation_size(connection, conversation_id, end)
            n_items, n_bytes = n_items + size[0], n_bytes + size[1]
        limit.check(n_items, n_bytes)
        rows = sorted(connection.execute(_CHAIN_ITEMS, chain), key=lambda row: (-row.depth, row.response_position))
        chained = [read_item(self._blobs, row) for row in rows]
        if conversation_id is None:
            return chained
        return [*self._conversation_items(connection, conversation_id, end), *chained]

    def _conversation_items(self, connection: Connection, id: str, end: int) -> list[Item]:
        return read_items(self._blobs, connection.execute(_CONVERSATION_ITEMS, {"conversation": id, "end": end}))


class _Limit:
    def __init__(self, param: str, max_bytes: int, max_items: int) -> None:
        self._param, self._max_bytes, self.max_items = param, max_bytes, max_items

    def check(self, n_items: int, n_bytes: int) -> None:
        if n_items > self.max_items:
            raise HistoryTooLarge(self._param, f"{self.max_items} items")
        if n_bytes > self._max_bytes:
            raise HistoryTooLarge(self._param, f"{self._max_bytes} bytes")


def _conversation_size(connection: Connection, id: str, end: int) -> tuple[int, int]:
    n_items, n_bytes = connection.execute(_CONVERSATION_SIZE, {"conversation": id, "end": end}).one()
    return n_items, int(n_bytes)
