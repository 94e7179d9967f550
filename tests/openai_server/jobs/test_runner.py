"""The runner with a scripted store, and time that only these tests move."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest

from openai_server.core.store_errors import StoreAway, Superseded
from openai_server.jobs import runner as module
from openai_server.jobs.lease import Lease
from openai_server.jobs.runner import Meter, NotNow, Runner
from openai_server.store.records import LEASE_SECONDS, Recovered, Run
from openai_server.telemetry.metrics import Metrics
from tests.wire.exposition import Scrape


def run(id: str, owner: str = "") -> Run:
    return Run(id=id, owner=owner, created_at=0, request=b"", attempt=1)


@dataclass
class ScriptedStore:
    queued: list[Run] = field(default_factory=list)
    superseded: set[str] = field(default_factory=set)
    """Ids that the next heartbeats return."""
    recovered: Recovered = field(default_factory=lambda: Recovered((), ()))
    is_away: bool = False
    calls: list[str] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def claim(self, n: int, resting: Collection[str]) -> Sequence[Run]:
        await self._called("claim")
        taken = [run for run in self.queued if run.owner not in resting][:n]
        self.queued = [run for run in self.queued if run not in taken]
        return taken

    async def beat(self, ids: Sequence[str]) -> Sequence[str]:
        await self._called("beat")
        return [id for id in ids if id in self.superseded]

    async def end_runner(self) -> Recovered:
        await self._called("end_runner")
        return Recovered((), ())

    async def recover(self, running: Collection[str]) -> Recovered:
        await self._called("recover")
        recovered, self.recovered = self.recovered, Recovered((), ())
        return recovered

    async def requeue(self, run: Run) -> None:
        await self._called(f"requeue {run.id}")
        self.queued.append(run)

    async def abandon(self, run: Run) -> None:
        await self._called(f"abandon {run.id}")

    async def _called(self, name: str) -> None:
        async with self.changed:
            self.calls.append(name)
            self.changed.notify_all()
        if self.is_away:
            raise StoreAway

    async def until(self, name: str, n: int = 1) -> None:
        """Waits for the n-th call from now on."""
        async with asyncio.timeout(10), self.changed:
            wanted = self.calls.count(name) + n
            await self.changed.wait_for(lambda: self.calls.count(name) >= wanted)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Work:
    """Runs until the test ends them."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[str] = asyncio.Queue()
        self.ended: asyncio.Queue[str] = asyncio.Queue()
        self.outcomes: dict[str, asyncio.Future[None]] = {}

    async def __call__(self, run: Run) -> None:
        outcome = self.outcomes[run.id] = asyncio.get_running_loop().create_future()
        self.begun.put_nowait(run.id)
        try:
            await outcome
        except asyncio.CancelledError:
            self.ended.put_nowait(run.id)
            raise

    async def next(self) -> str:
        return await asyncio.wait_for(self.begun.get(), 10)

    async def aborted(self) -> str:
        return await asyncio.wait_for(self.ended.get(), 10)


INTERVALS = (
    *("BEAT_SECONDS", "CLAIM_SECONDS"),
    *("RECOVER_SECONDS", "RETRY_SECONDS", "CLOSE_SECONDS"),
)


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "BEAT_SECONDS",
        "CLAIM_SECONDS",
        "RECOVER_SECONDS",
        "RETRY_SECONDS",
        "CLOSE_SECONDS",
    ):
        monkeypatch.setattr(module, name, 0.01)


@asynccontextmanager
async def running(
    store: ScriptedStore,
    work: Callable[[Run], Awaitable[None]],
    *,
    limit: int = 8,
    clock: Callable[[], float] | None = None,
    changed: Callable[[Sequence[str]], None] = lambda _: None,
    meter: Meter | None = None,
) -> AsyncIterator[Runner[Run]]:
    runner = Runner(store, work, limit=limit, name="responses", clock=clock or Clock(), changed=changed, meter=meter)
    task = asyncio.create_task(runner.run())
    try:
        yield runner
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_at_most_limit_runs_are_taken() -> None:
    store, work = ScriptedStore([run("a"), run("b"), run("c")]), Work()
    async with running(store, work, limit=2) as runner:
        assert [await work.next(), await work.next()] == ["a", "b"]
        await store.until("beat", 2)
        assert (work.begun.empty(), runner.has("a"), runner.has("c")) == (True, True, False)
        work.outcomes["a"].set_result(None)
        assert await work.next() == "c"
        assert not runner.has("a")


