"""The choice of a server for a request, retries, and name resolution, with fake servers and names."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest

from openai_server.backends import pool as pool_module
from openai_server.backends.calls import Backend
from openai_server.backends.pool import EVERY_ADDRESS, GRACE, Address, Listener, Member, Pool, load
from openai_server.core.errors import BackendError
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest
from tests.openai_server.backends.fakes import FakeBackend, away, call_of, pool_of

QUEUE_FULL = {contract.ERROR_REASON: contract.REASON_QUEUE_FULL}


def request(model: str = "m") -> ModelInferRequest:
    return ModelInferRequest(model_name=model)


class Events(Listener):
    """Records the events of members, by their targets."""

    def __init__(self) -> None:
        self.queue = asyncio.Queue[tuple[str, ...]]()
        self.failures: list[tuple[str, str, str]] = []

    def joined(self, member: Member) -> None:
        self.queue.put_nowait(("joined", member.address.target))

    def left(self, member: Member) -> None:
        self.queue.put_nowait(("left", member.address.target))

    def ready(self, member: Member) -> None:
        self.queue.put_nowait(("ready", member.address.target))

    def lost(self, member: Member) -> None:
        self.queue.put_nowait(("lost", member.address.target))

    def failed(self, member: Member, model: str, error: BackendError) -> None:
        self.failures.append((member.address.target, model, error.status))

    async def next(self, kind: str) -> str:
        """Returns the target of the next event of a kind."""
        while (event := await self.queue.get())[0] != kind:
            pass
        return event[1]


@asynccontextmanager
async def watching(pool: Pool) -> AsyncIterator[Events]:
    pool.listener = events = Events()
    watch = asyncio.create_task(pool.watch())
    try:
        yield events
    finally:
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch


# ---- Choice of a server


@pytest.mark.parametrize(
    ("a_state", "b_state", "chosen"),
    [
        ((True, 0), (True, 0), "a:1"),
        ((True, 1), (True, 0), "b:1"),
        ((True, 9), (False, 0), "a:1"),
        ((False, 1), (False, 0), "b:1"),
    ],
    ids=["equal", "the one with fewer requests", "the usable one", "an unusable one rather than none"],
)
async def test_a_request_goes_to_the_usable_server_with_the_fewest_requests(
    a_state: tuple[bool, int], b_state: tuple[bool, int], chosen: str
) -> None:
    a, b = FakeBackend("a:1"), FakeBackend("b:1")
    a.usable, a.n_running = a_state
    b.usable, b.n_running = b_state
    pool = pool_of(a, b)
    assert (await pool.infer(request(), pool.members)).id == chosen


async def test_equal_servers_take_turns() -> None:
    pool = pool_of(*(FakeBackend(f"{name}:1") for name in "abc"))
    order = [(await pool.infer(request(), pool.members)).id for _ in range(6)]
    assert order == ["a:1", "b:1", "c:1"] * 2


async def test_a_request_goes_only_to_the_allowed_members() -> None:
    a, b = FakeBackend("a:1"), FakeBackend("b:1")
    pool = pool_of(a, b)
    await pool.infer(request(), [pool.members[1]])
    assert (len(a.requests), len(b.requests)) == (0, 1)
    assert load(pool.members[0]) < load(pool.members[1])


# ---- Failures


@pytest.mark.parametrize(
    ("status", "details", "is_doubted"),
    [("UNAVAILABLE", {}, 1), ("CANCELLED", {}, 1), ("NOT_FOUND", {}, 0), ("RESOURCE_EXHAUSTED", QUEUE_FULL, 0)],
)
async def test_an_error_of_the_server_is_retried_elsewhere(
    status: str, details: dict[str, str], is_doubted: int
) -> None:
    a, b = FakeBackend("a:1", BackendError(status, "no", details)), FakeBackend("b:1")
    pool = pool_of(a, b)
    pool.listener = events = Events()
    assert (await pool.infer(request(), pool.members)).id == "b:1"
    assert (a.n_doubts, b.n_doubts) == (is_doubted, 0)
    assert events.failures == [("a:1", "m", status)]


@pytest.mark.parametrize("status", ["INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "INTERNAL"])
async def test_an_error_that_may_be_the_requests_is_not_retried(status: str) -> None:
    a, b = FakeBackend("a:1", BackendError(status, "no")), FakeBackend("b:1")
    pool = pool_of(a, b)
    with pytest.raises(BackendError) as caught:
        await pool.infer(request(), pool.members)
    assert (caught.value.status, caught.value.tried) == (status, frozenset())
    assert not b.requests


async def test_each_server_is_tried_once_and_the_last_error_names_them_all() -> None:
    errors = [away(), away(), BackendError("UNAVAILABLE", "the last one")]
    backends = [FakeBackend(f"{name}:1", error) for name, error in zip("abc", errors, strict=True)]
    pool = pool_of(*backends)
    with pytest.raises(BackendError, match="the last one") as caught:
        await pool.infer(request(), pool.members)
    assert [len(backend.requests) for backend in backends] == [1, 1, 1]
    assert caught.value.tried == {(member, "m") for member in pool.members}


# ---- Streams


async def test_a_retried_stream_is_sent_without_its_request_number() -> None:
    a, b = FakeBackend("a:1"), FakeBackend("b:1")
    pool = pool_of(a, b)
    numbered = request()
    async with pool.stream([call_of(numbered)], pool.members, 60) as mailbox:
        numbered.parameters[contract.PARAM_REQUEST].int64_param = 7  # the shared stream sets it
        mailbox.fail(0, away())
        [again] = b.requests
        assert not again.parameters
        mailbox.put(0, b"x", "stop")
        mailbox.end(0, None)
        assert await mailbox.take() == [(0, b"x", "stop", ())]


async def test_a_stream_that_fails_everywhere_names_all_tried_servers() -> None:
    pool = pool_of(FakeBackend("a:1"), FakeBackend("b:1"))
    async with pool.stream([call_of(request())], pool.members, 60) as mailbox:
        mailbox.fail(0, away())
        mailbox.fail(0, away())
        with pytest.raises(BackendError) as caught:
            await mailbox.take()
    assert caught.value.tried == {(member, "m") for member in pool.members}


async def test_prompts_of_a_request_are_spread_and_retried_separately() -> None:
    a, b = FakeBackend("a:1"), FakeBackend("b:1")
    pool = pool_of(a, b)
    async with pool.stream([call_of(request("m")), call_of(request("m"))], pool.members, 60) as mailbox:
        assert (len(a.requests), len(b.requests)) == (1, 1)
        mailbox.fail(0, away())
        mailbox.fail(1, away())
        assert (len(a.requests), len(b.requests)) == (2, 2)


async def test_closing_a_stream_cancels_its_calls() -> None:
    a = FakeBackend()
    pool = pool_of(a)
    async with pool.stream([call_of(request()), call_of(request())], pool.members, 60) as mailbox:
        mailbox.end(0, None)
    assert a.n_cancelled == 1


# ---- Readiness


async def test_a_pool_is_ready_with_one_ready_server() -> None:
    a, b, c = FakeBackend("a:1"), FakeBackend("b:1"), FakeBackend("c:1")
    a.is_ready = False
    b.lookup_error = away()
    pool = pool_of(a, b, c)
    pool.listener = events = Events()
    assert await pool.ready("m", "", pool.members)
    assert events.failures == [("b:1", "m", "UNAVAILABLE")]
    assert (a.n_doubts, b.n_doubts) == (0, 1)
    c.is_ready = False
    assert not await pool.ready("m", "", pool.members)


async def test_a_silent_server_does_not_delay_a_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "READY_WAIT", 0)
    a, b = FakeBackend("a:1"), FakeBackend("b:1")
    a.may_answer.clear()
    pool = pool_of(a, b)
    assert await pool.ready("m", "", pool.members)


async def test_the_server_with_the_least_load_is_probed_first() -> None:
    a, b = FakeBackend("a:1"), FakeBackend("b:1")
    a.n_running = 1
    pool = pool_of(a, b)
    assert await pool.ready("m", "", pool.members)
    assert (a.lookups, b.lookups) == ([], ["m"])


# ---- Names


class Names:
    """A pool of one name and optional other endpoints. Tests put the results of its resolution with `put`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *others: str) -> None:
        monkeypatch.setattr(pool_module, "RESOLVE_INTERVAL", 0)
        self.answers = asyncio.Queue[list[str] | Exception]()
        self.opened: dict[str, FakeBackend] = {}
        self.pool = Pool([EVERY_ADDRESS + "name:1", *others], self._open, resolve=self._resolve)

    def _open(self, address: Address) -> Backend:
        backend = self.opened[address.target] = FakeBackend(address.target)
        return cast(Backend, backend)

    async def _resolve(self, endpoint: str) -> list[Address]:
        assert endpoint == "name:1"
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return [Address(target, "name") for target in answer]

    def put(self, *answers: list[str] | Exception) -> None:
        for answer in answers:
            self.answers.put_nowait(answer)

    @property
    def targets(self) -> list[str]:
        return [member.address.target for member in self.pool.members]


