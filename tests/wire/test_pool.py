"""Several backends: who gets a request, what becomes of it when that one dies, and who is left out until when."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from openai_server.backends import pool
from openai_server.backends.calls import Backend
from openai_server.backends.pool import Address, Pool
from openai_server.core.errors import BackendError
from protos import contract, tensors
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from scripts.ports import free_port
from tests.wire.fake_worker import FakeWorker, Refusal, echo, hangs, hangs_midway, last, refuses, says, serving, token
from tests.wire.sidecar import Sidecar, app_for

pytestmark = pytest.mark.usefixtures("both_kinds_of_stream")


@asynccontextmanager
async def before(*workers: FakeWorker | int) -> AsyncIterator[Sidecar]:
    """A sidecar that has found all of these; a number is a port where nobody listens."""
    async with AsyncExitStack() as stack:
        ports = [one if isinstance(one, int) else await stack.enter_async_context(serving(one)) for one in workers]
        endpoints = tuple(f"127.0.0.1:{port}" for port in ports)
        sidecar = await stack.enter_async_context(app_for(0, anyserve_endpoint=endpoints))
        await usable(sidecar, sum(isinstance(one, FakeWorker) for one in workers))
        yield sidecar


async def usable(sidecar: Sidecar, n: int) -> None:
    """Waits until so many get requests for the model."""

    def n_usable() -> int:
        models = sidecar.app.services.catalog._directory.known("tiny")
        return sum(member.backend.usable for model in models for member in model.members)

    async with asyncio.timeout(10):
        while n_usable() != n:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def backends(sidecar: Sidecar) -> list[Backend]:
    return [member.backend for member in sidecar.app.services.pool.members]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_one_with_the_fewest_requests_gets_the_next(stream: bool) -> None:
    workers = [FakeWorker(hangs, hangs_midway) for _ in range(3)]
    async with before(*workers) as sidecar:
        calls = []
        for _ in range(6):
            calls.append(sidecar.start("POST", "/v1/completions", {"prompt": "x", "stream": stream}))
            await arrived(workers)
        assert [len(worker.requests) for worker in workers] == [2, 2, 2]
        for backend in backends(sidecar):
            assert backend.n_running == 2
        for call in calls:
            call.disconnect()
            await asyncio.wait_for(call.task, 10)
        async with asyncio.timeout(10):
            while any(backend.n_running for backend in backends(sidecar)):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def arrived(workers: list[FakeWorker]) -> None:
    """Waits for one request at any of them."""
    tasks = [asyncio.create_task(worker.arrived.get()) for worker in workers]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=10)
    for task in tasks:
        task.cancel()


@pytest.mark.parametrize("stream", [False, True])
async def test_they_take_turns_and_nobody_asks_the_dead(stream: bool) -> None:
    workers = [FakeWorker(), FakeWorker()]
    async with before(workers[0], free_port(), workers[1]) as sidecar:
        for _ in range(6):
            assert (await sidecar.complete(prompt="x", stream=stream)).status == 200
    assert [len(worker.requests) for worker in workers] == [3, 3]


async def test_a_backend_that_is_dead_from_the_start() -> None:
    async with (
        serving(FakeWorker()) as port,
        app_for(0, anyserve_endpoint=(f"127.0.0.1:{free_port()}", f"127.0.0.1:{port}")) as sidecar,
    ):
        assert (await sidecar.complete(prompt="x")).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_without_a_token_goes_to_another(stream: bool) -> None:
    async def silent(_: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        await asyncio.Event().wait()
        yield token("")

    async with AsyncExitStack() as first:
        dying, other = FakeWorker(hangs, silent), FakeWorker()
        ports = [await first.enter_async_context(serving(dying)), free_port()]
        async with app_for(0, anyserve_endpoint=tuple(f"127.0.0.1:{port}" for port in ports)) as sidecar:
            await usable(sidecar, 1)
            call = sidecar.start("POST", "/v1/completions", {"prompt": "x", "stream": stream})
            await asyncio.wait_for(dying.arrived.get(), 10)
            async with serving(other, ports[1]):
                await usable(sidecar, 2)
                await first.aclose()
                await asyncio.wait_for(call.task, 10)
    assert call.reply.status == 200
    assert b'"text":"x"' in call.reply.body
    assert b"error" not in call.reply.body


async def test_a_request_with_a_token_ends_with_an_error() -> None:
    async with AsyncExitStack() as first, AsyncExitStack() as second:
        workers = [FakeWorker(stream=hangs_midway) for _ in range(2)]
        ports = [
            await stack.enter_async_context(serving(worker))
            for stack, worker in zip((first, second), workers, strict=True)
        ]
        async with app_for(0, anyserve_endpoint=tuple(f"127.0.0.1:{port}" for port in ports)) as sidecar:
            await usable(sidecar, 2)
            call = sidecar.start("POST", "/v1/completions", {"prompt": "x", "stream": True})
            await call.until(b"one")
            await (first if workers[0].requests else second).aclose()
            await asyncio.wait_for(call.task, 10)
    assert call.reply.events[-1]["error"]["code"] == "backend_unavailable"
    assert sum(len(worker.requests) for worker in workers) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("refusal", "status", "n_asked"),
    [
        (Refusal("UNAVAILABLE", "away"), 503, 3),
        (Refusal("RESOURCE_EXHAUSTED", "full", reason="queue_full"), 429, 3),
        (Refusal("RESOURCE_EXHAUSTED", "too large"), 429, 1),
        (Refusal("INVALID_ARGUMENT", "nonsense"), 400, 1),
        (Refusal("INTERNAL", "broken"), 500, 1),
    ],
    ids=lambda value: value.status + value.reason if isinstance(value, Refusal) else "",
)
async def test_each_is_asked_once_and_only_if_the_request_is_not_at_fault(
    refusal: Refusal, status: int, n_asked: int, stream: bool
) -> None:
    workers = [FakeWorker(refuses(refusal), says(fails=refusal)) for _ in range(3)]
    async with before(*workers) as sidecar:
        assert (await sidecar.complete(prompt="x", stream=stream)).status == status
    asked = Counter(len(worker.requests) for worker in workers)
    assert asked == Counter({1: n_asked}) + Counter({0: 3 - n_asked})


async def test_a_single_backend_is_asked_once() -> None:
    refusal = Refusal("UNAVAILABLE", "away")
    worker = FakeWorker(refuses(refusal), says(fails=refusal))
    async with before(worker) as sidecar:
        for stream in (False, True):
            assert (await sidecar.complete(prompt="x", stream=stream)).status == 503
    assert len(worker.requests) == 2


async def test_who_refuses_is_left_out_until_it_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai_server.backends.calls.READY_INTERVAL", 0.01)
    here = [True]

    async def infer(request: ModelInferRequest) -> ModelInferResponse:
        if not here[0]:
            raise Refusal("UNAVAILABLE", "draining", reason="draining")
        return await echo(request)

    leaving, other = FakeWorker(infer), FakeWorker()
    async with before(leaving, other) as sidecar:
        here[0] = leaving.ready = False
        for _ in range(6):
            assert (await sidecar.complete(prompt="x")).status == 200
        assert len(leaving.requests) == 1
        assert (await sidecar.get("/readyz")).status == 200
        here[0] = leaving.ready = True
        await usable(sidecar, 2)
        for _ in range(4):
            assert (await sidecar.complete(prompt="x")).status == 200
    assert len(leaving.requests) == 3


async def test_a_name_stands_for_all_of_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "RESOLVE_INTERVAL", 0.01)
    workers = [FakeWorker(), FakeWorker()]
    async with serving(workers[0]) as one, serving(workers[1]) as two:
        addresses = [Address(f"127.0.0.1:{port}", "workers") for port in (one, two)]
        known: list[Address] = []

        async def resolve(name: str) -> list[Address]:
            assert name == "workers:1"
            if not known:
                raise OSError("no such name")
            return list(known)

        def open(address: Address) -> Backend:
            return Backend(address.target, timeout=10, lookup_timeout=5, name=address.name)

        made = Pool(["dns:///workers:1"], open, resolve=resolve)
        watching = asyncio.create_task(made.watch())
        for now in (addresses[:1], addresses, addresses[1:], []):
            known[:] = now
            wanted = {address.target for address in now or addresses[1:]}  # without an answer all stays as it was
            async with asyncio.timeout(10):
                while {one.backend.target for one in made.members if one.backend.usable} != wanted:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            asked = [len(worker.requests) for worker in workers]
            for _ in range(2):
                await made.infer(ModelInferRequest(model_name="tiny", id="x", inputs=_prompt()), made.members)
            got = [len(worker.requests) - before for worker, before in zip(workers, asked, strict=True)]
            assert got == {1: [2, 0] if addresses[0].target in wanted else [0, 2], 2: [1, 1]}[len(wanted)]
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await made.close()


def _prompt() -> list[ModelInferRequest.InferInputTensor]:
    request = ModelInferRequest()
    tensors.add_input(request, contract.PROMPT, [b"x"])
    return list(request.inputs)


async def test_opened_anew_while_one_is_answered() -> None:
    may_end = asyncio.Event()

    async def slow(_: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        yield token("one")
        await may_end.wait()
        yield last("two")

    worker = FakeWorker(stream=slow)
    async with before(worker) as sidecar:
        call = sidecar.start("POST", "/v1/completions", {"prompt": "x", "stream": True})
        await asyncio.wait_for(call.until(b"one"), 10)
        [was] = backends(sidecar)
        sidecar.app.services.pool.renew()
        assert (await sidecar.complete(prompt="x")).status == 200
        await usable(sidecar, 1)
        assert backends(sidecar) != [was]
        may_end.set()
        await asyncio.wait_for(call.task, 10)
        assert "".join(event["choices"][0]["text"] for event in call.reply.events) == "onetwo"
        assert (await sidecar.complete(prompt="x", stream=True)).status == 200


async def test_what_can_be_no_name_is_503() -> None:
    async with app_for(0, anyserve_endpoint=("dns:///a..b:80",)) as sidecar:
        assert (await sidecar.complete(prompt="x")).status == 503


async def test_a_name_without_addresses_is_503() -> None:
    async with app_for(0, anyserve_endpoint=("dns:///name.invalid:1",)) as sidecar:
        reply = await asyncio.wait_for(sidecar.complete(prompt="x"), 30)
    assert (reply.status, reply.error["code"]) == (503, "backend_unavailable")


async def test_localhost_resolves() -> None:
    assert Address("127.0.0.1:8000", "127.0.0.1") in await pool.resolve("127.0.0.1:8000")
    assert await pool.resolve("[::1]:8000") == [Address("[::1]:8000", "::1")]


async def test_opened_anew_while_requests_wait_for_a_backend_that_says_nothing() -> None:
    """They wait for the answer to one question, and those who did not ask it are told as well."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        made = Pool([f"127.0.0.1:{port}"], lambda address: Backend(address.target, timeout=60, lookup_timeout=60))

        async def ask() -> None:
            async with made.stream([ModelInferRequest(model_name="m")], made.members, 1, 60) as mailbox:
                await mailbox.take()

        asked = [asyncio.create_task(ask()) for _ in range(3)]
        await asyncio.sleep(0.2)
        made.renew()
        for one in asked:
            with pytest.raises(BackendError) as caught:
                await asyncio.wait_for(one, 30)
            assert caught.value.status == "UNAVAILABLE"
        await made.close()
