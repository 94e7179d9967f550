"""Transactions on background runs: the runner of a response, the log of its events, and how it ends.

Each write of a run checks that the response is still this runner's: its runner, its attempt and its status. So a
process that went on after its lease had expired changes nothing.
"""

from collections.abc import Collection, Sequence
from typing import Any

from msgspec.structs import replace
from sqlalchemy import Connection, bindparam, func, insert, select, update

from openai_server.core.errors import InvalidRequest
from openai_server.core.store_errors import ResponseNotFound, Superseded
from openai_server.store.blobs import ReadableBlobs
from openai_server.store.errors import MissingBlob
from openai_server.store.fairness import fair
from openai_server.store.fitting import fitting
from openai_server.store.items import add_output, read_body
from openai_server.store.leases import see_runner
from openai_server.store.outcomes import STATE, AnyRow, end, fail, patched, recovered, requeue
from openai_server.store.quota import count
from openai_server.store.records import (
    CONTINUED,
    FINAL,
    LEASE_SECONDS,
    Base,
    Ending,
    EventBatch,
    Progress,
    Recovered,
    Run,
    StoredResponse,
)
from openai_server.store.responses import Responses
from openai_server.store.tables import events, now, responses, runners

MAX_RECOVERED = 64
"""Responses that one transaction recovers."""
MAX_BATCHES = 64
"""Batches that `progress` returns at once."""
MAX_BATCH_BYTES = 256 << 10
"""Bytes of all of them, unless the first one is larger: a client that reads slowly has them in memory."""
MAX_OWNERS = 256
"""Owners whose queued responses `claim` compares."""

_r, _e = responses.c, events.c
_ID = _r.id == bindparam("response")
_IS_QUEUED = (_r.status == "queued", _r.deleted_at.is_(None))
_HAS_QUEUED = select(_r.id).where(*_IS_QUEUED).limit(1)
_FIRST_OWNER = select(func.min(_r.owner).label("owner")).where(_r.status == "queued")
_OWNER = _FIRST_OWNER.cte("queue_owners", recursive=True)
_NEXT_OWNER = select(func.min(_r.owner)).where(_r.status == "queued", _r.owner > _OWNER.c.owner)
_EACH_OWNER = _OWNER.union_all(select(_NEXT_OWNER.scalar_subquery()).where(_OWNER.c.owner.is_not(None)))
# One step in the index for each owner, however many responses are queued.
_OWNERS = select(_EACH_OWNER.c.owner).where(_EACH_OWNER.c.owner.is_not(None)).limit(MAX_OWNERS)
_RUNNING = (
    select(_r.owner, func.count().label("n")).where(_r.status == "in_progress", _r.is_background).group_by(_r.owner)
)
_OLDEST = (
    select(_r.created_at, _r.id)
    .where(*_IS_QUEUED, _r.owner == bindparam("of_owner"))
    .order_by(_r.created_at, _r.id)
    .limit(bindparam("n"))
)
_QUEUED = (
    select(
        *(_r.id, _r.owner, _r.created_at, _r.attempt, _r.parent, _r.conversation_id),
        *(_r.request.label("body"), _r.request_blob.label("blob")),
    )
    .where(*_IS_QUEUED, _r.id.in_(bindparam("ids", expanding=True)))
    .with_for_update(skip_locked=True)
)
_TAKE = (
    update(responses)
    .where(_ID)
    .values(status="in_progress", runner=bindparam("process"), attempt=_r.attempt + 1, is_delivered=False)
)
_OF_RUNNER = (_r.status == "in_progress", _r.deleted_at.is_(None), _r.runner == bindparam("process"))
_MINE = select(*STATE).where(_ID, *_OF_RUNNER, _r.attempt == bindparam("n")).with_for_update()
_STILL_MINE = select(_r.id).where(_r.id.in_(bindparam("ids", expanding=True)), *_OF_RUNNER)
_OWN = select(_r.id).where(*_OF_RUNNER)
_STRAYS = select(*STATE).where(_r.id.in_(bindparam("ids", expanding=True)), *_OF_RUNNER).with_for_update()
_ALL_MINE = select(*STATE).where(*_OF_RUNNER).with_for_update()
_ALIVE = select(runners.c.id).where(runners.c.seen_at >= now() - LEASE_SECONDS)
_IS_ORPHAN = (_r.status == "in_progress", _r.deleted_at.is_(None), _r.runner.not_in(_ALIVE))
_HAS_ORPHANS = select(_r.id).where(*_IS_ORPHAN).limit(1)
_ORPHANS = (
    select(*STATE).where(*_IS_ORPHAN).order_by(_r.created_at).limit(MAX_RECOVERED).with_for_update(skip_locked=True)
)
_SET_END = update(responses).where(_ID).values(conversation_end=bindparam("end"))
_GROW = update(responses).where(_ID).values(n_bytes=_r.n_bytes + bindparam("size"))
_ADD_EVENTS = insert(events)
_OF_ATTEMPT = (_e.response_id == bindparam("response"), _e.attempt == bindparam("n"))
_LAST_EVENT = select(func.max(_e.number)).where(*_OF_ATTEMPT)
_EVENT_SIZES = (
    select(_e.number, func.length(_e.data).label("n_bytes"))
    .where(*_OF_ATTEMPT, _e.number > bindparam("after"))
    .order_by(_e.number)
    .limit(MAX_BATCHES)
)
_EVENTS = (
    select(_e.number, _e.data)
    .where(*_OF_ATTEMPT, _e.number > bindparam("after"), _e.number <= bindparam("last"))
    .order_by(_e.number)
)
_PROGRESS = select(*(_r.id, _r.owner, _r.created_at, _r.model, _r.status, _r.body, _r.is_background), _r.attempt).where(
    _ID, _r.owner == bindparam("of_owner"), _r.deleted_at.is_(None)
)
_DELIVER = (
    update(responses)
    .where(
        *(_ID, _r.owner == bindparam("of_owner"), _r.deleted_at.is_(None)),
        *(_r.attempt == bindparam("n"), _r.status != "queued"),
    )
    .values(is_delivered=True)
)
_TO_CANCEL = select(*STATE).where(_ID, _r.owner == bindparam("of_owner"), _r.deleted_at.is_(None)).with_for_update()


