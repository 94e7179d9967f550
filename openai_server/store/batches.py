"""Transactions on batches: their objects, and the statuses through which they go.

A line ends only while its batch is `in_progress`, in a transaction that locks the row of the batch. So no line changes
any more when the output files are written.
"""

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, Double, Row, bindparam, func, insert, literal_column, null, or_, select, update

from openai_server.core.errors import InvalidRequest
from openai_server.core.file_errors import BatchNotFound, BatchQuotaExceeded
from openai_server.core.store_errors import Superseded
from openai_server.store.batch_records import (
    UNFINISHED,
    BatchesPage,
    BatchStatus,
    BatchTimes,
    BatchUsage,
    NewBatch,
    StoredBatch,
)
from openai_server.store.file_records import FilesRequest, NewFile
from openai_server.store.files import hold_file, insert_file
from openai_server.store.leases import see_runner
from openai_server.store.quota import count, count_files
from openai_server.store.records import LEASE_SECONDS
from openai_server.store.tables import batches, now, runners

PURPOSE = "batch"
"""Purpose of the files that can be the input of a batch."""

_b = batches.c
_ID = _b.id == bindparam("batch")
_OF_OWNER = _b.owner == bindparam("of_owner")
_KEPT = now() + bindparam("retention", type_=Double)
"""NULL without a retention: forever."""
_INSERT = insert(batches)
_N_UNFINISHED = select(func.count()).select_from(batches).where(_OF_OWNER, _b.status.in_(UNFINISHED))
_BATCH = select(batches).where(_ID, _OF_OWNER)
_TO_CANCEL = _BATCH.with_for_update()
_ORDERS = {"asc": _b.id, "desc": _b.id.desc()}
_FIRST_PAGE = {
    order: select(batches).where(_OF_OWNER).order_by(by).limit(bindparam("n")) for order, by in _ORDERS.items()
}
_PAGE = {
    "asc": _FIRST_PAGE["asc"].where(_b.id > bindparam("after")),
    "desc": _FIRST_PAGE["desc"].where(_b.id < bindparam("after")),
}
_CANCEL = update(batches).where(_ID).values(status="cancelling", cancelling_at=now())
_CANCEL_AT_ONCE = (
    update(batches)
    .where(_ID)
    .values(status="cancelled", cancelling_at=now(), cancelled_at=now(), runner=null(), kept_until=_KEPT)
)
_IS_OVERDUE = (_b.status == "in_progress", _b.deadline < now())
_HAS_OVERDUE = select(_b.id).where(*_IS_OVERDUE).limit(1)
_EXPIRE = update(batches).where(*_IS_OVERDUE).values(status="finalizing", final_status="expired", finalizing_at=now())
_ALIVE = select(runners.c.id).where(runners.c.seen_at >= now() - LEASE_SECONDS)
_NEEDS_STEWARD = (
    _b.status.in_(("validating", "cancelling", "finalizing")),
    _b.id.not_in(bindparam("busy", expanding=True)),
    or_(_b.runner.is_(None), _b.runner == bindparam("process"), _b.runner.not_in(_ALIVE)),
)
_HAS_STEWARDLESS = select(_b.id).where(*_NEEDS_STEWARD).limit(1)
_STEWARDLESS = (
    select(batches).where(*_NEEDS_STEWARD).order_by(_b.created_at, _b.id).limit(1).with_for_update(skip_locked=True)
)
_TAKE = update(batches).where(_ID).values(runner=bindparam("process"))
_MINE = select(batches).where(_ID, _b.runner == bindparam("process")).with_for_update()
_BEGIN = (
    update(batches)
    .where(_ID)
    .values(
        status="in_progress",
        in_progress_at=now(),
        n_total=bindparam("n"),
        model=bindparam("first_model"),
        runner=null(),
    )
)
_FAIL = (
    update(batches)
    .where(_ID)
    .values(status="failed", failed_at=now(), errors=bindparam("found"), runner=null(), kept_until=_KEPT)
)
_FINISH: dict[BatchStatus, Any] = {
    ending: update(batches)
    .where(_ID)
    .values(
        {
            _b.status: ending,
            _b[f"{ending}_at"]: now(),
            _b.output_file_id: bindparam("output"),
            _b.error_file_id: bindparam("failures"),
            _b.n_failed: _b.n_total - _b.n_completed,
            _b.runner: null(),
            _b.kept_until: _KEPT,
        }
    )
    for ending in ("completed", "expired", "cancelled")
}
_RELEASE = (
    update(batches)
    .where(_b.status.in_(("validating", "cancelling", "finalizing")), _b.runner == bindparam("process"))
    .values(runner=null())
)
_N_LEFT = select(
    *(func.count(), func.coalesce(func.sum(_b.n_total - _b.n_completed - _b.n_failed), literal_column("0")))
).where(_b.status.in_(UNFINISHED))


