"""Background runs in each kind of database, with two runners."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection, event, select, update

from openai_server.core.errors import InvalidRequest
from openai_server.core.store_errors import ResponseNotFound, Superseded
from openai_server.store.records import (
    LEASE_SECONDS,
    MAX_ATTEMPTS,
    NOTHING,
    Base,
    Ending,
    EventBatch,
    Item,
    NewResponse,
    PageRequest,
    Recovered,
    Run,
    Status,
)
from openai_server.store.runs import MAX_BATCH_BYTES, MAX_BATCHES, MAX_RECOVERED, Runs
from openai_server.store.store import Store, StoreSettings
from openai_server.store.tables import now, owners, runners
from tests.openai_server.store.stores import opened

OWNER = "name a"
NOBODY = Recovered([], [])


@dataclass(frozen=True)
class Two:
    """Two processes with one database."""

    a: Store
    b: Store

    async def queue(
        self, id: str = "resp_1", created_at: float = 1.0, base: Base = NOTHING, owner: str = OWNER
    ) -> None:
        response = msgspec.structs.replace(new_response(id, created_at, base), owner=owner)
        await self.a.queue(response, b'{"request": 1}')

    async def silence(self, runner: str) -> None:
        """Makes a runner's last heartbeat older than its lease."""

        def age(connection: Connection) -> None:
            connection.execute(
                update(runners).where(runners.c.id == runner).values(seen_at=now() - 1.5 * LEASE_SECONDS)
            )

        await self.a._link.parts.database.write(age)

    async def n_bytes(self) -> int:
        def count(connection: Connection) -> int:
            return int(connection.scalar(select(owners.c.n_bytes).where(owners.c.owner == OWNER)) or 0)

        return await self.a._link.parts.database.read(count)


def new_response(id: str, created_at: float, base: Base = NOTHING) -> NewResponse:
    return NewResponse(
        id=id,
        owner=OWNER,
        created_at=created_at,
        model="tiny",
        body=json.dumps({"id": id, "status": "queued", "error": None, "output": []}).encode(),
        base=base,
        input=(Item(f"msg_{id}", b'{"type": "message"}'),),
    )


def ended(status: Status = "completed") -> Ending:
    return Ending(status=status, body=b'{"end": true}', output=(Item("msg_out", b'{"text": "yes"}'),))


def batches(*numbers: int) -> list[EventBatch]:
    return [EventBatch(number, b"events %d\n" % number) for number in numbers]


@pytest.fixture
async def two(url: str) -> AsyncIterator[Two]:
    async with opened(url, runner="a") as a:
        if url == "sqlite://":  # a second connection would be a second database
            b = Store(StoreSettings(url=url), runner="b")
            parts = a._link.parts
            b._link._parts = replace(parts, runs=Runs(parts.responses, None, runner="b", retention=None))
            yield Two(a, b)
            return
        async with opened(url, runner="b") as b:
            yield Two(a, b)


async def claimed(store: Store) -> Run:
    [run] = await store.claim(1)
    return run


# ---- Taking runs


async def test_queued_responses_are_taken_once_and_oldest_first(two: Two) -> None:
    for i in range(5):
        await two.queue(f"resp_{i}", created_at=10.0 - i)
    assert [run.id for run in await two.a.claim(2)] == ["resp_4", "resp_3"]
    taken: list[str] = []
    while found := [run.id for runs in await asyncio.gather(two.a.claim(2), two.b.claim(2)) for run in runs]:
        taken += found
    assert sorted(taken) == ["resp_0", "resp_1", "resp_2"]


