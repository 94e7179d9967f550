"""Batches and their lines in each kind of database, with two processes."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pytest

from openai_server.core.errors import InvalidRequest
from openai_server.core.file_errors import BatchNotFound, BatchQuotaExceeded, FileNotFound
from openai_server.core.store_errors import Superseded
from openai_server.store.batch_lines import MAX_DELETED, MAX_PAGE, MAX_PAGE_BYTES, BatchLines
from openai_server.store.batch_records import (
    MAX_LINE_ATTEMPTS,
    BatchLine,
    BatchStatus,
    BatchUsage,
    EndedLine,
    LineResult,
    LineRun,
    NewBatch,
    StoredBatch,
)
from openai_server.store.batch_store import BatchStore
from openai_server.store.batches import Batches
from openai_server.store.file_records import FilesRequest, NewFile, Part
from openai_server.store.records import LEASE_SECONDS, Recovered
from openai_server.store.store import Store, StoreSettings
from tests.openai_server.store.stores import execute, opened, rows, sweep

OWNER = "name a"
NOBODY = Recovered([], [])
DAY = 86400.0
MAX_BATCHES = 8
NUMBER = "batch_1/%d"


def new_batch(id: str = "batch_1", *, owner: str = OWNER, created_at: float = 1.0, **fields: Any) -> NewBatch:
    return NewBatch(
        **{
            "id": id,
            "owner": owner,
            "created_at": created_at,
            "endpoint": "/v1/completions",
            "input_file_id": f"file-{owner}",
            "completion_window": "24h",
            "deadline": time.time() + DAY,
            "metadata": b"null",
            "output_seconds": None,
            **fields,
        }
    )


@dataclass(frozen=True)
class Two:
    """Two processes with one database."""

    store: Store
    a: BatchStore
    b: BatchStore

    async def add_file(
        self, owner: str = OWNER, id: str = "", purpose: str = "batch", expires: float | None = None
    ) -> None:
        id = id or f"file-{owner}"
        await execute(
            self.store,
            "INSERT INTO files (id, owner, created_at, expires_at, filename, purpose, n_bytes) "
            "VALUES (:id, :owner, 1, :expires, 'name', :purpose, 9)",
            id=id,
            owner=owner,
            expires=expires,
            purpose=purpose,
        )
        await execute(
            self.store,
            "INSERT INTO file_parts (file_id, position, blob, n_bytes) "
            "VALUES (:id, 1, 'blob2', 4), (:id, 0, 'blob1', 5)",
            id=id,
        )

    async def begin(self, id: str = "batch_1", n: int = 3, *, owner: str = OWNER, **fields: Any) -> StoredBatch:
        """A batch in progress with `n` lines."""
        if not await execute(self.store, "SELECT 1 FROM files WHERE owner = :owner", owner=owner):
            await self.add_file(owner)
        await self.a.create(new_batch(id, owner=owner, **fields))
        batch = await taken(self.a)
        assert batch.id == id
        await self.a.add_lines(batch, lines(n))
        await self.a.begin(batch, n_lines=n, model="tiny")
        return await self.a.get(owner, id)

    async def silence(self, runner: str) -> None:
        """Makes a process' last heartbeat older than its lease."""
        await execute(
            self.store,
            "UPDATE runners SET seen_at = seen_at - :seconds WHERE id = :runner",
            seconds=1.5 * LEASE_SECONDS,
            runner=runner,
        )

    async def pass_deadline(self, id: str = "batch_1") -> None:
        await execute(self.store, "UPDATE batches SET deadline = 1 WHERE id = :id", id=id)

    async def status(self, id: str = "batch_1") -> BatchStatus:
        return (await self.a.get(OWNER, id)).status


def lines(n: int, start: int = 0) -> list[BatchLine]:
    return [BatchLine(number, f"custom {number}", 10 * number, 9) for number in range(start, start + n)]


def result(run: LineRun, *, is_error: bool = False, data: bytes = b"") -> LineResult:
    usage = BatchUsage(input=1, cached=2, output=3, reasoning=4)
    return LineResult(run=run, is_error=is_error, data=data or b"of %d" % run.line.number, usage=usage)


