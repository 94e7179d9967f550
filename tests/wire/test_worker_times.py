"""Times and progress over gRPC: which calls return them, and which refuse to."""

from typing import Any

import grpc
import pytest

from protos import contract, tensors
from protos.grpc_predict_v2_pb2 import ModelInferRequest
from tests.anyserve_worker.fakes import FakeRunner
from tests.wire.test_worker_streams import client, columns, request
from tests.wire.worker import stub, worker

LONG = "q" * 40
TIMES = ["prompt_ms", "completion_ms"]


def asking(prompt: str, *specs: contract.TensorSpec, number: int | None = None) -> ModelInferRequest:
    message = request(prompt, number)
    for spec in specs:
        tensors.add_input(message, spec, [True])
    return message


async def test_a_whole_response_has_the_times_on_request() -> None:
    async with worker() as running, stub(running.port) as service:
        call: Any = service.ModelInfer
        plain = tensors.read_outputs(await call(request("q")))
        timed = tensors.read_outputs(await call(asking("q", contract.TIMINGS)))
    assert [name for name in timed if name not in plain] == TIMES
    assert timed["prompt_ms"].elements[0] > 0


@pytest.mark.parametrize("specs", [(contract.TIMINGS,), (contract.PROMPT_PROGRESS,), contract.NOT_IN_STEP_BATCHES[1:]])
async def test_a_stream_of_its_own_has_times_and_progress(specs: tuple[contract.TensorSpec, ...]) -> None:
    async with worker({"tiny": FakeRunner({LONG: b"abc"}, n_batch=16)}) as running, client(running.port) as stream:
        await stream.send(asking(LONG, *specs))
        await stream.call.done_writing()
        batches = [columns(response) async for response in stream.call]
    steps = [n for batch in batches for n in batch.get("progress_tokens", ())]
    assert steps == ([0, 16, 32, 40] if contract.PROMPT_PROGRESS in specs else [])
    for batch in batches:
        assert ("prompt_ms" in batch) == ("token" in batch and contract.TIMINGS in specs)
        assert len(batch.get("progress_ms", ())) == len(batch.get("progress_tokens", ()))
    assert b"".join(token for batch in batches for token in batch.get("token", ())) == b"abc"


@pytest.mark.parametrize("spec", contract.NOT_IN_STEP_BATCHES[1:])
async def test_step_batches_refuse_them(spec: contract.TensorSpec) -> None:
    async with worker() as running, client(running.port) as stream:
        await stream.send(asking("q", spec, number=1))
        await stream.read()
        assert stream.errors == [(1, "INVALID_ARGUMENT")]


async def test_a_whole_response_has_no_progress() -> None:
    async with worker() as running, stub(running.port) as service:
        call: Any = service.ModelInfer
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(asking("q", contract.PROMPT_PROGRESS))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "only in streams" in str(caught.value.details())


async def test_the_anyserve_protocol_has_progress_before_the_text() -> None:
    async with worker({"tiny": FakeRunner({LONG: b"abc"}, n_batch=16)}) as running, client(running.port) as stream:
        message = asking(LONG, contract.PROMPT_PROGRESS)
        message.model_name, message.model_version = contract.ANYSERVE_GENERATE_STREAM, contract.ANYSERVE_VERSION
        await stream.send(message)
        await stream.call.done_writing()
        batches = [columns(response) async for response in stream.call]
    assert [n for batch in batches for n in batch.get("progress_tokens", ())] == [0, 16, 32, 40]
    assert batches[-1]["token"] == [b""]
