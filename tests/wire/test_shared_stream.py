"""The sidecar keeps one stream to a worker that offers step batches: which requests share it, and what a break does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from openai_server.backends import calls as backend
from openai_server.backends.shared_stream import SharedStream
from openai_server.core.answer import Answer
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.anyserve_worker.fakes import WAIT_TIMEOUT, FakeRunner, Gate
from tests.wire.fake_worker import FakeWorker, hangs, hangs_midway, inputs_of, last_token, serving, token
from tests.wire.sidecar import Reply, Sidecar, app_for, running
from tests.wire.worker import Worker, worker


def text(reply: Reply) -> str:
    return "".join(choice["text"] for event in reply.events for choice in event["choices"])


async def stream_completion(sidecar: Sidecar, prompt: str, **body: object) -> Reply:
    return await sidecar.complete(prompt=prompt, stream=True, max_tokens=50, **body)


async def wait_for_n_requests(worker: Worker, n_requests: int) -> None:
    async with asyncio.timeout(WAIT_TIMEOUT):
        while worker.n_requests != n_requests:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


# ---- Sidecar and worker together, on a scripted model


async def test_all_requests_share_one_stream() -> None:
    fake = FakeWorker(step_batches=True)
    async with running(fake) as sidecar:
        replies = await asyncio.gather(*(stream_completion(sidecar, f"a b {i}") for i in range(20)))
        await stream_completion(sidecar, "x")
    assert [text(reply) for reply in replies] == [f"ab{i}" for i in range(20)]
    assert fake.n_streams == 1
    assert fake.lookups.count("ServerMetadata") == 1


async def test_a_backend_without_step_batches_is_detected_with_one_call() -> None:
    for fake in (FakeWorker(step_batches=False), FakeWorker(step_batches=False, unimplemented=["ServerMetadata"])):
        async with running(fake) as sidecar:
            for _ in range(3):
                assert text(await stream_completion(sidecar, "a b")) == "ab"
        assert fake.n_streams == 3
        assert fake.lookups.count("ServerMetadata") == 1


async def test_two_sidecars_share_a_worker() -> None:
    runner = FakeRunner({f"{i} é": f"answer é {i}".encode() for i in range(12)})
    async with worker({"tiny": runner}) as served, app_for(served.port) as first, app_for(served.port) as second:
        replies = await asyncio.gather(*(stream_completion((first, second)[i % 2], f"{i} é", n=2) for i in range(12)))
        refused = await stream_completion(first, "x" * 200)
        usage_reply = await first.complete(prompt=["0 é", "1 é"], stream=True, stream_options={"include_usage": True})
    for i, reply in enumerate(replies):
        texts = ["".join(c["text"] for e in reply.events for c in e["choices"] if c["index"] == k) for k in (0, 1)]
        assert texts == [f"answer é {i}"] * 2
    assert (refused.status, refused.error["code"]) == (400, "context_length_exceeded")
    assert usage_reply.events[-1]["usage"]["prompt_tokens"] == 8


async def test_a_client_that_disconnects_frees_its_slot() -> None:
    gate = Gate()
    async with worker({"tiny": FakeRunner({"q": b"abc"}, gate=gate)}) as served, app_for(served.port) as sidecar:
        calls = [sidecar.start("POST", "/v1/completions", {"prompt": "q", "stream": True}) for _ in range(3)]
        await wait_for_n_requests(served, 3)
        calls[1].disconnect()
        await wait_for_n_requests(served, 2)
        gate.open()
        for call in (calls[0], calls[2]):
            await call.task
            assert text(call.reply) == "abc"
        await calls[1].task


async def test_a_worker_that_restarts_between_requests_is_found() -> None:
    async with AsyncExitStack() as first:
        served = await first.enter_async_context(worker({"tiny": FakeRunner({"q": b"first"})}))
        async with app_for(served.port) as sidecar:
            assert text(await stream_completion(sidecar, "q")) == "first"
            await first.aclose()
            async with worker({"tiny": FakeRunner({"q": b"second"})}, port=served.port), asyncio.timeout(30):
                while (reply := await stream_completion(sidecar, "q")).status != 200:
                    assert (reply.status, reply.error["code"]) == (503, "backend_unavailable")
                    await asyncio.sleep(0.05)
                assert text(reply) == "second"


async def test_a_draining_worker_finishes_its_requests() -> None:
    gate = Gate()
    async with worker({"tiny": FakeRunner({"q": b"abc"}, gate=gate)}) as served, app_for(served.port) as sidecar:
        call = sidecar.start("POST", "/v1/completions", {"prompt": "q", "stream": True})
        await wait_for_n_requests(served, 1)
        served.servicer.drain()
        refused = await stream_completion(sidecar, "q")
        assert (refused.status, refused.error["code"], refused.headers["retry-after"]) == (503, "draining", "1")
        gate.open()
        await call.task
        async with asyncio.timeout(WAIT_TIMEOUT):
            await served.servicer.wait_until_drained()
    assert text(call.reply) == "abc"


# ---- Whole responses use the shared stream, too


@pytest.fixture
def shared_requests(monkeypatch: pytest.MonkeyPatch) -> list[ModelInferRequest]:
    """Records the requests for whole responses that are sent on a shared stream."""
    requests: list[ModelInferRequest] = []
    answer = SharedStream.answer

    async def recorded(stream: SharedStream, request: ModelInferRequest, n: int) -> Answer:
        requests.append(request)
        return await answer(stream, request, n)

    monkeypatch.setattr(SharedStream, "answer", recorded)
    return requests


async def whole(sidecar: Sidecar, prompt: str, **body: object) -> Reply:
    return await sidecar.complete(prompt=prompt, max_tokens=50, **body)


async def test_a_whole_response_on_the_shared_stream_is_the_same(shared_requests: list[ModelInferRequest]) -> None:
    runner = FakeRunner({"q": b"an answer", "r": b"another"})
    async with worker({"tiny": runner}) as served, app_for(served.port) as sidecar:
        first = await whole(sidecar, "q", n=2)
        assert not shared_requests  # the stream isn't open yet
        await stream_completion(sidecar, "q")
        second = await whole(sidecar, "q", n=2, user="x")
        assert len(shared_requests) == 1
        refused = await whole(sidecar, "x" * 200)
        assert len(shared_requests) == 2
        assert (await whole(sidecar, "r", logprobs=1)).json["choices"][0]["logprobs"]["tokens"]
        assert len(shared_requests) == 2
    for key in ("choices", "usage", "model"):
        assert first.json[key] == second.json[key]
    assert first.json["choices"][1]["text"] == "an answer"
    assert (refused.status, refused.error["code"], refused.error["param"]) == (400, "context_length_exceeded", "prompt")


async def test_a_client_that_disconnects_frees_the_slot_of_its_whole_response(
    shared_requests: list[ModelInferRequest],
) -> None:
    gate = Gate()
    runner = FakeRunner({"q": b"abc"}, gate=gate)
    async with worker({"tiny": runner}) as served, app_for(served.port) as sidecar:
        gate.open()
        await stream_completion(sidecar, "q")
        gate.close()
        call = sidecar.start("POST", "/v1/completions", {"prompt": "q"})
        await wait_for_n_requests(served, 1)
        assert shared_requests
        call.disconnect()
        await wait_for_n_requests(served, 0)
        gate.open()
        await call.task


async def test_a_draining_worker_refuses_requests_for_whole_responses(shared_requests: list[ModelInferRequest]) -> None:
    async with worker({"tiny": FakeRunner({"q": b"abc"})}) as served, app_for(served.port) as sidecar:
        await stream_completion(sidecar, "q")
        served.servicer.drain()
        refused = await whole(sidecar, "q")
        assert shared_requests
        assert (refused.status, refused.error["code"], refused.headers["retry-after"]) == (503, "draining", "1")


# ---- With a fake worker


async def test_running_streams_fail_if_the_backend_goes_away() -> None:
    async with AsyncExitStack() as first:
        port = await first.enter_async_context(serving(fake := FakeWorker(stream=hangs_midway, step_batches=True)))
        async with app_for(port) as sidecar:
            midway = sidecar.start("POST", "/v1/completions", {"prompt": "x", "stream": True})
            await midway.until(b"one")
            whole = sidecar.start("POST", "/v1/completions", {"prompt": ["x"] * 20, "stream": True})
            for _ in range(17):
                await asyncio.wait_for(fake.arrived.get(), 10)
            await first.aclose()
            await asyncio.wait_for(midway.task, 10)
            await asyncio.wait_for(whole.task, 10)
            assert midway.reply.events[-1]["error"]["code"] == "backend_unavailable"
            assert b"backend_unavailable" in whole.reply.body
            # Another kind of worker replaces it.
            async with serving(FakeWorker(step_batches=False), port), asyncio.timeout(30):
                while (reply := await stream_completion(sidecar, "a b")).status != 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                assert text(reply) == "ab"


async def test_a_request_that_is_too_large_to_share_has_its_own_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    async with worker({"tiny": FakeRunner(n_ctx=5000, n_cells=9000)}) as served, app_for(served.port) as sidecar:
        monkeypatch.setattr(backend, "MAX_SHARED_BYTES", 500)
        replies = await asyncio.gather(stream_completion(sidecar, "x" * 1000), stream_completion(sidecar, "x"))
    assert [text(reply) for reply in replies] == ["ok", "ok"]


async def test_a_slow_client_delays_no_other() -> None:
    """Its response collects in its mailbox while the others get theirs."""

    async def stream(request: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        for _ in range(2000 if inputs_of(request)["prompt"] == [b"slow"] else 20):
            yield token("x")
            await asyncio.sleep(0)
        yield last_token()

    async with running(FakeWorker(stream=stream, step_batches=True)) as sidecar:
        slow = sidecar.start("POST", "/v1/completions", {"prompt": "slow", "stream": True})
        async with slow._grew:  # blocks its `send`
            for _ in range(5):
                assert text(await stream_completion(sidecar, "fast")) == "x" * 20
        await asyncio.wait_for(slow.task, 30)
        assert text(slow.reply) == "x" * 2000


async def test_a_backend_that_hangs_runs_into_the_time_limit() -> None:
    fake = FakeWorker(hangs, hangs_midway, step_batches=True)
    async with running(fake, request_timeout=0.2) as sidecar:
        reply = await stream_completion(sidecar, "x")
        assert reply.events[-1]["error"]["code"] == "timeout"
        await asyncio.wait_for(fake.cancelled.get(), 10)
    [request] = fake.requests
    assert request.parameters[contract.PARAM_TIMEOUT].int64_param == 200_000