def output(batch: StoredBatch, id: str) -> NewFile:
    return NewFile(
        id=id,
        owner=batch.owner,
        created_at=5.0,
        expires_at=None,
        filename=f"{id}.jsonl",
        purpose="batch_output",
        parts=[Part(f"blob of {id}", 7)],
    )


async def taken(store: BatchStore, busy: Sequence[str] = ()) -> StoredBatch:
    batch = await store.take(busy)
    assert batch is not None
    return batch


async def errors_of(store: BatchStore, batch: StoredBatch) -> Sequence[EndedLine]:
    return await store.ended_lines(batch, -1, is_error=True)


async def claimed(store: BatchStore) -> LineRun:
    [run] = await store.claim(1)
    return run


def numbers(runs: Sequence[LineRun]) -> list[int]:
    return [run.line.number for run in runs]


@pytest.fixture
async def two(url: str) -> AsyncIterator[Two]:
    settings: dict[str, Any] = {"max_batches": MAX_BATCHES, "retention": 30 * DAY}
    async with opened(url, runner="a", **settings) as a:
        if url == "sqlite://":  # a second connection would be a second database
            b = Store(StoreSettings(url=url), runner="b")
            batches = Batches(runner="b", retention=30 * DAY, max_batches=MAX_BATCHES)
            b._link._parts = replace(a._link.parts, batches=batches, batch_lines=BatchLines(batches, runner="b"))
            yield Two(a, a.batches, b.batches)
            return
        async with opened(url, runner="b", **settings) as b:
            yield Two(a, a.batches, b.batches)


# ---- For the owner


async def test_a_batch_is_returned_as_it_was_created(two: Two) -> None:
    await two.add_file()
    new = new_batch(metadata=b'{"a": "b"}', output_seconds=3600.0)
    created = await two.a.create(new)
    assert created == StoredBatch(**msgspec.structs.asdict(new), status="validating")
    assert await two.b.get(OWNER, "batch_1") == created
    for owner, id in (("name b", "batch_1"), (OWNER, "batch_2"), (OWNER, "batch_\0")):
        with pytest.raises(BatchNotFound):
            await two.a.get(owner, id)
        with pytest.raises(BatchNotFound):
            await two.a.cancel(owner, id)


async def test_the_input_is_a_living_file_of_the_owner_for_batches(two: Two) -> None:
    await two.add_file("name b")
    await two.add_file(id="file-old", expires=1.0)
    await two.add_file(id="file-vision", purpose="vision")
    for file in ("file-name b", "file-old", "file-none", "file-\0"):
        with pytest.raises(FileNotFound) as missing:
            await two.a.create(new_batch(input_file_id=file))
        assert missing.value.param == "input_file_id"
    with pytest.raises(InvalidRequest) as raised:
        await two.a.create(new_batch(input_file_id="file-vision"))
    assert (raised.value.param, raised.value.code) == ("input_file_id", "invalid_file_purpose")


