"""Transactions on the lines of batches: which process runs a line, and how it ends.

Locks are taken in one order: the row of the batch, then its lines. `claim` skips lines that are locked.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    Connection,
    Row,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal_column,
    not_,
    null,
    select,
    update,
)

from openai_server.core.store_errors import Superseded
from openai_server.store.batch_records import (
    MAX_LINE_ATTEMPTS,
    BatchLine,
    BatchUsage,
    EndedLine,
    LineResult,
    LineRun,
    StoredBatch,
)
from openai_server.store.batches import Batches
from openai_server.store.fairness import fair
from openai_server.store.file_records import Part
from openai_server.store.fitting import fitting
from openai_server.store.leases import see_runner
from openai_server.store.records import LEASE_SECONDS, Recovered
from openai_server.store.tables import batch_lines, batches, file_parts, now, runners

MAX_ACTIVE = 1000
"""Batches whose lines `claim` compares."""
MAX_RECOVERED = 500
"""Lines that one transaction recovers."""
MAX_DELETED = 500
"""Lines that one transaction deletes."""
MAX_PAGE = 500
"""Lines that `ended` returns at once."""
MAX_PAGE_BYTES = 1 << 20
"""Bytes of all of them, unless the first one is larger."""

_l, _b = batch_lines.c, batches.c
# Literals, not parameters: the partial indexes are of no use for parameters.
_PENDING, _RUNNING = (_l.status == literal_column(f"'{status}'") for status in ("pending", "running"))
_IN_PROGRESS = _b.status == "in_progress"
_OF_BATCH = _l.batch_id == bindparam("batch")
_NUMBERS = _l.number.in_(bindparam("numbers", expanding=True))
_HAS_PENDING = select(_l.number).where(_l.batch_id == _b.id, _PENDING).exists()
_ACTIVE = (
    select(_b.id, _b.owner, _b.created_at, _b.endpoint, _b.input_file_id)
    .where(_IN_PROGRESS, _HAS_PENDING)
    .order_by(_b.created_at, _b.id)
    .limit(MAX_ACTIVE)
)
_IS_ACTIVE = select(_b.id).where(_IN_PROGRESS, _HAS_PENDING).limit(1)
_N_RUNNING = (
    select(_b.owner, func.count().label("n"))
    .select_from(batch_lines.join(batches, _b.id == _l.batch_id))
    .where(_RUNNING, _IN_PROGRESS)
    .group_by(_b.owner)
)
_NEXT = select(_l.number).where(_OF_BATCH, _PENDING).order_by(_l.number).limit(bindparam("n"))
_TO_TAKE = (
    select(batch_lines).where(_OF_BATCH, _NUMBERS, _PENDING).order_by(_l.number).with_for_update(skip_locked=True)
)
_PLACE = (_OF_BATCH, _l.number == bindparam("line"))
_TAKE = update(batch_lines).where(*_PLACE).values(status="running", runner=bindparam("process"), attempt=_l.attempt + 1)
_PARTS = (
    select(file_parts.c.blob, file_parts.c.n_bytes)
    .where(file_parts.c.file_id == bindparam("file"))
    .order_by(file_parts.c.position)
)
_ALIVE = select(runners.c.id).where(runners.c.seen_at >= now() - LEASE_SECONDS)
_RUNS = (
    select(_l.batch_id, _l.number, _l.attempt, _l.runner)
    .select_from(batch_lines.join(batches, _b.id == _l.batch_id))
    .where(_RUNNING, _IN_PROGRESS)
)
_OWN = _RUNS.where(_l.runner == bindparam("process"))
_ORPHANS = _RUNS.where(_l.runner.not_in(_ALIVE)).limit(MAX_RECOVERED)
_HAS_ORPHANS = _ORPHANS.with_only_columns(_l.number).limit(1)
_LOCK_BATCH = select(_b.id).where(_b.id == bindparam("batch"), _IN_PROGRESS).with_for_update()
_STILL = select(_l.number, _l.attempt, _l.runner).where(_OF_BATCH, _NUMBERS, _RUNNING).with_for_update()
_REQUEUE = (
    update(batch_lines)
    .where(*_PLACE)
    .values(status="pending", runner=null(), attempt=_l.attempt - bindparam("returned"))
)
_END = (
    update(batch_lines)
    .where(*_PLACE)
    .values(status="ended", runner=null(), is_error=bindparam("failed"), result=bindparam("data"))
)
_ALL_ENDED = _b.n_completed + _b.n_failed + bindparam("completed") + bindparam("failed") == _b.n_total
_COUNT = (
    update(batches)
    .where(_b.id == bindparam("batch"))
    .values(
        n_completed=_b.n_completed + bindparam("completed"),
        n_failed=_b.n_failed + bindparam("failed"),
        input_tokens=_b.input_tokens + bindparam("input"),
        cached_tokens=_b.cached_tokens + bindparam("cached"),
        output_tokens=_b.output_tokens + bindparam("output"),
        reasoning_tokens=_b.reasoning_tokens + bindparam("reasoning"),
        status=case((_ALL_ENDED, "finalizing"), else_=_b.status),
        final_status=case((_ALL_ENDED, "completed"), else_=_b.final_status),
        finalizing_at=case((_ALL_ENDED, now()), else_=_b.finalizing_at),
    )
)
_INSERT = insert(batch_lines)
_KNOWN = select(_l.number).where(_OF_BATCH, _NUMBERS)
_HAS_OUTPUT = and_(_l.status == "ended", _l.is_error.is_(False))
_OF_FILE = {False: _HAS_OUTPUT, True: not_(_HAS_OUTPUT)}
"""The lines of the output file, and of the error file."""
_SIZES = {
    is_error: select(_l.number, func.coalesce(func.length(_l.result), 0).label("n_bytes"))
    .where(_OF_BATCH, _l.number > bindparam("after"), of_file)
    .order_by(_l.number)
    .limit(MAX_PAGE)
    for is_error, of_file in _OF_FILE.items()
}
_LINES = {
    is_error: select(_l.number, _l.custom_id, _l.status, _l.result)
    .where(_OF_BATCH, _l.number > bindparam("after"), _l.number <= bindparam("last"), of_file)
    .order_by(_l.number)
    for is_error, of_file in _OF_FILE.items()
}
_FIRST = select(_l.number).where(_OF_BATCH).order_by(_l.number).limit(MAX_DELETED)
_DELETE = delete(batch_lines).where(_OF_BATCH, _l.number.in_(_FIRST))


class _Place(NamedTuple):
    batch_id: str
    number: int

    @property
    def id(self) -> str:
        return f"{self.batch_id}/{self.number}"


class BatchLines:
    def __init__(self, batches: Batches, *, runner: str) -> None:
        self._batches, self._runner = batches, runner

    # ---- Validation

    def add(self, connection: Connection, batch: StoredBatch, lines: Sequence[BatchLine]) -> None:
        """Adds those that are not stored yet: a transaction may be repeated after its commit was not confirmed."""
        self._batches.check_mine(connection, batch)
        numbers = [line.number for line in lines]
        known = set(connection.scalars(_KNOWN, {"batch": batch.id, "numbers": numbers}))
        state = {"batch_id": batch.id, "status": "pending", "attempt": 0, "is_error": False}
        new = [
            {**state, "number": line.number, "custom_id": line.custom_id, "start": line.start, "n_bytes": line.n_bytes}
            for line in lines
            if line.number not in known
        ]
        if new:
            connection.execute(_INSERT, new)

    def clear(self, connection: Connection, batch: StoredBatch) -> bool:
        """Deletes some lines that an earlier validation has added. Returns whether there may be more."""
        self._batches.check_mine(connection, batch)
        return delete_lines(connection, batch.id)

    # ---- The process that runs a line

    def has_pending(self, connection: Connection) -> bool:
        return connection.scalar(_IS_ACTIVE) is not None

    def claim(self, connection: Connection, n: int, resting: Collection[str]) -> list[LineRun]:
        see_runner(connection, self._runner)
        active = {row.id: row for row in connection.execute(_ACTIVE) if row.owner not in resting}
        pending: dict[str, list[tuple[float, str]]] = defaultdict(list)
        places: dict[str, _Place] = {}
        for row in active.values():
            own = pending[row.owner]
            if (n_left := n - len(own)) > 0:
                for number in connection.scalars(_NEXT, {"batch": row.id, "n": n_left}):
                    place = _Place(row.id, number)
                    places[place.id] = place
                    own.append((row.created_at, place.id))
        running = {row.owner: row.n for row in connection.execute(_N_RUNNING)}
        chosen = _by_batch(places[id] for id in fair(pending, running, n))
        return [
            run for batch_id, numbers in chosen.items() for run in self._take(connection, active[batch_id], numbers)
        ]

    def _take(self, connection: Connection, batch: Row[*tuple[Any, ...]], numbers: Sequence[int]) -> list[LineRun]:
        rows = connection.execute(_TO_TAKE, {"batch": batch.id, "numbers": numbers}).all()
        if not rows:
            return []
        parts = [Part(row.blob, row.n_bytes) for row in connection.execute(_PARTS, {"file": batch.input_file_id})]
        connection.execute(_TAKE, [{"batch": batch.id, "line": row.number, "process": self._runner} for row in rows])
        return [
            LineRun(
                id=_Place(batch.id, row.number).id,
                owner=batch.owner,
                batch_id=batch.id,
                endpoint=batch.endpoint,
                line=BatchLine(row.number, row.custom_id, row.start, row.n_bytes),
                attempt=row.attempt + 1,
                input=parts,
            )
            for row in rows
        ]

    def beat(self, connection: Connection, ids: Sequence[str]) -> list[str]:
        see_runner(connection, self._runner)
        mine = set(self.own(connection)) if ids else ()
        return [id for id in ids if id not in mine]

    def own(self, connection: Connection) -> list[str]:
        """The ids of the lines that run under this process' lease, of batches in progress."""
        return [_Place(row.batch_id, row.number).id for row in connection.execute(_OWN, {"process": self._runner})]

    def recoverable(self, connection: Connection) -> tuple[list[str], bool]:
        """The result of `own`, and whether there are lines of processes whose lease has expired."""
        return self.own(connection), connection.scalar(_HAS_ORPHANS) is not None

    def recover(self, connection: Connection, strays: Collection[str]) -> Recovered:
        """`strays` are lines of this process that it doesn't work on."""
        rows = list(connection.execute(_ORPHANS))
        if strays:
            own = connection.execute(_OWN, {"process": self._runner})
            rows += [row for row in own if _Place(row.batch_id, row.number).id in strays]
        return self._recovered(connection, rows)

    def end_runner(self, connection: Connection) -> Recovered:
        rows = connection.execute(_OWN, {"process": self._runner}).all()
        self._batches.release(connection)
        return self._recovered(connection, rows, returned=1)

    def requeue(self, connection: Connection, run: LineRun) -> None:
        self._give_back(connection, run, returned=1)

    def abandon(self, connection: Connection, run: LineRun) -> None:
        self._give_back(connection, run, returned=0)

    def _give_back(self, connection: Connection, run: LineRun, *, returned: int) -> None:
        row = _Run(run.batch_id, run.line.number, run.attempt, self._runner)
        recovered = self._recovered(connection, [row], returned=returned)
        if not recovered.requeued and not recovered.failed:
            raise Superseded

    def _recovered(self, connection: Connection, runs: Iterable[Any], *, returned: int = 0) -> Recovered:
        """Gives these lines back, as far as their process still has them. `returned`: attempts that don't count."""
        requeued, failed = list[str](), list[str]()
        by_batch: dict[str, dict[int, Any]] = defaultdict(dict)
        for run in runs:
            by_batch[run.batch_id][run.number] = run
        for batch_id, own in sorted(by_batch.items()):
            if not self._lock(connection, batch_id):
                continue
            lost = []
            for row in connection.execute(_STILL, {"batch": batch_id, "numbers": list(own)}).all():
                run, place = own[row.number], _Place(batch_id, row.number)
                if (row.attempt, row.runner) != (run.attempt, run.runner):
                    continue
                if row.attempt - returned < MAX_LINE_ATTEMPTS:
                    parameters = {"batch": batch_id, "line": row.number, "returned": returned}
                    connection.execute(_REQUEUE, parameters)
                    requeued.append(place.id)
                else:
                    lost.append({"batch": batch_id, "line": row.number, "failed": True, "data": None})
                    failed.append(place.id)
            if lost:
                connection.execute(_END, lost)
                _count(connection, batch_id, 0, len(lost), ())
        return Recovered(requeued, failed)

    # ---- How lines end

    def add_results(self, connection: Connection, results: Sequence[LineResult]) -> set[str]:
        """Returns the ids of the lines that were no longer this process' own."""
        left = {result.run.id for result in results}
        by_batch: dict[str, dict[int, LineResult]] = defaultdict(dict)
        for result in results:
            by_batch[result.run.batch_id][result.run.line.number] = result
        for batch_id, of_batch in sorted(by_batch.items()):
            if not self._lock(connection, batch_id):
                continue
            rows = connection.execute(_STILL, {"batch": batch_id, "numbers": list(of_batch)}).all()
            mine = [
                of_batch[row.number]
                for row in rows
                if row.runner == self._runner and row.attempt == of_batch[row.number].run.attempt
            ]
            if not mine:
                continue
            ended = [
                {"batch": batch_id, "line": result.run.line.number, "failed": result.is_error, "data": result.data}
                for result in mine
            ]
            connection.execute(_END, ended)
            n_failed = sum(result.is_error for result in mine)
            _count(connection, batch_id, len(mine) - n_failed, n_failed, [result.usage for result in mine])
            left -= {result.run.id for result in mine}
        return left

    def ended(self, connection: Connection, batch_id: str, after: int, *, is_error: bool) -> list[EndedLine]:
        """The next lines of a file of the batch after this number, at least one if there is one."""
        sizes = connection.execute(_SIZES[is_error], {"batch": batch_id, "after": after}).all()
        if not sizes:
            return []
        last = fitting(sizes, MAX_PAGE_BYTES)[-1].number
        rows = connection.execute(_LINES[is_error], {"batch": batch_id, "after": after, "last": last})
        return [EndedLine(row.number, row.custom_id, row.status == "ended", row.result) for row in rows]

    def _lock(self, connection: Connection, batch_id: str) -> bool:
        """Locks the row of the batch until the commit. False: it is not in progress."""
        return connection.scalar(_LOCK_BATCH, {"batch": batch_id}) is not None


def delete_lines(connection: Connection, batch_id: str) -> bool:
    """Deletes some lines. Returns whether there may be more."""
    return connection.execute(_DELETE, {"batch": batch_id}).rowcount > 0


class _Run(NamedTuple):
    batch_id: str
    number: int
    attempt: int
    runner: str


def _by_batch(places: Iterable[_Place]) -> dict[str, list[int]]:
    numbers: dict[str, list[int]] = {}
    for place in places:
        numbers.setdefault(place.batch_id, []).append(place.number)
    return numbers


def _count(connection: Connection, batch_id: str, completed: int, failed: int, usages: Sequence[BatchUsage]) -> None:
    """Adds to the counters of a batch. If no line is left, it is `finalizing`."""
    tokens = {name: sum(getattr(usage, name) for usage in usages) for name in BatchUsage.__struct_fields__}
    connection.execute(_COUNT, {"batch": batch_id, "completed": completed, "failed": failed, **tokens})