async def test_only_a_process_with_runs_sends_heartbeats() -> None:
    store, work, clock = ScriptedStore(), Work(), Clock()
    async with running(store, work, clock=clock):
        await store.until("claim", 5)
        await store.until("recover", 5)
        assert "beat" not in store.calls
        clock.now += 10 * LEASE_SECONDS
        store.queued.append(run("a"))
        await work.next()
        store.is_away = True  # the lease began with the claim
        await store.until("beat", 3)
        assert work.ended.empty()
        work.outcomes["a"].set_result(None)


async def test_a_new_run_is_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLAIM_SECONDS", 1000)
    store, work = ScriptedStore(), Work()
    async with running(store, work) as runner:
        await store.until("claim")
        store.queued.append(run("a"))
        runner.wake()
        assert await work.next() == "a"


async def test_a_run_that_was_cancelled_elsewhere_is_stopped() -> None:
    store, work = ScriptedStore([run("a"), run("b")]), Work()
    async with running(store, work) as runner:
        await work.next(), await work.next()
        store.superseded = {"a"}
        assert await work.aborted() == "a"
        assert runner.has("b")


async def test_a_run_that_is_cancelled_here_is_stopped_at_once() -> None:
    store, work = ScriptedStore([run("a")]), Work()
    async with running(store, work) as runner:
        await work.next()
        runner.stop("a")
        runner.stop("unknown")
        assert await work.aborted() == "a"


async def test_a_run_that_can_not_begin_is_queued_again_and_nothing_is_taken_meanwhile() -> None:
    store, work, clock = ScriptedStore([run("a")]), Work(), Clock()
    async with running(store, work, clock=clock):
        await work.next()
        work.outcomes["a"].set_exception(NotNow(0.05))
        await store.until("requeue a")
        store.queued.append(run("b"))
        await store.until("recover", 3)
        assert work.begun.empty()
        clock.now += 1
        assert await work.next() == "a"


async def test_few_runs_are_taken_after_some_that_could_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLAIM_SECONDS", 1000)
    ids = [str(number) for number in range(8)]
    store, work, clock = ScriptedStore([run(id) for id in ids]), Work(), Clock()
    async with running(store, work, clock=clock) as runner:
        for _ in ids:
            work.outcomes[await work.next()].set_exception(NotNow(0.01))
        await store.until("recover", 3)
        assert len(store.queued) == len(ids)
        for n_taken in (1, 2):
            clock.now += 1
            runner.wake()
            for _ in range(n_taken):
                await work.next()
            await store.until("recover", 3)
            assert work.begun.empty()


async def test_a_run_that_a_limit_of_its_owner_stops_does_not_hold_up_others() -> None:
    store, work, clock = ScriptedStore([run("a", "x")]), Work(), Clock()
    async with running(store, work, clock=clock):
        await work.next()
        work.outcomes["a"].set_exception(NotNow(60, is_owners=True))
        await store.until("requeue a")
        store.queued.append(run("b", "y"))
        assert await work.next() == "b"
        await store.until("claim", 2)
        assert work.begun.empty()
        clock.now += 61
        assert await work.next() == "a"


async def test_a_run_that_fails_unexpectedly_is_given_back(caplog: pytest.LogCaptureFixture) -> None:
    store, work = ScriptedStore([run("a")]), Work()
    async with running(store, work):
        await work.next()
        work.outcomes["a"].set_exception(ValueError("bug"))
        await store.until("abandon a")
    assert "a failed" in caplog.text