async def test_an_owner_has_a_limited_number_of_unfinished_batches(two: Two) -> None:
    await two.add_file()
    await two.add_file("name b")
    outcomes = await asyncio.gather(
        *(
            store.create(new_batch(f"batch_{i}{j}"))
            for i in range(MAX_BATCHES)
            for j, store in enumerate((two.a, two.b))
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(batch, StoredBatch) for batch in outcomes) == MAX_BATCHES
    assert sum(isinstance(batch, BatchQuotaExceeded) for batch in outcomes) == MAX_BATCHES
    await two.a.create(new_batch("batch_b", owner="name b"))
    batch = next(batch for batch in outcomes if isinstance(batch, StoredBatch))
    await two.a.cancel(OWNER, batch.id)
    await two.a.create(new_batch("batch_new"))


async def test_lists_are_in_the_order_of_ids_and_go_on_after_a_deleted_batch(two: Two) -> None:
    await two.add_file()
    await two.add_file("name b")
    await two.a.create(new_batch("batch_0", owner="name b"))
    for i in range(1, 6):
        await two.a.create(new_batch(f"batch_{i}"))

    async def page(**fields: Any) -> tuple[list[str], bool]:
        found = await two.b.list(OWNER, FilesRequest(**fields))
        return [batch.id.removeprefix("batch_") for batch in found.batches], found.has_more

    assert await page(limit=2) == (["5", "4"], True)
    assert await page(limit=2, after="batch_4") == (["3", "2"], True)
    assert await page(limit=2, after="batch_2") == (["1"], False)
    assert await page(limit=9, after="batch_35") == (["3", "2", "1"], False)
    assert await page(limit=2, order="asc", after="batch_3") == (["4", "5"], False)
    await page(limit=1, after="batch_\0")


# ---- Validation


async def test_a_batch_is_validated_by_one_process_at_a_time(two: Two) -> None:
    await two.add_file()
    await two.a.create(new_batch())
    batch = await taken(two.a)
    assert await two.b.take() is None
    assert await two.a.take([batch.id]) is None
    assert (await taken(two.a)).id == batch.id  # whose commit was not confirmed
    await two.a.add_lines(batch, lines(2))
    await two.silence("a")
    again = await taken(two.b)
    assert await two.b.clear_lines(again)
    assert not await two.b.clear_lines(again)
    with pytest.raises(Superseded):
        await two.a.clear_lines(batch)
    with pytest.raises(Superseded):
        await two.a.add_lines(batch, lines(2))
    with pytest.raises(Superseded):
        await two.a.begin(batch, n_lines=2, model=None)
    await two.b.add_lines(again, lines(1))
    await two.b.add_lines(again, lines(2))  # as if the commit had not been confirmed
    await two.b.begin(again, n_lines=2, model="tiny")
    begun = await two.a.get(OWNER, batch.id)
    assert (begun.status, begun.n_total, begun.model) == ("in_progress", 2, "tiny")
    assert abs((begun.times.in_progress or 0) - time.time()) < 60
    assert await two.b.take() is None


async def test_a_batch_with_errors_fails(two: Two) -> None:
    await two.add_file()
    await two.a.create(new_batch())
    batch = await taken(two.a)
    await two.a.add_lines(batch, lines(2))
    await two.a.fail(batch, b"[1]")
    failed = await two.a.get(OWNER, batch.id)
    assert (failed.status, failed.errors, failed.n_total) == ("failed", b"[1]", 0)
    assert failed.times.failed is not None
    assert await two.a.claim(9) == []
    with pytest.raises(Superseded):
        await two.a.fail(batch, b"[2]")
    with pytest.raises(InvalidRequest):
        await two.a.cancel(OWNER, batch.id)


async def test_cancelling_a_validation_ends_the_batch_at_once(two: Two) -> None:
    await two.add_file()
    await two.a.create(new_batch())
    batch = await taken(two.a)
    await two.a.add_lines(batch, lines(2))
    cancelled = await two.b.cancel(OWNER, batch.id)
    assert (cancelled.status, cancelled.n_total) == ("cancelled", 0)
    assert cancelled.times.cancelling == cancelled.times.cancelled is not None
    for end in (two.a.begin(batch, n_lines=2, model=None), two.a.fail(batch, b"[]"), two.a.add_lines(batch, lines(1))):
        with pytest.raises(Superseded):
            await end
    assert (await two.b.cancel(OWNER, batch.id)).status == "cancelled"
    await sweep(two.store)
    assert await rows(two.store, "batch_lines") == 0


# ---- Taking lines


async def test_lines_are_taken_once_and_in_order(two: Two) -> None:
    await two.begin("batch_2", 2, created_at=2.0)
    await two.begin("batch_1", 3, created_at=1.0)
    assert [run.id for run in await two.a.claim(4)] == ["batch_1/0", "batch_1/1", "batch_1/2", "batch_2/0"]
    assert [run.id for run in await two.b.claim(4)] == ["batch_2/1"]
    assert await two.b.claim(4) == await two.a.claim(4) == []


async def test_two_processes_take_each_line_once(two: Two) -> None:
    await two.begin(n=100)
    ids: list[str] = []
    while found := [run.id for runs in await asyncio.gather(two.a.claim(8), two.b.claim(8)) for run in runs]:
        ids += found
    assert sorted(ids) == sorted(NUMBER % number for number in range(100))


async def test_owners_with_few_running_lines_are_first_and_some_rest(two: Two) -> None:
    await two.begin("batch_a", 6)
    await two.begin("batch_b", 2, owner="name b", created_at=2.0)
    await two.begin("batch_c", 2, owner="name c", created_at=3.0)
    assert sorted(run.id for run in await two.a.claim(4)) == ["batch_a/0", "batch_a/1", "batch_b/0", "batch_c/0"]
    assert [run.id for run in await two.b.claim(9, ("name b", OWNER))] == ["batch_c/1"]
    assert [run.id for run in await two.b.claim(1)] == ["batch_b/1"]
    assert await two.b.claim(9, (OWNER,)) == []
    assert numbers(await two.b.claim(9)) == [2, 3, 4, 5]


async def test_a_line_has_what_it_needs(two: Two) -> None:
    await two.begin()
    assert await claimed(two.b) == LineRun(
        id="batch_1/0",
        owner=OWNER,
        batch_id="batch_1",
        endpoint="/v1/completions",
        line=BatchLine(0, "custom 0", 0, 9),
        attempt=1,
        input=[Part("blob1", 5), Part("blob2", 4)],
    )


async def test_a_heartbeat_finds_lines_that_are_no_longer_its_own(two: Two) -> None:
    await two.begin()
    own, other = await claimed(two.a), await claimed(two.b)
    assert await two.a.beat([own.id, other.id, "batch_9/1"]) == [other.id, "batch_9/1"]
    assert await two.b.beat([other.id]) == []
    await two.b.cancel(OWNER, "batch_1")
    assert await two.a.beat([own.id]) == [own.id]
    assert await two.b.beat([other.id]) == [other.id]


async def test_a_line_whose_process_ended_is_taken_again_and_fails_at_last(two: Two) -> None:
    await two.begin(n=2)
    ids = ["batch_1/0", "batch_1/1"]
    for attempt in range(1, MAX_LINE_ATTEMPTS + 1):
        runs = await two.a.claim(9)
        assert [(run.id, run.attempt) for run in runs] == [(id, attempt) for id in ids]
        assert await two.b.recover() == NOBODY
        await two.silence("a")
        recovered = await two.b.recover()
        expected = Recovered(ids, []) if attempt < MAX_LINE_ATTEMPTS else Recovered([], ids)
        assert recovered == expected
        assert set(await two.a.add_results([result(run) for run in runs])) == set(ids)
    batch = await taken(two.b)
    assert (batch.status, batch.ending, batch.n_completed, batch.n_failed) == ("finalizing", "completed", 0, 2)
    assert await errors_of(two.b, batch) == [EndedLine(n, f"custom {n}", True, None) for n in range(2)]


async def test_lines_without_a_task_are_recovered(two: Two) -> None:
    await two.begin(n=2)
    await two.a.claim(2)
    assert await two.a.recover(["batch_1/0", "batch_1/1"]) == NOBODY
    assert await two.a.recover(["batch_1/1"]) == Recovered(["batch_1/0"], [])
    assert (await claimed(two.b)).attempt == 2


async def test_a_process_gives_lines_back(two: Two) -> None:
    await two.begin(n=2)
    run = await claimed(two.a)
    await two.a.requeue(run)
    with pytest.raises(Superseded):
        await two.a.requeue(run)
    with pytest.raises(Superseded):
        await two.a.abandon(run)
    assert (await claimed(two.b)).attempt == 1
    for attempt in range(1, MAX_LINE_ATTEMPTS + 1):
        run = await claimed(two.a)
        assert (run.id, run.attempt) == ("batch_1/1", attempt)
        await two.a.abandon(run)
    assert (await two.a.get(OWNER, "batch_1")).n_failed == 1


async def test_a_process_that_ends_gives_everything_back(two: Two) -> None:
    await two.begin("batch_1", 2)
    await two.a.create(new_batch("batch_2"))
    await taken(two.a)
    await two.a.claim(2)
    assert await two.b.take() is None
    assert await two.a.end_runner() == Recovered(["batch_1/0", "batch_1/1"], [])
    assert [(run.line.number, run.attempt) for run in await two.b.claim(9)] == [(0, 1), (1, 1)]
    assert (await taken(two.b)).id == "batch_2"
    assert await two.a.end_runner() == NOBODY


# ---- How lines end


async def test_each_line_ends_once(two: Two) -> None:
    await two.begin(n=4)
    mine, others = await two.a.claim(2), await two.b.claim(1)
    own = [result(mine[0]), result(mine[1], is_error=True)]
    assert set(await two.a.add_results([*own, result(others[0])])) == {others[0].id}
    assert set(await two.a.add_results(own)) == {run.id for run in mine}  # as if the commit had not been confirmed
    batch = await two.a.get(OWNER, "batch_1")
    assert (batch.status, batch.n_completed, batch.n_failed) == ("in_progress", 1, 1)
    assert batch.usage == BatchUsage(input=2, cached=4, output=6, reasoning=8)
    assert await two.b.add_results([result(others[0])]) == set()
    assert await two.a.take() is None
    assert await two.a.add_results([result(await claimed(two.a))]) == set()
    batch = await taken(two.a)
    assert (batch.status, batch.ending, batch.n_completed, batch.n_failed) == ("finalizing", "completed", 3, 1)
    assert batch.times.finalizing is not None
    with pytest.raises(InvalidRequest):
        await two.a.cancel(OWNER, "batch_1")
    assert await errors_of(two.a, batch) == [EndedLine(1, "custom 1", True, b"of 1")]
    assert await two.a.ended_lines(batch, 0, is_error=False) == [
        EndedLine(2, "custom 2", True, b"of 2"),
        EndedLine(3, "custom 3", True, b"of 3"),
    ]
    assert await two.a.ended_lines(batch, 3, is_error=False) == []


async def test_results_of_several_batches_end_together(two: Two) -> None:
    await two.begin("batch_1", 1)
    await two.begin("batch_2", 1, owner="name b")
    assert await two.a.add_results([result(run) for run in await two.a.claim(2)]) == set()
    assert await two.status() == "finalizing"
    assert (await two.a.get("name b", "batch_2")).status == "finalizing"


async def test_a_repeated_attempt_ends_a_line_no_more(two: Two) -> None:
    await two.begin(n=1)
    first = await claimed(two.a)
    await two.silence("a")
    await two.b.recover()
    second = await claimed(two.a)
    assert set(await two.a.add_results([result(first)])) == {first.id}
    assert await two.a.add_results([result(second)]) == set()


async def test_lines_are_returned_in_parts_of_limited_size(two: Two) -> None:
    n = MAX_PAGE + 3
    await two.begin(n=n)
    large = [b"x" * (MAX_PAGE_BYTES // 2 + 1)] * 3
    runs = await two.a.claim(n)
    data = [*large, *[b"small"] * (n - 3)]
    await two.a.add_results([result(run, data=line) for run, line in zip(runs, data, strict=True)])
    batch, after, sizes, found = await taken(two.a), -1, list[int](), list[bytes | None]()
    while part := await two.a.ended_lines(batch, after, is_error=False):
        after = part[-1].number
        sizes.append(len(part))
        found += [line.data for line in part]
    assert found == data
    assert sizes[:2] == [1, 1]
    assert max(sizes) <= MAX_PAGE


# ---- How batches end


@pytest.mark.parametrize("status", ["cancelled", "expired"])
async def test_a_batch_ends_early(two: Two, status: str) -> None:
    await two.begin(n=4)
    done, running = await two.a.claim(1), await two.b.claim(2)
    await two.a.add_results([result(done[0])])
    if status == "cancelled":
        assert (await two.a.cancel(OWNER, "batch_1")).status == "cancelling"
        assert (await two.b.cancel(OWNER, "batch_1")).status == "cancelling"
    else:
        await two.pass_deadline()
    batch = await taken(two.a)
    assert (batch.status, batch.ending) == ("cancelling" if status == "cancelled" else "finalizing", status)
    assert set(await two.b.add_results([result(run) for run in running])) == {run.id for run in running}
    assert await two.b.claim(9) == []
    assert await two.b.recover() == NOBODY
    assert await two.b.beat([run.id for run in running]) == [run.id for run in running]
    assert await two.a.ended_lines(batch, -1, is_error=False) == [EndedLine(0, "custom 0", True, b"of 0")]
    assert await errors_of(two.a, batch) == [EndedLine(n, f"custom {n}", False, None) for n in range(1, 4)]
    final = await two.a.finish(batch, output(batch, "file-o"), output(batch, "file-e"))
    assert (final.status, final.n_total, final.n_completed, final.n_failed) == (status, 4, 1, 3)
    assert getattr(final.times, status) is not None
    assert final == await two.b.get(OWNER, "batch_1")


async def test_the_output_files_and_the_end_are_one(two: Two) -> None:
    await two.begin(n=1)
    await two.a.add_results([result(await claimed(two.a))])
    batch = await taken(two.a)
    assert await two.b.take() is None
    await two.silence("a")
    again = await taken(two.b)
    with pytest.raises(Superseded):
        await two.a.finish(batch, output(batch, "file-o"), None)
    final = await two.b.finish(again, output(again, "file-o"), None)
    assert (final.status, final.output_file_id, final.error_file_id) == ("completed", "file-o", None)
    with pytest.raises(Superseded):  # as if the commit had not been confirmed
        await two.b.finish(again, output(again, "file-2"), None)
    files = await execute(
        two.store, "SELECT id, owner, filename, purpose, n_bytes FROM files WHERE id <> 'file-name a'"
    )
    assert [tuple(row) for row in files] == [("file-o", OWNER, "file-o.jsonl", "batch_output", 7)]
    parts = await execute(two.store, "SELECT blob, n_bytes FROM file_parts WHERE file_id = 'file-o'")
    assert [tuple(row) for row in parts] == [("blob of file-o", 7)]
    [counted] = await execute(two.store, "SELECT n_files, n_file_bytes FROM owners WHERE owner = :owner", owner=OWNER)
    assert tuple(counted) == (1, 7)
    assert await two.a.take() is None


async def test_lines_of_ended_batches_are_deleted_in_small_transactions(two: Two) -> None:
    n = MAX_DELETED + 1
    await two.begin("batch_1", n)
    await two.begin("batch_2", 2)
    await two.a.cancel(OWNER, "batch_1")
    batch = await taken(two.a)
    await two.a.finish(batch, None, output(batch, "file-e"))
    assert await two.a.delete_lines(batch)
    assert await rows(two.store, "batch_lines") == 1 + 2
    await sweep(two.store)
    assert await rows(two.store, "batch_lines") == 2
    assert await two.a.get(OWNER, "batch_1")


async def test_a_batch_that_has_ended_is_deleted_after_the_retention(two: Two) -> None:
    await two.begin("batch_1", 2)
    await two.begin("batch_2", 2)
    await two.a.cancel(OWNER, "batch_1")
    batch = await taken(two.a)
    await two.a.finish(batch, None, output(batch, "file-e"))
    await execute(two.store, "UPDATE batches SET kept_until = kept_until - :seconds", seconds=30 * DAY - 60)
    await sweep(two.store)
    assert await rows(two.store, "batches") == 2
    await execute(two.store, "UPDATE batches SET kept_until = kept_until - :seconds", seconds=61)
    await sweep(two.store)
    with pytest.raises(BatchNotFound):
        await two.a.get(OWNER, "batch_1")
    assert (await rows(two.store, "batches"), await rows(two.store, "batch_lines")) == (1, 2)


async def test_batches_are_kept_forever_without_a_retention(url: str) -> None:
    async with opened(url, retention=0) as store:
        two = Two(store, store.batches, store.batches)
        await two.add_file()
        await store.batches.create(new_batch())
        await store.batches.cancel(OWNER, "batch_1")
        assert [row.kept_until for row in await execute(store, "SELECT kept_until FROM batches")] == [None]