async def test_members_follow_the_addresses_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch)
    async with watching(names.pool) as events:
        names.put(["b:1", "a:1"])
        assert {await events.next("joined"), await events.next("joined")} == {"a:1", "b:1"}
        assert names.targets == ["a:1", "b:1"]
        stays = names.opened["b:1"]
        names.put(["b:1", "c:1"])
        assert await events.next("joined") == "c:1"
        assert await events.next("left") == "a:1"
        assert names.targets == ["b:1", "c:1"]
        await events.next("ready")
        assert names.opened["b:1"] is stays
        assert not stays.closed
        assert names.opened["a:1"].closed == [GRACE]
        assert not names.opened["a:1"].is_watched
        assert names.opened["c:1"].is_watched


@pytest.mark.parametrize("error", [OSError("no such name"), UnicodeError("no name")])
async def test_a_failed_resolution_keeps_the_addresses(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    names = Names(monkeypatch)
    async with watching(names.pool) as events:
        names.put(["a:1"], error, ["a:1", "b:1"])
        assert await events.next("joined") == "a:1"
        assert await events.next("joined") == "b:1"
        assert names.targets == ["a:1", "b:1"]
    assert not names.opened["a:1"].closed


async def test_a_request_waits_until_names_are_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch)
    assert list(names.pool.unresolved) == [0]
    async with watching(names.pool):
        waits = asyncio.create_task(names.pool.resolved(0))
        done, _ = await asyncio.wait([waits], timeout=0.001)
        assert not done  # without a known server, the time limit does not apply
        names.put(["a:1"])
        await waits
    assert not names.pool.unresolved


