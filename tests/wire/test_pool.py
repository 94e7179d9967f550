"""Several backends: which one gets a request, what happens to the request if it dies, and when a backend is left
out."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from openai_server.backends import pool
from openai_server.backends.calls import Backend
from openai_server.backends.pool import Address, Pool
from openai_server.core.errors import BackendError
from protos import contract, tensors
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from scripts.ports import free_port, refusing_port
from tests.openai_server.backends.fakes import call_of
from tests.wire.fake_worker import (
    PROMPT_TASKS,
    FakeWorker,
    Refusal,
    echo,
    hangs,
    hangs_midway,
    last_token,
    refuses,
    serving,
    streams,
    token,
)
from tests.wire.sidecar import Sidecar, app_for

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"

pytestmark = pytest.mark.usefixtures("both_kinds_of_stream")


@asynccontextmanager
async def sidecar_for(*workers: FakeWorker | int, **config: Any) -> AsyncIterator[Sidecar]:
    """Yields a sidecar that has found all of these backends; a number is a port on which nothing listens."""
    async with AsyncExitStack() as stack:
        ports = [
            worker if isinstance(worker, int) else await stack.enter_async_context(serving(worker))
            for worker in workers
        ]
        endpoints = tuple(f"127.0.0.1:{port}" for port in ports)
        sidecar = await stack.enter_async_context(app_for(0, anyserve_endpoint=endpoints, **config))
        await wait_for_usable(sidecar, sum(isinstance(worker, FakeWorker) for worker in workers))
        yield sidecar


async def wait_for_usable(sidecar: Sidecar, n: int) -> None:
    """Waits until `n` backends get requests for the model."""

    def n_usable() -> int:
        models = sidecar.app.services.catalog._directory.known("tiny")
        return sum(member.backend.usable for model in models for member in model.members)

    async with asyncio.timeout(10):
        while n_usable() != n:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def backends(sidecar: Sidecar) -> list[Backend]:
    return [member.backend for member in sidecar.app.services.pool.members]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_backend_with_the_fewest_requests_gets_the_next(stream: bool) -> None:
    workers = [FakeWorker(hangs, hangs_midway) for _ in range(3)]
    async with sidecar_for(*workers) as sidecar:
        calls = []
        for _ in range(6):
            calls.append(sidecar.start("POST", "/v1/completions", {"prompt": "x", "stream": stream}))
            await wait_for_a_request(workers)
        assert [len(worker.requests) for worker in workers] == [2, 2, 2]
        for backend in backends(sidecar):
            assert backend.n_running == 2
        for call in calls:
            call.disconnect()
            await asyncio.wait_for(call.task, 10)
        async with asyncio.timeout(10):
            while any(backend.n_running for backend in backends(sidecar)):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_turns_of_a_chat_go_to_one_backend(stream: bool) -> None:
    workers = [FakeWorker(parameters={"chat_template": TEMPLATE}) for _ in range(3)]
    async with sidecar_for(*workers) as sidecar:
        for number in range(6):
            counts = [len(worker.requests) for worker in workers]
            messages = [{"role": "system", "content": "You help. " * 80}]
            for turn in range(4):
                messages += [{"role": "user", "content": f"{number} {turn} " * 80}]
                assert (await sidecar.chat(*messages, stream=stream)).status == 200
                messages += [{"role": "assistant", "content": "Yes. " * 80}]
            growth = sorted(len(worker.requests) - before for worker, before in zip(workers, counts, strict=True))
            assert growth == [0, 0, 4]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_beginning_that_many_send_is_no_reason_to_wait(stream: bool) -> None:
    workers = [FakeWorker(hangs, hangs_midway) for _ in range(3)]
    async with sidecar_for(*workers) as sidecar:
        calls = []
        for _ in range(9):
            calls.append(sidecar.start("POST", "/v1/completions", {"prompt": "hot " * 200, "stream": stream}))
            await wait_for_a_request(workers)
        assert min(len(worker.requests) for worker in workers) >= 2
        assert max(len(worker.requests) for worker in workers) <= 4
        for call in calls:
            call.disconnect()
            await asyncio.wait_for(call.task, 10)


async def test_without_affinity_backends_take_turns() -> None:
    workers = [FakeWorker() for _ in range(3)]
    async with sidecar_for(*workers, prefix_affinity=False) as sidecar:
        for _ in range(6):
            assert (await sidecar.complete(prompt="the same " * 100)).status == 200
    assert [len(worker.requests) for worker in workers] == [2, 2, 2]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_its_usual_backend_refuses_goes_to_another(stream: bool) -> None:
    is_full = [False]
    refusal = Refusal("RESOURCE_EXHAUSTED", "full", reason="queue_full")

    async def infer(request: ModelInferRequest) -> ModelInferResponse:
        if is_full[0]:
            raise refusal
        return await echo(request)

    async def answer(request: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        if is_full[0]:
            raise refusal
        yield last_token("yes")

    workers = [FakeWorker(infer, answer), FakeWorker(infer, answer)]
    async with sidecar_for(*workers) as sidecar:
        for _ in range(3):
            assert (await sidecar.complete(prompt="the same " * 100, stream=stream)).status == 200
        assert sorted(len(worker.requests) for worker in workers) == [0, 3]
        is_full[0] = True
        assert (await sidecar.complete(prompt="the same " * 100, stream=stream)).status == 429
    assert sorted(len(worker.requests) for worker in workers) == [1, 4]


async def test_embeddings_and_tokens_take_turns_whatever_their_text() -> None:
    inputs = {spec.name for task in PROMPT_TASKS.values() for spec in task.inputs}
    workers = [FakeWorker(inputs=inputs, parameters={"tasks": ",".join(PROMPT_TASKS)}) for _ in range(2)]
    async with sidecar_for(*workers) as sidecar:
        for _ in range(4):
            await sidecar.send("POST", "/v1/embeddings", {"input": "the same " * 100})
        assert [len(worker.requests) for worker in workers] == [2, 2]
        for _ in range(4):
            await sidecar.send("POST", "/tokenize", {"prompt": "the same " * 100})
    assert [len(worker.requests) for worker in workers] == [4, 4]


async def wait_for_a_request(workers: list[FakeWorker]) -> None:
    """Waits for one request at any of the workers."""
    tasks = [asyncio.create_task(worker.arrived.get()) for worker in workers]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=10)
    for task in tasks:
        task.cancel()


@pytest.mark.parametrize("stream", [False, True])
async def test_backends_take_turns_and_a_dead_one_gets_nothing(stream: bool) -> None:
    workers = [FakeWorker(), FakeWorker()]
    with refusing_port() as dead:
        async with sidecar_for(workers[0], dead, workers[1]) as sidecar:
            for _ in range(6):
                assert (await sidecar.complete(prompt="x", stream=stream)).status == 200
    assert [len(worker.requests) for worker in workers] == [3, 3]


async def test_a_backend_that_is_dead_from_the_start_is_skipped() -> None:
    with refusing_port() as dead:
        async with (
            serving(FakeWorker()) as port,
            app_for(0, anyserve_endpoint=(f"127.0.0.1:{dead}", f"127.0.0.1:{port}")) as sidecar,
        ):
            assert (await sidecar.complete(prompt="x")).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_without_a_token_moves_to_another_backend(stream: bool) -> None:
    async def silent(_: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        await asyncio.Event().wait()
        yield token("")

    async with AsyncExitStack() as first:
        dying, replacement = FakeWorker(hangs, silent), FakeWorker()
        ports = [await first.enter_async_context(serving(dying)), free_port()]
        async with app_for(0, anyserve_endpoint=tuple(f"127.0.0.1:{port}" for port in ports)) as sidecar:
            await wait_for_usable(sidecar, 1)
            call = sidecar.start("POST", "/v1/completions", {"prompt": "x", "stream": stream})
            await asyncio.wait_for(dying.arrived.get(), 10)
            async with serving(replacement, ports[1]):
                await wait_for_usable(sidecar, 2)
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
            await wait_for_usable(sidecar, 2)
            call = sidecar.start("POST", "/v1/completions", {"prompt": "x", "stream": True})
            await call.until(b"one")
            await (first if workers[0].requests else second).aclose()
            await asyncio.wait_for(call.task, 10)
    assert call.reply.events[-1]["error"]["code"] == "backend_unavailable"
    assert sum(len(worker.requests) for worker in workers) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("refusal", "status", "n_tried"),
    [
        (Refusal("UNAVAILABLE", "away"), 503, 3),
        (Refusal("RESOURCE_EXHAUSTED", "full", reason="queue_full"), 429, 3),
        (Refusal("RESOURCE_EXHAUSTED", "too large"), 429, 1),
        (Refusal("INVALID_ARGUMENT", "nonsense"), 400, 1),
        (Refusal("INTERNAL", "broken"), 500, 1),
    ],
    ids=lambda value: value.status + value.reason if isinstance(value, Refusal) else "",
)
async def test_each_backend_gets_the_request_once_unless_the_request_is_at_fault(
    refusal: Refusal, status: int, n_tried: int, stream: bool
) -> None:
    workers = [FakeWorker(refuses(refusal), streams(fails=refusal)) for _ in range(3)]
    async with sidecar_for(*workers) as sidecar:
        assert (await sidecar.complete(prompt="x", stream=stream)).status == status
    counts = Counter(len(worker.requests) for worker in workers)
    assert counts == Counter({1: n_tried}) + Counter({0: 3 - n_tried})


async def test_a_single_backend_gets_the_request_once() -> None:
    refusal = Refusal("UNAVAILABLE", "away")
    worker = FakeWorker(refuses(refusal), streams(fails=refusal))
    async with sidecar_for(worker) as sidecar:
        for stream in (False, True):
            assert (await sidecar.complete(prompt="x", stream=stream)).status == 503
    assert len(worker.requests) == 2


async def test_a_backend_that_refuses_is_left_out_until_it_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai_server.backends.calls.READY_INTERVAL", 0.01)
    accepts = [True]

    async def infer(request: ModelInferRequest) -> ModelInferResponse:
        if not accepts[0]:
            raise Refusal("UNAVAILABLE", "draining", reason="draining")
        return await echo(request)

    draining, other = FakeWorker(infer), FakeWorker()
    async with sidecar_for(draining, other) as sidecar:
        accepts[0] = draining.ready = False
        for _ in range(6):
            assert (await sidecar.complete(prompt="x")).status == 200
        assert len(draining.requests) == 1
        assert (await sidecar.get("/readyz")).status == 200
        accepts[0] = draining.ready = True
        await wait_for_usable(sidecar, 2)
        for _ in range(4):
            assert (await sidecar.complete(prompt="x")).status == 200
    assert len(draining.requests) == 3


async def test_a_name_stands_for_all_of_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "RESOLVE_INTERVAL", 0.01)
    workers = [FakeWorker(), FakeWorker()]
    async with serving(workers[0]) as first_port, serving(workers[1]) as second_port:
        addresses = [Address(f"127.0.0.1:{port}", "workers") for port in (first_port, second_port)]
        resolved: list[Address] = []

        async def resolve(name: str) -> list[Address]:
            assert name == "workers:1"
            if not resolved:
                raise OSError("no such name")
            return list(resolved)

        def open(address: Address) -> Backend:
            return Backend(address.target, timeout=10, lookup_timeout=5, name=address.name)

        backend_pool = Pool(["dns:///workers:1"], open, resolve=resolve)
        watching = asyncio.create_task(backend_pool.watch())
        for current in (addresses[:1], addresses, addresses[1:], []):
            resolved[:] = current
            expected_targets = {
                address.target for address in current or addresses[1:]
            }  # a failed lookup changes nothing
            async with asyncio.timeout(10):
                while usable_targets(backend_pool) != expected_targets:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            counts_before = [len(worker.requests) for worker in workers]
            for _ in range(2):
                await backend_pool.infer(
                    ModelInferRequest(model_name="tiny", id="x", inputs=_prompt()), backend_pool.members
                )
            counts = [len(worker.requests) - before for worker, before in zip(workers, counts_before, strict=True)]
            assert (
                counts
                == {1: [2, 0] if addresses[0].target in expected_targets else [0, 2], 2: [1, 1]}[len(expected_targets)]
            )
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await backend_pool.close()


def usable_targets(backend_pool: Pool) -> set[str]:
    return {member.backend.target for member in backend_pool.members if member.backend.usable}


def _prompt() -> list[ModelInferRequest.InferInputTensor]:
    request = ModelInferRequest()
    tensors.add_input(request, contract.PROMPT, [b"x"])
    return list(request.inputs)


async def test_a_stream_continues_while_its_backend_is_opened_anew() -> None:
    may_end = asyncio.Event()

    async def slow(_: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        yield token("one")
        await may_end.wait()
        yield last_token("two")

    worker = FakeWorker(stream=slow)
    async with sidecar_for(worker) as sidecar:
        call = sidecar.start("POST", "/v1/completions", {"prompt": "x", "stream": True})
        await asyncio.wait_for(call.until(b"one"), 10)
        [earlier] = backends(sidecar)
        sidecar.app.services.pool.renew()
        assert (await sidecar.complete(prompt="x")).status == 200
        await wait_for_usable(sidecar, 1)
        assert backends(sidecar) != [earlier]
        may_end.set()
        await asyncio.wait_for(call.task, 10)
        assert "".join(event["choices"][0]["text"] for event in call.reply.events) == "onetwo"
        assert (await sidecar.complete(prompt="x", stream=True)).status == 200


async def test_an_impossible_name_is_a_503() -> None:
    async with app_for(0, anyserve_endpoint=("dns:///a..b:80",)) as sidecar:
        assert (await sidecar.complete(prompt="x")).status == 503


async def test_a_name_without_addresses_is_a_503() -> None:
    async with app_for(0, anyserve_endpoint=("dns:///name.invalid:1",)) as sidecar:
        reply = await asyncio.wait_for(sidecar.complete(prompt="x"), 30)
    assert (reply.status, reply.error["code"]) == (503, "backend_unavailable")


async def test_localhost_resolves_to_its_addresses() -> None:
    assert Address("127.0.0.1:8000", "127.0.0.1") in await pool.resolve("127.0.0.1:8000")
    assert await pool.resolve("[::1]:8000") == [Address("[::1]:8000", "::1")]


@pytest.mark.slow
async def test_requests_that_wait_for_a_silent_backend_fail_when_it_is_opened_anew() -> None:
    """They wait for one shared lookup, and those that didn't start it fail as well."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        backend_pool = Pool(
            [f"127.0.0.1:{port}"], lambda address: Backend(address.target, timeout=60, lookup_timeout=60)
        )

        async def take_first() -> None:
            async with backend_pool.stream(
                [call_of(ModelInferRequest(model_name="m"))], backend_pool.members, 60
            ) as mailbox:
                await mailbox.take()

        requests = [asyncio.create_task(take_first()) for _ in range(3)]
        await asyncio.sleep(0.2)
        backend_pool.renew()
        for request in requests:
            with pytest.raises(BackendError) as caught:
                await asyncio.wait_for(request, 30)
            assert caught.value.status == "UNAVAILABLE"
        await backend_pool.close()