async def test_owners_with_few_runs_are_first_and_some_rest(two: Two) -> None:
    for i in range(4):
        await two.queue(f"resp_a{i}", created_at=float(i))
    for owner in ("name b", "name c"):
        await two.queue(f"resp_{owner[-1]}", created_at=9.0, owner=owner)
    assert [run.id for run in await two.a.claim(2)] == ["resp_a0", "resp_b"]
    assert [run.id for run in await two.b.claim(2, ("name b", OWNER))] == ["resp_c"]
    assert await two.b.claim(2, ("name b", OWNER)) == []
    assert [run.id for run in await two.b.claim(9)] == ["resp_a1", "resp_a2", "resp_a3"]


async def test_a_run_has_what_it_needs(two: Two) -> None:
    await two.a.create_conversation(OWNER, "conv_1", 1.0, b"{}", ())
    await two.queue(base=Base(conversation_id="conv_1"))
    assert await claimed(two.b) == Run(
        id="resp_1",
        owner=OWNER,
        created_at=1.0,
        request=b'{"request": 1}',
        attempt=1,
        base=Base(conversation_id="conv_1"),
    )
    assert (await two.a.response(OWNER, "resp_1")).status == "in_progress"


async def test_a_heartbeat_finds_runs_that_are_lost(two: Two) -> None:
    for i in range(3):
        await two.queue(f"resp_{i}")
    await two.a.claim(3)
    assert await two.a.beat(["resp_0", "resp_1", "resp_2"]) == []
    await two.b.cancel(OWNER, "resp_0")
    await two.b.delete_response(OWNER, "resp_2")
    assert await two.a.beat(["resp_0", "resp_1", "resp_2"]) == ["resp_0", "resp_2"]
    assert await two.b.beat(["resp_1"]) == ["resp_1"]


async def test_a_run_that_is_given_back_has_no_attempt_less(two: Two) -> None:
    await two.queue()
    for _ in range(MAX_ATTEMPTS + 1):
        run = await claimed(two.a)
        assert run.attempt == 1
        await two.a.requeue(run)
        assert (await two.a.response(OWNER, "resp_1")).status == "queued"
    with pytest.raises(Superseded):
        await two.a.requeue(run)


# ---- Events


async def test_events_are_read_in_order_and_once(two: Two) -> None:
    await two.queue()
    before = await two.b.progress(OWNER, "resp_1", 0, -1)
    assert (before.response.status, before.attempt, before.batches) == ("queued", 0, [])
    run = await claimed(two.a)
    await two.a.add_events(run, batches(0, 1))
    await two.a.add_events(run, batches(1, 2))  # as after a commit that wasn't confirmed
    progress = await two.b.progress(OWNER, "resp_1", 0, -1)
    assert (progress.response.status, progress.attempt, progress.batches) == ("in_progress", 1, batches(0, 1, 2))
    assert (await two.b.progress(OWNER, "resp_1", 1, 1)).batches == batches(2)
    assert (await two.b.progress(OWNER, "resp_1", 1, 2)).batches == []


async def test_many_events_are_read_in_parts(two: Two) -> None:
    await two.queue()
    run = await claimed(two.a)
    everything = batches(*range(MAX_BATCHES + 2))
    await two.a.add_events(run, everything)
    assert (await two.a.progress(OWNER, "resp_1", 0, -1)).batches == everything[:MAX_BATCHES]
    assert (await two.a.progress(OWNER, "resp_1", 1, MAX_BATCHES - 1)).batches == everything[MAX_BATCHES:]


