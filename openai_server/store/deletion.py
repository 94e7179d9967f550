"""Deletes responses and conversations, with what only they need.

A response that other responses continue leaves a tombstone: a row with `deleted_at` and without body, whose items stay
until the last of those is deleted. A deleted conversation has `deleted_at` while its items are being deleted.
"""

from sqlalchemy import Connection, bindparam, delete, null, select, update

from openai_server.core.store_errors import ConversationNotFound, ResponseNotFound
from openai_server.store.database import release_blobs
from openai_server.store.items import drop_items_of_response
from openai_server.store.quota import count
from openai_server.store.tables import conversations, events, items, now, responses

MAX_TOMBSTONES = 32
"""Tombstones that one transaction deletes together with their last descendant; the sweeper deletes further ones."""
ITEMS_PER_BATCH = 200
"""Items of a deleted conversation that one transaction deletes."""

_r, _c, _i = responses.c, conversations.c, items.c
_LIVING = (
    select(_r.id, _r.owner, _r.parent, _r.n_bytes, _r.request_blob)
    .where(_r.id == bindparam("response"), _r.owner == bindparam("of_owner"), _r.deleted_at.is_(None))
    .with_for_update()
)
_TOMBSTONE = (
    select(_r.id, _r.owner, _r.parent)
    .where(_r.id == bindparam("response"), _r.deleted_at.is_not(None))
    .with_for_update()
)
_CHILD = select(_r.id).where(_r.parent == bindparam("response")).limit(1)
_BURY = (
    update(responses)
    .where(_r.id == bindparam("response"))
    .values(deleted_at=now(), body=b"", request=null(), request_blob=null(), runner=null(), n_bytes=0)
)
_DELETE = delete(responses).where(_r.id == bindparam("response"))
_DELETE_EVENTS = delete(events).where(events.c.response_id == bindparam("response"))


def delete_response(connection: Connection, owner: str, id: str) -> None:
    """Raises ResponseNotFound."""
    row = connection.execute(_LIVING, {"response": id, "of_owner": owner}).one_or_none()
    if row is None:
        raise ResponseNotFound(id)
    connection.execute(_DELETE_EVENTS, {"response": id})
    release_blobs(connection, [row.request_blob])
    n_bytes: int = row.n_bytes
    if _has_children(connection, id):
        connection.execute(_BURY, {"response": id})
    else:
        n_bytes += _drop(connection, id) + _drop_tombstones(connection, row.parent)
    count(connection, owner, responses=-1, n_bytes=-n_bytes)


def delete_tombstone(connection: Connection, id: str) -> None:
    """Deletes a tombstone that no response continues, and the tombstones that only it needed."""
    row = connection.execute(_TOMBSTONE, {"response": id}).one_or_none()
    if row is not None:
        n_bytes = _drop_tombstones(connection, id)
        count(connection, row.owner, n_bytes=-n_bytes)


def _has_children(connection: Connection, id: str) -> bool:
    return connection.execute(_CHILD, {"response": id}).first() is not None


def _drop(connection: Connection, id: str) -> int:
    connection.execute(_DELETE, {"response": id})
    return drop_items_of_response(connection, id)


def _drop_tombstones(connection: Connection, id: str | None) -> int:
    """Deletes this tombstone and its ancestors, as far as nothing continues them. Returns the number of bytes."""
    n_bytes = 0
    for _ in range(MAX_TOMBSTONES):
        if id is None:
            break
        row = connection.execute(_TOMBSTONE, {"response": id}).one_or_none()
        if row is None or _has_children(connection, id):
            break
        n_bytes += _drop(connection, id)
        id = row.parent
    return n_bytes


# ---- Conversations

_MARK = (
    update(conversations)
    .where(_c.id == bindparam("conversation"), _c.owner == bindparam("of_owner"), _c.deleted_at.is_(None))
    .values(deleted_at=now(), metadata=b"", n_bytes=0)
)
_CONVERSATION = (
    select(_c.owner, _c.n_bytes)
    .where(_c.id == bindparam("conversation"), _c.owner == bindparam("of_owner"), _c.deleted_at.is_(None))
    .with_for_update()
)
_IN_CONVERSATION = _i.conversation_id == bindparam("conversation")
_OF_RESPONSE, _OF_CONVERSATION_ALONE = _i.response_id.is_not(None), _i.response_id.is_(None)
# The conditions are repeated outside of the subqueries, since PostgreSQL checks only these on a row that it waited for.
_LEAVE_TO_RESPONSES = (
    update(items)
    .where(
        _i.pk.in_(select(_i.pk).where(_IN_CONVERSATION, _OF_RESPONSE).limit(ITEMS_PER_BATCH)),
        *(_IN_CONVERSATION, _OF_RESPONSE),
    )
    .values(conversation_id=null(), conversation_position=null())
)
_DELETE_ITEMS = (
    delete(items)
    .where(
        _i.pk.in_(select(_i.pk).where(_IN_CONVERSATION, _OF_CONVERSATION_ALONE).limit(ITEMS_PER_BATCH)),
        *(_IN_CONVERSATION, _OF_CONVERSATION_ALONE),
    )
    .returning(_i.n_bytes, _i.blob)
)
_HAS_ITEMS = select(_i.pk).where(_IN_CONVERSATION).limit(1)
_DELETE_CONVERSATION = delete(conversations).where(_c.id == bindparam("conversation"))


def delete_conversation(connection: Connection, owner: str, id: str) -> bool:
    """Makes the conversation one that doesn't exist, and deletes its first items. Returns whether `delete_items` must
    delete more. Raises ConversationNotFound."""
    parameters = {"conversation": id, "of_owner": owner}
    row = connection.execute(_CONVERSATION, parameters).one_or_none()
    if row is None:
        raise ConversationNotFound(id)
    connection.execute(_MARK, parameters)
    n_bytes, has_more = _delete_items(connection, id)
    count(connection, owner, conversations=-1, n_bytes=-row.n_bytes - n_bytes)
    return has_more


def delete_items(connection: Connection, owner: str, id: str) -> bool:
    """Deletes further items of a deleted conversation, and its row after the last one. Returns whether more are
    left."""
    n_bytes, has_more = _delete_items(connection, id)
    count(connection, owner, n_bytes=-n_bytes)
    return has_more


def _delete_items(connection: Connection, id: str) -> tuple[int, bool]:
    parameters = {"conversation": id}
    connection.execute(_LEAVE_TO_RESPONSES, parameters)
    rows = connection.execute(_DELETE_ITEMS, parameters).all()
    release_blobs(connection, [row.blob for row in rows])
    has_more = connection.execute(_HAS_ITEMS, parameters).first() is not None
    if not has_more:
        connection.execute(_DELETE_CONVERSATION, parameters)
    return sum(row.n_bytes for row in rows), has_more