class Runs:
    def __init__(
        self, responses: Responses, blobs: ReadableBlobs | None, *, runner: str, retention: float | None
    ) -> None:
        self._responses, self._blobs, self._runner, self._retention = responses, blobs, runner, retention

    # ---- The runner of a response

    def has_queued(self, connection: Connection) -> bool:
        return connection.scalar(_HAS_QUEUED) is not None

    def claim(self, connection: Connection, n: int, resting: Collection[str]) -> list[Run]:
        see_runner(connection, self._runner)
        owners = [owner for owner in connection.scalars(_OWNERS) if owner not in resting]
        if not owners:
            return []
        queued = {owner: _oldest(connection, owner, n) for owner in owners}
        running = {row.owner: row.n for row in connection.execute(_RUNNING)}
        ids = fair(queued, running, n)
        rows = {row.id: row for row in connection.execute(_QUEUED, {"ids": ids})}
        taken = []
        for row in (rows[id] for id in ids if id in rows):
            connection.execute(_TAKE, {"response": row.id, "process": self._runner})
            run = Run(
                id=row.id,
                owner=row.owner,
                created_at=row.created_at,
                request=b"",
                attempt=row.attempt + 1,
                base=Base(row.parent, row.conversation_id),
            )
            try:
                taken.append(replace(run, request=read_body(self._blobs, row)))
            except MissingBlob:
                fail(connection, self._mine(connection, run), "The request of this response is lost.")
        return taken

    def beat(self, connection: Connection, ids: Sequence[str]) -> list[str]:
        see_runner(connection, self._runner)
        if not ids:
            return []
        mine = set(connection.scalars(_STILL_MINE, {"ids": list(ids), "process": self._runner}))
        return [id for id in ids if id not in mine]

    def end_runner(self, connection: Connection) -> Recovered:
        return recovered(connection, connection.execute(_ALL_MINE, {"process": self._runner}).all())

    def own(self, connection: Connection) -> Sequence[str]:
        """The ids of the responses in progress under this runner's lease."""
        return connection.scalars(_OWN, {"process": self._runner}).all()

    def recoverable(self, connection: Connection) -> tuple[Sequence[str], bool]:
        """The result of `own`, and whether there are responses of runners whose lease has expired."""
        return self.own(connection), connection.scalar(_HAS_ORPHANS) is not None

    def recover(self, connection: Connection, strays: Sequence[str]) -> Recovered:
        """`strays` are responses of this runner that it doesn't work on."""
        rows = connection.execute(_ORPHANS).all()
        if strays:
            rows = [*rows, *connection.execute(_STRAYS, {"ids": list(strays), "process": self._runner})]
        return recovered(connection, rows)

    def requeue(self, connection: Connection, run: Run) -> None:
        requeue(connection, self._mine(connection, run), attempt=run.attempt - 1)

    def abandon(self, connection: Connection, run: Run) -> None:
        recovered(connection, [self._mine(connection, run)])

    # ---- Its events and its end

    def add_events(self, connection: Connection, run: Run, batches: Sequence[EventBatch]) -> None:
        row = self._mine(connection, run)
        n_bytes = _add_events(connection, run, batches)
        if n_bytes:
            connection.execute(_GROW, {"response": run.id, "size": n_bytes})
            count(connection, row.owner, n_bytes=n_bytes)

    def finish_run(
        self,
        connection: Connection,
        run: Run,
        ending: Ending,
        *,
        conversation_end: int | None,
        batches: Sequence[EventBatch],
    ) -> None:
        row = self._mine(connection, run)
        _add_events(connection, run, batches)
        connection.execute(_SET_END, {"response": run.id, "end": conversation_end})
        grown = end(connection, row, ending.status, ending.body)
        grown += add_output(
            *(connection, run.owner, run.id, ending.output),
            conversation_id=row.conversation_id if ending.status in CONTINUED else None,
            retention=self._retention,
        )
        count(connection, run.owner, n_bytes=grown)

    def cancel(self, connection: Connection, owner: str, id: str) -> StoredResponse:
        row = connection.execute(_TO_CANCEL, {"response": id, "of_owner": owner}).one_or_none()
        if row is None:
            raise ResponseNotFound(id)
        if not row.is_background:
            raise InvalidRequest("Only background responses can be cancelled, and this is not one of them.")
        if row.status not in FINAL:
            grown = end(connection, row, "cancelled", patched(row.body, status="cancelled"))
            count(connection, owner, n_bytes=grown)
        return self._responses.response(connection, owner, id)

    # ---- For those that follow it

    def progress(self, connection: Connection, owner: str, id: str, attempt: int, number: int) -> Progress:
        row = connection.execute(_PROGRESS, {"response": id, "of_owner": owner}).one_or_none()
        if row is None:
            raise ResponseNotFound(id)
        response = dict(row._mapping)
        current = response.pop("attempt")
        after = number if attempt == current else -1
        return Progress(
            response=StoredResponse(**response),
            attempt=current,
            batches=_batches(connection, {"response": id, "n": current, "after": after}),
        )

    def deliver(self, connection: Connection, owner: str, id: str, attempt: int) -> bool:
        return connection.execute(_DELIVER, {"response": id, "of_owner": owner, "n": attempt}).rowcount == 1

    def _mine(self, connection: Connection, run: Run) -> AnyRow:
        """The row of a run that is this runner's, which is locked until the commit. Raises Superseded."""
        parameters = {"response": run.id, "process": self._runner, "n": run.attempt}
        row = connection.execute(_MINE, parameters).one_or_none()
        if row is None:
            raise Superseded
        return row