async def test_a_run_that_another_process_has_taken_is_left_alone() -> None:
    store, work = ScriptedStore([run("a")]), Work()
    async with running(store, work) as runner:
        await work.next()
        work.outcomes["a"].set_exception(Superseded())
        await store.until("claim")
        assert not runner.has("a")
    assert not {"requeue a", "abandon a"} & {*store.calls}


# ---- A store that is away


async def test_runs_go_on_until_the_lease_may_have_expired() -> None:
    store, work, clock = ScriptedStore([run("a")]), Work(), Clock()
    async with running(store, work, clock=clock) as runner:
        await work.next()
        store.is_away = True
        clock.now += LEASE_SECONDS - 0.5
        await store.until("beat", 3)
        assert runner.has("a")
        clock.now += 1
        assert await work.aborted() == "a"
        store.queued.append(run("b"))
        store.is_away = False
        await store.until("end_runner")
        assert await work.next() == "b"
    names = [call for call in store.calls if call in ("end_runner", "claim")]
    assert names[-1] == "claim"


async def test_a_process_that_slept_checks_the_store_before_it_stops_anything() -> None:
    store, work, clock = ScriptedStore([run("a"), run("b")]), Work(), Clock()
    async with running(store, work, clock=clock) as runner:
        await work.next(), await work.next()
        store.superseded = {"a"}
        clock.now += 10 * LEASE_SECONDS
        assert await work.aborted() == "a"
        assert runner.has("b")
    assert "end_runner" not in store.calls


async def test_a_run_is_given_back_when_the_store_is_there_again() -> None:
    store, work = ScriptedStore([run("a")]), Work()
    async with running(store, work):
        await work.next()
        store.is_away = True
        work.outcomes["a"].set_exception(NotNow(0))
        await store.until("requeue a", 2)
        store.is_away = False
        assert await work.next() == "a"


# ---- Other processes


async def test_responses_of_a_process_that_ended_are_taken() -> None:
    store, work = ScriptedStore(), Work()
    changed: list[str] = []
    async with running(store, work, changed=changed.extend):
        await store.until("recover")
        store.queued.append(run("a"))
        store.recovered = Recovered(("a",), ("b",))
        assert await work.next() == "a"
        await store.until("recover")
    assert changed == ["a", "b"]


async def test_runs_and_recovered_responses_are_counted() -> None:
    store, work, metrics = ScriptedStore([run("a"), run("b")]), Work(), Metrics()
    async with running(store, work, meter=metrics.store.background):
        await work.next(), await work.next()
        assert Scrape(metrics.text()).value("openai_server_background_running") == 2
        store.recovered = Recovered((), ("c", "d"))
        work.outcomes["a"].set_result(None)
        await store.until("recover", 2)
    scrape = Scrape(metrics.text())
    assert scrape.value("openai_server_background_running") == 1
    assert scrape.value("openai_server_store_recovered_total", outcome="failed") == 2
    assert scrape.value("openai_server_store_recovered_total", outcome="requeued") == 0


# ---- The end


async def test_runs_may_end_while_the_process_drains() -> None:
    store, work = ScriptedStore([run("a")]), Work()
    async with running(store, work) as runner:
        await work.next()
        runner.drain()
        store.queued.append(run("b"))
        await store.until("beat", 2)
        closing = asyncio.create_task(runner.close(lambda: 1000))
        await store.until("beat")
        work.outcomes["a"].set_result(None)
        await closing
    assert store.calls.count("end_runner") == 1
    assert (work.begun.empty(), work.ended.empty()) == (True, True)


async def test_runs_that_do_not_end_in_time_are_given_back() -> None:
    store, work = ScriptedStore([run("a")]), Work()
    async with running(store, work) as runner:
        await work.next()
        left = iter([1.0, 0.5, 0.0])
        await runner.close(lambda: next(left))
        assert await work.aborted() == "a"
    assert store.calls.count("end_runner") == 1


def test_a_lease_lasts_from_the_beginning_of_its_last_heartbeat() -> None:
    lease = Lease(10, now=0)
    lease.renew(4)
    lease.renew(3)
    assert (lease.left(13), lease.left(14), lease.left(15)) == (1, 0, -1)
