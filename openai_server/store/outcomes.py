"""Transactions on a response that ends or is queued again, in whatever way its generation stopped."""

from collections.abc import Iterable
from typing import Any

import orjson
from sqlalchemy import Connection, Row, bindparam, delete, func, null, select, update

from openai_server.store.database import release_blobs
from openai_server.store.quota import count
from openai_server.store.records import MAX_ATTEMPTS, Recovered, Status
from openai_server.store.tables import events, responses

_r, _e = responses.c, events.c
_ID = _r.id == bindparam("response")
STATE = (
    *(_r.id, _r.owner, _r.status, _r.body, _r.n_bytes, _r.request_blob),
    *(_r.is_background, _r.is_delivered, _r.attempt, _r.conversation_id),
)
"""The columns of a response that these functions need."""
_REQUEUE = (
    update(responses)
    .where(_ID)
    .values(status="queued", runner=null(), attempt=bindparam("n"), is_delivered=False, n_bytes=bindparam("size"))
)
_END = (
    update(responses)
    .where(_ID)
    .values(
        status=bindparam("new_status"),
        body=bindparam("new_body"),
        n_bytes=bindparam("size"),
        runner=null(),
        request=null(),
        request_blob=null(),
    )
)
_EVENT_BYTES = select(func.coalesce(func.sum(func.length(_e.data)), 0)).where(_e.response_id == bindparam("response"))
_DELETE_EVENTS = delete(events).where(_e.response_id == bindparam("response"))

AnyRow = Row[*tuple[Any, ...]]


def recovered(connection: Connection, rows: Iterable[AnyRow]) -> Recovered:
    """Queues each response again or fails it."""
    requeued, failed = [], []
    for row in rows:
        if row.is_background and not row.is_delivered and row.attempt < MAX_ATTEMPTS:
            requeue(connection, row, attempt=row.attempt)
            requeued.append(row.id)
        else:
            fail(connection, row, "The server process that generated this response ended before the response did.")
            failed.append(row.id)
    return Recovered(requeued, failed)


def requeue(connection: Connection, row: AnyRow, *, attempt: int) -> None:
    n_bytes = _event_bytes(connection, row.id)
    connection.execute(_DELETE_EVENTS, {"response": row.id})
    connection.execute(_REQUEUE, {"response": row.id, "n": attempt, "size": row.n_bytes - n_bytes})
    if n_bytes:
        count(connection, row.owner, n_bytes=-n_bytes)


def fail(connection: Connection, row: AnyRow, message: str) -> None:
    body = patched(row.body, status="failed", error={"code": "server_error", "message": message})
    count(connection, row.owner, n_bytes=end(connection, row, "failed", body))


def end(connection: Connection, row: AnyRow, status: Status, body: bytes) -> int:
    """Ends the response. Returns the number of bytes by which its row and its events have grown."""
    release_blobs(connection, [row.request_blob])
    size = len(body) + _event_bytes(connection, row.id)
    connection.execute(_END, {"response": row.id, "new_status": status, "new_body": body, "size": size})
    grown: int = size - row.n_bytes
    return grown


def _event_bytes(connection: Connection, id: str) -> int:
    return int(connection.scalar(_EVENT_BYTES, {"response": id}) or 0)


def patched(body: bytes, **fields: object) -> bytes:
    return orjson.dumps({**orjson.loads(body), **fields})
