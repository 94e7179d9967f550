"""Counts what the store holds, from a few rows."""

from sqlalchemy import Connection, func, select

from openai_server.store.batches import unfinished
from openai_server.store.quota import totals
from openai_server.store.records import Sizes
from openai_server.store.tables import responses

_UNFINISHED = (
    select(responses.c.status, func.count().label("n"))
    .where(responses.c.status.in_(("queued", "in_progress")), responses.c.deleted_at.is_(None))
    .group_by(responses.c.status)
)


def sizes(connection: Connection) -> Sizes:
    n_responses, n_conversations, n_bytes = totals(connection)
    n_batches, n_lines = unfinished(connection)
    n: dict[str, int] = {row.status: row.n for row in connection.execute(_UNFINISHED)}
    return Sizes(
        responses=n_responses,
        conversations=n_conversations,
        bytes=n_bytes,
        queued=n.get("queued", 0),
        running=n.get("in_progress", 0),
        batches=n_batches,
        batch_lines=n_lines,
    )