class Batches:
    """`retention`: seconds for which a batch that has ended is kept; None: forever. `max_batches`: batches of an owner
    that have not ended; 0 is no limit."""

    def __init__(self, *, runner: str, retention: float | None, max_batches: int) -> None:
        self._runner, self._retention, self._max_batches = runner, retention, max_batches

    # ---- For its owner

    def create(self, connection: Connection, batch: NewBatch) -> StoredBatch:
        file = hold_file(connection, batch.owner, batch.input_file_id, "input_file_id")
        if file.purpose != PURPOSE:
            raise InvalidRequest(
                f"The input file of a batch must have the purpose 'batch', and this one has '{file.purpose}'.",
                param="input_file_id",
                code="invalid_file_purpose",
            )
        count(connection, batch.owner)  # locks the owner's row: no other batch is counted meanwhile
        n_unfinished = connection.scalar(_N_UNFINISHED, {"of_owner": batch.owner}) or 0
        if 0 < self._max_batches <= n_unfinished:
            raise BatchQuotaExceeded(self._max_batches)
        connection.execute(_INSERT, _row_of(batch))
        return self.get(connection, batch.owner, batch.id)

    def get(self, connection: Connection, owner: str, id: str) -> StoredBatch:
        row = connection.execute(_BATCH, {"batch": id, "of_owner": owner}).one_or_none()
        if row is None:
            raise BatchNotFound(id)
        return _batch(row)

    def list(self, connection: Connection, owner: str, page: FilesRequest) -> BatchesPage:
        parameters: dict[str, Any] = {"of_owner": owner, "n": page.limit + 1}
        if page.after is None:
            rows = connection.execute(_FIRST_PAGE[page.order], parameters).all()
        else:
            rows = connection.execute(_PAGE[page.order], {**parameters, "after": page.after}).all()
        return BatchesPage([_batch(row) for row in rows[: page.limit]], has_more=len(rows) > page.limit)

    def cancel(self, connection: Connection, owner: str, id: str) -> StoredBatch:
        row = connection.execute(_TO_CANCEL, {"batch": id, "of_owner": owner}).one_or_none()
        if row is None:
            raise BatchNotFound(id)
        match row.status:
            case "validating":
                connection.execute(_CANCEL_AT_ONCE, {"batch": id, "retention": self._retention})
            case "in_progress":
                connection.execute(_CANCEL, {"batch": id})
            case "cancelling" | "cancelled":
                pass
            case status:
                raise InvalidRequest(f"A batch that is {status} can't be cancelled.", param="batch_id")
        return self.get(connection, owner, id)

    # ---- For the process that takes care of it

    def work(self, connection: Connection, busy: Collection[str]) -> tuple[bool, bool]:
        """Whether `expire` would find batches, and whether `take` would find one."""
        has_overdue = connection.scalar(_HAS_OVERDUE) is not None
        stewardless = connection.scalar(_HAS_STEWARDLESS, {"process": self._runner, "busy": list(busy)})
        return has_overdue, stewardless is not None

    def expire(self, connection: Connection) -> None:
        """Makes the batches `finalizing` whose deadline has passed."""
        connection.execute(_EXPIRE)

    def take(self, connection: Connection, busy: Collection[str]) -> StoredBatch | None:
        """The oldest batch that needs this process: to validate it, or to write its output files. A living process has
        none of them. `busy` are those that this process takes care of."""
        see_runner(connection, self._runner)
        row = connection.execute(_STEWARDLESS, {"process": self._runner, "busy": list(busy)}).one_or_none()
        if row is None:
            return None
        connection.execute(_TAKE, {"batch": row.id, "process": self._runner})
        return _batch(row)

    def check_mine(self, connection: Connection, batch: StoredBatch) -> None:
        """Locks the row of the batch until the commit. Raises Superseded if it is no longer in the status in which this
        process has taken it."""
        row = connection.execute(_MINE, {"batch": batch.id, "process": self._runner}).one_or_none()
        if row is None or row.status != batch.status:
            raise Superseded

    def begin(self, connection: Connection, batch: StoredBatch, *, n_lines: int, model: str | None) -> None:
        self.check_mine(connection, batch)
        connection.execute(_BEGIN, {"batch": batch.id, "n": n_lines, "first_model": model})

    def fail(self, connection: Connection, batch: StoredBatch, errors: bytes) -> None:
        self.check_mine(connection, batch)
        connection.execute(_FAIL, {"batch": batch.id, "found": errors, "retention": self._retention})

    def finish(
        self, connection: Connection, batch: StoredBatch, output: NewFile | None, errors: NewFile | None
    ) -> StoredBatch:
        self.check_mine(connection, batch)
        for file in (output, errors):
            if file is not None:
                insert_file(connection, file)
                count_files(connection, file.owner, files=1, n_bytes=file.n_bytes)
        connection.execute(
            _FINISH[batch.ending],
            {
                "batch": batch.id,
                "output": None if output is None else output.id,
                "failures": None if errors is None else errors.id,
                "retention": self._retention,
            },
        )
        return self.get(connection, batch.owner, batch.id)

    def release(self, connection: Connection) -> None:
        """Gives back the batches that this process takes care of."""
        connection.execute(_RELEASE, {"process": self._runner})