async def test_large_batches_are_returned_in_parts(two: Two) -> None:
    await two.queue()
    run = await claimed(two.a)
    sizes = [MAX_BATCH_BYTES + 1, 10, MAX_BATCH_BYTES // 2, MAX_BATCH_BYTES // 2, 1]
    everything = [EventBatch(n, b"x" * size) for n, size in enumerate(sizes)]
    await two.a.add_events(run, everything)
    parts: list[list[int]] = []
    number = -1
    while part := (await two.b.progress(OWNER, "resp_1", 1, number)).batches:
        assert part == everything[number + 1 : part[-1].number + 1]
        parts.append([batch.number for batch in part])
        number = part[-1].number
    assert parts == [[0], [1, 2], [3, 4]]


async def test_a_run_ends_with_its_last_events_and_its_output(two: Two) -> None:
    await two.queue()
    run = await claimed(two.a)
    await two.a.add_events(run, batches(0))
    await two.a.finish_run(run, ended(), conversation_end=None, batches=batches(1))
    response = await two.b.response(OWNER, "resp_1")
    assert (response.status, response.body, response.output) == ("completed", b'{"end": true}', [*ended().output])
    assert response.is_background
    assert (await two.b.progress(OWNER, "resp_1", 1, -1)).batches == batches(0, 1)
    with pytest.raises(Superseded):
        await two.a.finish_run(run, ended(), conversation_end=None, batches=())
    assert [item.id for item in (await two.a.input_items(OWNER, "resp_1", PageRequest())).items] == ["msg_resp_1"]


@pytest.mark.parametrize(("status", "n_items"), [("completed", 2), ("incomplete", 2), ("failed", 0)])
async def test_the_items_are_appended_to_the_conversation_once(two: Two, status: Status, n_items: int) -> None:
    await two.a.create_conversation(OWNER, "conv_1", 1.0, b"{}", ())
    await two.queue(base=Base(conversation_id="conv_1"))
    run = await claimed(two.a)
    await two.a.finish_run(run, ended(status), conversation_end=0, batches=())
    page = await two.b.items(OWNER, "conv_1", PageRequest(order="asc"))
    assert [item.id for item in page.items] == ["msg_resp_1", "msg_out"][:n_items]


async def test_events_and_requests_are_counted_until_they_are_deleted(two: Two) -> None:
    before = await two.n_bytes()
    await two.queue()
    queued = await two.n_bytes()
    run = await claimed(two.a)
    await two.a.add_events(run, batches(0, 1))
    assert await two.n_bytes() == queued + 2 * len("events 0\n")
    await two.a.abandon(run)
    assert await two.n_bytes() == queued
    run = await claimed(two.a)
    await two.a.finish_run(run, ended(), conversation_end=None, batches=batches(0))
    expected = len(b'{"end": true}') + len("events 0\n") + len(b'{"type": "message"}') + len(b'{"text": "yes"}')
    assert await two.n_bytes() == before + expected
    await two.a.delete_response(OWNER, "resp_1")
    assert await two.n_bytes() == before


# ---- A runner that ends


async def test_a_run_of_a_dead_runner_runs_again_until_its_last_attempt(two: Two) -> None:
    await two.queue()
    for attempt in range(1, MAX_ATTEMPTS):
        run = await claimed(two.a)
        assert run.attempt == attempt
        await two.a.add_events(run, batches(0))
        assert await two.b.recover() == NOBODY
        await two.silence("a")
        assert await two.b.recover() == Recovered(["resp_1"], [])
        assert (await two.b.progress(OWNER, "resp_1", attempt, -1)).batches == []
    await claimed(two.a)
    await two.silence("a")
    assert await two.b.recover() == Recovered([], ["resp_1"])
    response = await two.b.response(OWNER, "resp_1")
    assert response.status == "failed"
    body = json.loads(response.body)
    assert (body["status"], body["error"]["code"], body["id"]) == ("failed", "server_error", "resp_1")


async def test_a_run_that_a_client_has_seen_fails_with_its_events(two: Two) -> None:
    await two.queue()
    run = await claimed(two.a)
    await two.a.add_events(run, batches(0))
    assert await two.b.deliver(OWNER, "resp_1", 1)
    await two.silence("a")
    assert await two.b.recover() == Recovered([], ["resp_1"])
    progress = await two.b.progress(OWNER, "resp_1", 0, -1)
    assert (progress.response.status, progress.batches) == ("failed", batches(0))


async def test_a_foreground_response_of_a_dead_runner_fails(two: Two) -> None:
    await two.a.beat([])
    await two.a.begin(new_response("resp_f", 1.0))
    assert await two.b.recover() == NOBODY
    await two.silence("a")
    assert await two.b.recover() == Recovered([], ["resp_f"])
    with pytest.raises(Superseded):
        await two.a.finish(new_response("resp_f", 1.0), ended(), has_begun=True)


async def test_a_runner_that_comes_back_after_a_takeover_changes_nothing(two: Two) -> None:
    await two.queue()
    old = await claimed(two.a)
    await two.silence("a")
    await two.b.recover()
    new = await claimed(two.b)
    assert await two.a.beat(["resp_1"]) == ["resp_1"]
    for write in (
        two.a.add_events(old, batches(0)),
        two.a.finish_run(old, ended("failed"), conversation_end=None, batches=()),
        two.a.requeue(old),
        two.a.abandon(old),
    ):
        with pytest.raises(Superseded):
            await write
    assert not await two.b.deliver(OWNER, "resp_1", old.attempt)
    await two.b.finish_run(new, ended(), conversation_end=None, batches=batches(0))
    assert (await two.a.response(OWNER, "resp_1")).status == "completed"
    assert (await two.a.progress(OWNER, "resp_1", old.attempt, 5)).batches == batches(0)


async def test_the_same_runner_can_not_write_for_its_earlier_attempt(two: Two) -> None:
    await two.queue()
    old = await claimed(two.a)
    await two.a.abandon(old)
    await claimed(two.a)
    with pytest.raises(Superseded):
        await two.a.add_events(old, batches(0))


async def test_a_runner_that_ends_gives_its_runs_back_at_once(two: Two) -> None:
    await two.queue("resp_1", created_at=1.0)
    await two.queue("resp_2", created_at=2.0)
    await two.a.claim(2)
    await two.a.deliver(OWNER, "resp_2", 1)
    assert await two.a.end_runner() == Recovered(["resp_1"], ["resp_2"])
    assert (await claimed(two.b)).attempt == 2


async def test_two_processes_recover_each_response_once(two: Two) -> None:
    ids = [f"resp_{i:03}" for i in range(MAX_RECOVERED + 8)]
    for id in ids:
        await two.queue(id)
    await two.a.claim(len(ids))
    await two.silence("a")
    recovered: list[str] = []
    while found := [r for both in await asyncio.gather(two.a.recover(ids), two.b.recover()) for r in both.requeued]:
        recovered += found
    assert sorted(recovered) == ids


# ---- Clients


async def test_a_response_is_cancelled_once(two: Two) -> None:
    await two.queue()
    run = await claimed(two.a)
    await two.a.add_events(run, batches(0))
    cancelled = await two.b.cancel(OWNER, "resp_1")
    assert (cancelled.status, json.loads(cancelled.body)["status"]) == ("cancelled", "cancelled")
    assert await two.b.cancel(OWNER, "resp_1") == cancelled
    with pytest.raises(Superseded):
        await two.a.finish_run(run, ended(), conversation_end=None, batches=())
    assert await two.b.claim(1) == []
    assert (await two.b.progress(OWNER, "resp_1", 1, -1)).batches == batches(0)


async def test_a_response_that_has_ended_stays_as_it_is(two: Two) -> None:
    await two.queue()
    await two.a.finish_run(await claimed(two.a), ended(), conversation_end=None, batches=())
    assert (await two.a.cancel(OWNER, "resp_1")).status == "completed"


async def test_a_queued_response_can_be_cancelled(two: Two) -> None:
    await two.queue()
    assert (await two.a.cancel(OWNER, "resp_1")).status == "cancelled"
    assert await two.a.claim(1) == []


async def test_only_background_responses_can_be_cancelled(two: Two) -> None:
    await two.a.begin(new_response("resp_f", 1.0))
    with pytest.raises(InvalidRequest):
        await two.a.cancel(OWNER, "resp_f")


async def test_events_can_be_delivered_only_of_the_current_attempt(two: Two) -> None:
    await two.queue()
    assert not await two.b.deliver(OWNER, "resp_1", 0)
    run = await claimed(two.a)
    await two.a.abandon(run)
    assert not await two.b.deliver(OWNER, "resp_1", 1)
    await claimed(two.a)
    assert not await two.b.deliver(OWNER, "resp_1", 1)
    assert await two.b.deliver(OWNER, "resp_1", 2)


async def test_a_response_of_another_owner_does_not_exist(two: Two) -> None:
    await two.queue()
    await claimed(two.a)
    for call in (two.a.progress("name b", "resp_1", 0, -1), two.a.cancel("name b", "resp_1")):
        with pytest.raises(ResponseNotFound):
            await call
    assert not await two.a.deliver("name b", "resp_1", 1)


async def test_a_deleted_response_can_not_be_followed_or_written(two: Two) -> None:
    await two.queue()
    run = await claimed(two.a)
    await two.b.delete_response(OWNER, "resp_1")
    with pytest.raises(ResponseNotFound):
        await two.b.progress(OWNER, "resp_1", 1, -1)
    with pytest.raises(Superseded):
        await two.a.add_events(run, batches(0))


async def test_responses_that_a_process_does_not_work_on_are_recovered(two: Two) -> None:
    """The store may commit a transaction without confirming it: then the process has no task for the response."""
    await two.a.queue(new_response("resp_1", 1.0), b"{}")
    await two.a.queue(new_response("resp_2", 2.0), b"{}")
    await two.a.begin(new_response("resp_3", 3.0))
    assert [run.id for run in await two.a.claim(2)] == ["resp_1", "resp_2"]
    assert await two.a.recover(["resp_1", "resp_2"]) == NOBODY
    assert await two.a.recover(["resp_2"]) == Recovered(["resp_1"], [])
    two.a._begun.clear()
    assert await two.a.recover(["resp_2"]) == Recovered([], ["resp_3"])
    assert await two.a.recover(["resp_2"]) == NOBODY


async def test_a_response_that_was_begun_or_has_ended_is_not_recovered(two: Two) -> None:
    await two.a.begin(new_response("resp_1", 1.0))
    await two.a.begin(new_response("resp_2", 2.0))
    await two.a.finish(new_response("resp_1", 1.0), ended(), has_begun=True)
    await two.a.delete_response(OWNER, "resp_2")
    assert await two.a.recover() == NOBODY
    assert not two.a._begun


# ---- Speed


async def test_no_transaction_of_a_runner_reads_all_responses() -> None:
    """Thousands of responses that have ended cost nothing."""
    plans: list[str] = []

    def explained(connection: Connection) -> None:
        def explain(_: Any, cursor: Any, statement: str, parameters: Any, *__: object) -> None:
            if not statement.startswith(("SELECT", "UPDATE", "DELETE", "WITH")):
                return
            raw = connection.connection.cursor()
            raw.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.extend(row[3] for row in raw.fetchall())

        event.listen(connection, "before_cursor_execute", explain)
        runs = store._link.parts.runs
        [run] = runs.claim(connection, 4, ())
        runs.beat(connection, ["resp_1"])
        runs.add_events(connection, run, batches(0))
        runs.deliver(connection, OWNER, "resp_1", 1)
        runs.progress(connection, OWNER, "resp_1", 0, -1)
        runs.recover(connection, runs.own(connection))
        runs.end_runner(connection)
        event.remove(connection, "before_cursor_execute", explain)

    async with opened("sqlite://", runner="a") as store:
        await store.queue(new_response("resp_1", 1.0), b"{}")
        await store._link.parts.database.write(explained)
    assert any("responses_by_status" in plan for plan in plans)
    assert not [plan for plan in plans if plan.startswith(("SCAN responses", "SCAN events"))]