async def test_the_wait_for_names_is_limited_if_there_are_servers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = Names(monkeypatch, "other:1")
    async with watching(names.pool):
        await names.pool.resolved(0)
        assert not names.pool.unresolved
        await names.pool.resolved(60)  # the next request does not wait at all


async def test_a_name_without_addresses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch)
    async with watching(names.pool):
        names.put(OSError("no such name"))
        with pytest.raises(BackendError, match="no address") as caught:
            await names.pool.resolved(60)
    assert caught.value.status == "UNAVAILABLE"


# ---- Connections


async def test_the_listener_is_notified_of_usable_and_lost_members() -> None:
    a = FakeBackend()
    pool = pool_of(a)
    async with watching(pool) as events:
        assert await events.next("ready") == "a:1"
        a.lost_now()
        assert await events.next("lost") == "a:1"
    assert not a.is_watched


async def test_renewal_reopens_all_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    renew: list[Callable[[], None]] = []

    async def renewals(callback: Callable[[], None]) -> None:
        renew.append(callback)
        await asyncio.Event().wait()

    opened: list[Any] = []

    def open(address: Address) -> Backend:
        opened.append(FakeBackend(address.target))
        return cast(Backend, opened[-1])

    pool = Pool(["a:1", "b:1"], open, renewals=renewals)
    members = pool.members
    async with watching(pool) as events:
        for _ in range(2):
            await events.next("ready")
        [callback] = renew
        callback()
        for _ in range(2):
            await events.next("ready")
        assert pool.members == members
        assert [member.backend for member in pool.members] == opened[2:]
        assert [backend.closed for backend in opened] == [[GRACE], [GRACE], [], []]
        assert [backend.is_watched for backend in opened] == [False, False, True, True]


async def test_closing_the_pool_closes_all_backends() -> None:
    backends = [FakeBackend("a:1"), FakeBackend("b:1")]
    await pool_of(*backends).close()
    assert [backend.closed for backend in backends] == [[None], [None]]