def _oldest(connection: Connection, owner: str, n: int) -> list[tuple[float, str]]:
    return [(row.created_at, row.id) for row in connection.execute(_OLDEST, {"of_owner": owner, "n": n})]


def _batches(connection: Connection, parameters: dict[str, Any]) -> list[EventBatch]:
    """The next batches of an attempt, at least one if there is one."""
    sizes = connection.execute(_EVENT_SIZES, parameters).all()
    if not sizes:
        return []
    last = fitting(sizes, MAX_BATCH_BYTES)[-1].number
    rows = connection.execute(_EVENTS, {**parameters, "last": last}).all()
    return [EventBatch(row.number, row.data) for row in rows]


def _add_events(connection: Connection, run: Run, batches: Sequence[EventBatch]) -> int:
    """Adds the batches that are not stored yet: a transaction may be repeated after its commit was not confirmed.
    Returns the number of bytes."""
    if not batches:
        return 0
    last = connection.scalar(_LAST_EVENT, {"response": run.id, "n": run.attempt})
    new = [batch for batch in batches if last is None or batch.number > last]
    if new:
        place = {"response_id": run.id, "attempt": run.attempt}
        connection.execute(_ADD_EVENTS, [{**place, "number": batch.number, "data": batch.data} for batch in new])
    return sum(len(batch.data) for batch in new)