def unfinished(connection: Connection) -> tuple[int, int]:
    """The numbers of batches that have not ended, and of lines of batches in progress that have not ended."""
    n_batches, n_lines = connection.execute(_N_LEFT).one()
    return int(n_batches), int(n_lines)


def _row_of(batch: NewBatch) -> dict[str, Any]:
    counters = ("n_total", "n_completed", "n_failed")
    tokens = ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")
    return {
        "id": batch.id,
        "owner": batch.owner,
        "created_at": batch.created_at,
        "endpoint": batch.endpoint,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "deadline": batch.deadline,
        "metadata": batch.metadata,
        "output_seconds": batch.output_seconds,
        "status": "validating",
        **dict.fromkeys((*counters, *tokens), 0),
    }


def _batch(row: Row[*tuple[Any, ...]]) -> StoredBatch:
    times = {name: getattr(row, f"{name}_at") for name in BatchTimes.__struct_fields__}
    return StoredBatch(
        id=row.id,
        owner=row.owner,
        created_at=row.created_at,
        endpoint=row.endpoint,
        input_file_id=row.input_file_id,
        completion_window=row.completion_window,
        deadline=row.deadline,
        metadata=row.metadata,
        output_seconds=row.output_seconds,
        status=row.status,
        final_status=row.final_status,
        times=BatchTimes(**times),
        n_total=row.n_total,
        n_completed=row.n_completed,
        n_failed=row.n_failed,
        usage=BatchUsage(
            input=row.input_tokens, cached=row.cached_tokens, output=row.output_tokens, reasoning=row.reasoning_tokens
        ),
        model=row.model,
        errors=row.errors,
        output_file_id=row.output_file_id,
        error_file_id=row.error_file_id,
    )
