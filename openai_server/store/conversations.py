"""Transactions on conversations and their items."""

from collections.abc import Sequence

from sqlalchemy import Connection, Double, bindparam, insert, null, select, update

from openai_server.core.store_errors import ConversationNotFound, ItemExists, ItemNotFound
from openai_server.store.blobs import ReadableBlobs
from openai_server.store.database import release_blobs
from openai_server.store.items import insert_items, read_item, reserve_positions, taken_ids
from openai_server.store.pages import conversation_page
from openai_server.store.quota import Quota, count
from openai_server.store.records import Conversation, Item, Page, PageRequest
from openai_server.store.tables import conversations, items, now

_c, _i = conversations.c, items.c
_INSERT = insert(conversations).values(
    id=bindparam("conversation"),
    owner=bindparam("of_owner"),
    created_at=bindparam("at", type_=Double()),
    expires_at=now() + bindparam("retention", type_=Double()),
    metadata=bindparam("data"),
    next_position=bindparam("n"),
    n_bytes=bindparam("size"),
)
_SELECT = select(_c.id, _c.created_at, _c.metadata, _c.n_bytes, _c.next_position).where(
    _c.id == bindparam("conversation"), _c.owner == bindparam("of_owner"), _c.deleted_at.is_(None)
)
_LOCK = _SELECT.with_for_update()
_SET_METADATA = (
    update(conversations)
    .where(_c.id == bindparam("conversation"))
    .values(metadata=bindparam("data"), n_bytes=bindparam("size"))
)
_ITEM = select(_i.pk, _i.id, _i.response_id, _i.conversation_position, _i.body, _i.blob, _i.n_bytes).where(
    _i.conversation_id == bindparam("conversation"), _i.id == bindparam("item"), _i.deleted_at.is_(None)
)
_LEAVE_TO_RESPONSE = (
    update(items)
    .where(_i.pk == bindparam("key"), _i.response_id.is_not(None))
    .values(conversation_id=null(), conversation_position=null())
)
_KEEP_PLACE = insert(items).values(
    owner=bindparam("of_owner"),
    id=bindparam("item"),
    is_output=False,
    conversation_id=bindparam("conversation"),
    conversation_position=bindparam("position"),
    n_bytes=0,
    deleted_at=now(),
)
_ERASE = update(items).where(_i.pk == bindparam("key")).values(body=null(), blob=null(), n_bytes=0, deleted_at=now())


class Conversations:
    """All methods but `create` raise ConversationNotFound. `retention` None: forever."""

    def __init__(self, quota: Quota, blobs: ReadableBlobs | None, *, retention: float | None) -> None:
        self._quota, self._blobs, self._retention = quota, blobs, retention

    def create(
        self, connection: Connection, owner: str, id: str, created_at: float, metadata: bytes, new_items: Sequence[Item]
    ) -> None:
        connection.execute(
            _INSERT,
            {
                "conversation": id,
                "of_owner": owner,
                "at": created_at,
                "retention": self._retention,
                "data": metadata,
                "n": len(new_items),
                "size": len(metadata),
            },
        )
        n_bytes = insert_items(connection, owner, new_items, conversation_id=id)
        self._quota.add(connection, owner, conversations=1, n_bytes=len(metadata) + n_bytes)

    def conversation(self, connection: Connection, owner: str, id: str) -> Conversation:
        row = connection.execute(_SELECT, {"conversation": id, "of_owner": owner}).one_or_none()
        if row is None:
            raise ConversationNotFound(id)
        return Conversation(id=row.id, created_at=row.created_at, metadata=row.metadata)

    def set_metadata(self, connection: Connection, owner: str, id: str, metadata: bytes) -> Conversation:
        row = connection.execute(_LOCK, {"conversation": id, "of_owner": owner}).one_or_none()
        if row is None:
            raise ConversationNotFound(id)
        connection.execute(_SET_METADATA, {"conversation": id, "data": metadata, "size": len(metadata)})
        self._quota.add(connection, owner, n_bytes=len(metadata) - row.n_bytes)
        return Conversation(id=id, created_at=row.created_at, metadata=metadata)

    def add_items(self, connection: Connection, owner: str, id: str, new_items: Sequence[Item]) -> None:
        """Raises ItemExists and StoreQuotaExceeded too."""
        start = self._reserve(connection, owner, id, len(new_items))
        ids = [item.id for item in new_items]
        taken = taken_ids(connection, id, ids)
        for n, item_id in enumerate(ids):
            if item_id in taken or item_id in ids[:n]:
                raise ItemExists(item_id)
        n_bytes = insert_items(connection, owner, new_items, conversation_id=id, position=start)
        self._quota.add(connection, owner, n_bytes=n_bytes)

    def append(self, connection: Connection, owner: str, id: str, new_items: Sequence[Item]) -> None:
        """Leaves out items whose ids the conversation has. Raises StoreQuotaExceeded too."""
        start = self._reserve(connection, owner, id, len(new_items))
        taken = taken_ids(connection, id, [item.id for item in new_items])
        n_bytes = insert_items(connection, owner, new_items, conversation_id=id, position=start, taken=taken)
        self._quota.add(connection, owner, n_bytes=n_bytes)

    def _reserve(self, connection: Connection, owner: str, id: str, n: int) -> int:
        start = reserve_positions(connection, owner, id, n, self._retention)
        if start is None:
            raise ConversationNotFound(id)
        return start

    def items(self, connection: Connection, owner: str, id: str, page: PageRequest) -> Page:
        """Raises ItemNotFound too."""
        self.conversation(connection, owner, id)
        return conversation_page(connection, self._blobs, id, page)

    def item(self, connection: Connection, owner: str, id: str, item_id: str) -> Item:
        """Raises ItemNotFound too."""
        self.conversation(connection, owner, id)
        row = connection.execute(_ITEM, {"conversation": id, "item": item_id}).one_or_none()
        if row is None:
            raise ItemNotFound(item_id)
        return read_item(self._blobs, row)

    def delete_item(self, connection: Connection, owner: str, id: str, item_id: str) -> Conversation:
        """Keeps the place of the item for lists that begin after it. Raises ItemNotFound too."""
        conversation = connection.execute(_LOCK, {"conversation": id, "of_owner": owner}).one_or_none()
        if conversation is None:
            raise ConversationNotFound(id)
        row = connection.execute(_ITEM, {"conversation": id, "item": item_id}).one_or_none()
        if row is None:
            raise ItemNotFound(item_id)
        n_bytes = 0
        if row.response_id is not None and connection.execute(_LEAVE_TO_RESPONSE, {"key": row.pk}).rowcount == 1:
            place = {"conversation": id, "of_owner": owner, "item": item_id, "position": row.conversation_position}
            connection.execute(_KEEP_PLACE, place)
        else:
            connection.execute(_ERASE, {"key": row.pk})
            release_blobs(connection, [row.blob])
            n_bytes = row.n_bytes
        count(connection, owner, n_bytes=-n_bytes)
        return Conversation(id=id, created_at=conversation.created_at, metadata=conversation.metadata)
