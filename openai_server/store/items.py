"""Rows of items. One row is an item of its response and of a conversation; it goes when neither has it any more."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from sqlalchemy import BigInteger, Connection, Double, bindparam, delete, func, insert, select, update

from openai_server.store.blobs import BlobItem, ReadableBlobs
from openai_server.store.database import release_blobs
from openai_server.store.errors import MissingBlob
from openai_server.store.records import Item
from openai_server.store.tables import conversations, items, now

IDS_PER_STATEMENT = 512
"""A power of two."""

_i, _c = items.c, conversations.c
_INSERT = insert(items)
_RESERVE = (
    update(conversations)
    .where(_c.id == bindparam("conversation"), _c.owner == bindparam("of_owner"), _c.deleted_at.is_(None))
    .values(
        next_position=_c.next_position + bindparam("n", type_=BigInteger()),
        expires_at=now() + bindparam("retention", type_=Double()),
    )
    .returning(_c.next_position)
)
_TAKEN = select(_i.id).where(
    _i.conversation_id == bindparam("conversation"),
    _i.deleted_at.is_(None),
    _i.id.in_(bindparam("ids", expanding=True)),
)
_OWN = select(_i.pk, _i.id, _i.response_position).where(_i.response_id == bindparam("response"))
_APPEND = (
    update(items)
    .where(_i.pk == bindparam("item"))
    .values(conversation_id=bindparam("conversation"), conversation_position=bindparam("position"))
)
_LEAVE_TO_CONVERSATION = (
    update(items)
    .where(_i.response_id == bindparam("response"), _i.conversation_id.is_not(None))
    .values(response_id=None, response_position=None)
)
_DELETE_OF_RESPONSE = delete(items).where(_i.response_id == bindparam("response")).returning(_i.n_bytes, _i.blob)
_NEWEST = (
    select(func.max(_i.pk))
    .where(
        _i.owner == bindparam("of_owner"),
        _i.id.in_(bindparam("ids", expanding=True)),
        _i.deleted_at.is_(None),
        _i.response_id.is_not(None)
        | select(_c.id).where(_c.id == _i.conversation_id, _c.deleted_at.is_(None)).exists(),
    )
    .group_by(_i.id)
)
_BY_ID = select(_i.id, _i.body, _i.blob).where(_i.pk.in_(_NEWEST))


def read_body(blobs: ReadableBlobs | None, row: Any) -> bytes:
    """Returns the body of a row with the columns `body` and `blob`. Raises MissingBlob and BlobsAway."""
    if row.blob is None:
        body: bytes = row.body
        return body
    if blobs is None:
        raise MissingBlob(row.blob)
    return blobs.get(row.blob)


def read_item(blobs: ReadableBlobs | None, row: Any) -> Item:
    return Item(row.id, read_body(blobs, row))


def read_items(blobs: ReadableBlobs | None, result: Any) -> list[Item]:
    """Fetches all rows first: after an error, rows that are left would keep SQLite's reader at its old state."""
    return [read_item(blobs, row) for row in result.all()]


def items_by_id(
    connection: Connection, blobs: ReadableBlobs | None, owner: str, ids: Sequence[str]
) -> dict[str, bytes]:
    return {
        row.id: read_body(blobs, row)
        for some_ids in _parts(ids)
        for row in connection.execute(_BY_ID, {"of_owner": owner, "ids": some_ids}).all()
    }


def _parts(ids: Sequence[str]) -> Iterator[list[str]]:
    """Splits ids for statements, which have a maximum number of parameters. A few sizes, to which the last part is
    filled up, keep the number of prepared statements small."""
    for start in range(0, len(ids), IDS_PER_STATEMENT):
        part = list(ids[start : start + IDS_PER_STATEMENT])
        size = 1 << (len(part) - 1).bit_length()
        yield part + part[-1:] * (size - len(part))


def insert_items(
    connection: Connection,
    owner: str,
    new_items: Sequence[Item],
    *,
    response_id: str | None = None,
    first: int = 0,
    is_output: bool = False,
    conversation_id: str | None = None,
    position: int = 0,
    taken: Collection[str] = (),
) -> int:
    """Adds items to a response, to a conversation, or to both. `first` is the first position in the response, and
    `position` that in the conversation, which leaves out items with an id in `taken`. Returns the bytes added."""
    rows: list[dict[str, Any]] = []
    n_bytes = 0
    for n, item in enumerate(new_items):
        is_in_conversation = conversation_id is not None and item.id not in taken
        if response_id is None and not is_in_conversation:
            continue
        size = item.n_bytes if isinstance(item, BlobItem) else len(item.body)
        n_bytes += size
        rows.append(
            {
                "owner": owner,
                "id": item.id,
                "response_id": response_id,
                "response_position": None if response_id is None else first + n,
                "is_output": is_output,
                "conversation_id": conversation_id if is_in_conversation else None,
                "conversation_position": position + n if is_in_conversation else None,
                "body": None if isinstance(item, BlobItem) else item.body,
                "blob": item.key if isinstance(item, BlobItem) else None,
                "n_bytes": size,
            }
        )
    if rows:
        connection.execute(_INSERT, rows)
    return n_bytes


def reserve_positions(
    connection: Connection, owner: str, conversation_id: str, n: int, retention: float | None
) -> int | None:
    """Returns the first of `n` new positions at the end of the conversation, which is locked until the commit and
    expires `retention` seconds from now (None: never). None: there is no such conversation."""
    parameters = {"conversation": conversation_id, "of_owner": owner, "n": n, "retention": retention}
    end = connection.scalar(_RESERVE, parameters)
    return None if end is None else end - n


def taken_ids(connection: Connection, conversation_id: str, ids: Sequence[str]) -> set[str]:
    """Returns those of the ids that items of the conversation have."""
    taken = set[str]()
    for some_ids in _parts(ids):
        taken.update(connection.scalars(_TAKEN, {"conversation": conversation_id, "ids": some_ids}))
    return taken


def add_output(
    connection: Connection,
    owner: str,
    response_id: str,
    output: Sequence[Item],
    *,
    conversation_id: str | None,
    retention: float | None,
) -> int:
    """Adds the output of a response whose input is stored, and appends both to the conversation, unless that is None or
    was deleted. Returns the number of bytes added."""
    own = connection.execute(_OWN, {"response": response_id}).all()
    n = len(own) + len(output)
    start = None
    if conversation_id is not None:
        start = reserve_positions(connection, owner, conversation_id, n, retention)
    if conversation_id is None or start is None:
        return insert_items(connection, owner, output, response_id=response_id, first=len(own), is_output=True)
    taken = taken_ids(connection, conversation_id, [*(row.id for row in own), *(item.id for item in output)])
    appended = [
        {"item": row.pk, "conversation": conversation_id, "position": start + row.response_position}
        for row in own
        if row.id not in taken
    ]
    if appended:
        connection.execute(_APPEND, appended)
    return insert_items(
        *(connection, owner, output),
        response_id=response_id,
        first=len(own),
        is_output=True,
        conversation_id=conversation_id,
        position=start + len(own),
        taken=taken,
    )


def drop_items_of_response(connection: Connection, response_id: str) -> int:
    """Deletes the items of a response that no conversation has. Returns the number of bytes deleted."""
    connection.execute(_LEAVE_TO_CONVERSATION, {"response": response_id})
    rows = connection.execute(_DELETE_OF_RESPONSE, {"response": response_id}).all()
    release_blobs(connection, [row.blob for row in rows])
    return sum(row.n_bytes for row in rows)
