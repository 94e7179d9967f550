"""Tasks of the worker other than generation, over real gRPC."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc import aio

from protos import contract, tensors
from protos.grpc_predict_v2_pb2 import (
    ModelConfigRequest,
    ModelInferRequest,
    ModelMetadataRequest,
    ModelStatisticsRequest,
)
from tests.anyserve_worker.fakes import WAIT_TIMEOUT, FakeRunner, FakeVectorRunner, Gate
from tests.wire.test_worker_streams import wait_for_n_requests
from tests.wire.worker import Worker, stub, worker

Service = Any
"""A stub; the generated type is for a channel without asyncio."""


def request(task: str, *, model: str = "tiny", version: str = "", id: str = "", **inputs: Any) -> ModelInferRequest:
    message = ModelInferRequest(model_name=model, model_version=version, id=id)
    if not version:
        message.parameters[contract.PARAM_TASK].string_param = task
    specs = {spec.name: spec for spec in contract.TASKS[task].inputs}
    for name, value in inputs.items():
        values = value if isinstance(value, list) else [value]
        tensors.add_input(message, specs[name], [v.encode() if isinstance(v, str) else v for v in values])
    return message


@asynccontextmanager
async def serving(vector_runner: FakeVectorRunner | None = None) -> AsyncIterator[tuple[Worker, Service]]:
    """Serves `tiny`, which generates and embeds, and `judge`, which ranks."""
    runners = {"tiny": FakeRunner(), "judge": FakeRunner()}
    vector_runners = {"tiny": vector_runner or FakeVectorRunner(), "judge": FakeVectorRunner(ranks=True)}
    async with worker(runners, vector_runners=vector_runners) as served, stub(served.port) as service:
        yield served, service


async def outputs(service: Service, message: ModelInferRequest) -> dict[str, list[Any]]:
    async with asyncio.timeout(WAIT_TIMEOUT):
        response = await service.ModelInfer(message)
    return {name: list(tensor.elements) for name, tensor in tensors.read_outputs(response).items()}


async def refusal(service: Service, message: ModelInferRequest) -> tuple[str, str, dict[str, Any]]:
    with pytest.raises(aio.AioRpcError) as failed:
        await service.ModelInfer(message)
    trailers = {key: value for key, value in failed.value.trailing_metadata() or () if key.startswith("error_")}
    return failed.value.code().name, failed.value.details() or "", trailers


async def test_each_task_returns_its_tensors() -> None:
    async with serving() as (_, service):
        assert await outputs(service, request("embed", prompt="ab", pooling="last", normalize=False)) == {
            "embedding": [ord("b"), 2, 1],
            "prompt_tokens": [3],
        }
        embedded = await outputs(service, request("embed", prompt_token_ids=[3], pooling="cls", dimensions=1))
        assert embedded == {"embedding": [1], "prompt_tokens": [1]}
        ranked = await outputs(service, request("rank", model="judge", prompt="q", document="d"))
        assert ranked == {"score": [ord("q") + ord("|") + ord("d")], "prompt_tokens": [3]}
        tokenized = await outputs(service, request("tokenize", prompt="é#", add_special=True))
        assert tokenized == {"token_ids": [1, 0xC3, 0xA9, 2], "token_pieces": [b"\1", b"\xc3", b"\xa9", b"\2"]}
        assert await outputs(service, request("tokenize", prompt="")) == {"token_ids": [], "token_pieces": []}
        assert await outputs(service, request("detokenize", prompt_token_ids=[104, 105])) == {"text": [b"hi"]}
        assert (await outputs(service, request("generate", prompt="x")))["text"] == [b"ok"]


async def test_a_raw_request_has_a_raw_response() -> None:
    message = request("embed", prompt="ab", pooling="last", normalize=False)
    for tensor, decoded in zip(message.inputs, tensors.read_inputs(message).values(), strict=True):
        message.raw_input_contents.append(tensors.to_raw(decoded.datatype, decoded.elements))
        tensor.ClearField("contents")
    message.outputs.add(name="embedding")
    async with serving() as (_, service):
        response = await service.ModelInfer(message)
        assert len(response.raw_output_contents) == 1
        assert list(tensors.read_outputs(response)["embedding"].elements) == [ord("b"), 2, 1]


async def test_capabilities_address_the_first_model() -> None:
    async with serving() as (_, service):
        tokenized = await outputs(service, request("tokenize", model="tokenize", version="llamacpp", prompt="a"))
        assert tokenized["token_ids"] == [97]
        embedded = await outputs(service, request("embed", model="embed", version="llamacpp", prompt="a"))
        assert embedded["prompt_tokens"] == [2]
        code, message, _ = await refusal(
            service, request("rank", model="rank", version="llamacpp", prompt="a", document="b")
        )
        assert (code, message) == (
            "INVALID_ARGUMENT",
            "model 'tiny' does not support 'rank', only generate, embed, tokenize, detokenize",
        )


async def test_a_task_that_the_model_lacks_is_refused_by_name() -> None:
    async with serving() as (_, service):
        for message, task in (
            (request("embed", model="judge", prompt="a"), "embed"),
            (request("generate", model="judge", prompt="a"), "generate"),
            (request("rank", prompt="a", document="b"), "rank"),
        ):
            code, details, _ = await refusal(service, message)
            assert (code, f"does not support '{task}', only " in details) == ("INVALID_ARGUMENT", True)


async def test_errors_name_the_tensor() -> None:
    async with serving() as (_, service):
        code, details, trailers = await refusal(service, request("embed", prompt="x" * 100))
        assert (code, trailers) == (
            "INVALID_ARGUMENT",
            {
                "error_reason": "context_length_exceeded",
                "error_tensor": "prompt",
                "error_context_length": "100",
                "error_prompt_tokens": "101",
            },
        )
        assert (
            details == "tensor 'prompt': This model's maximum context length is 100 tokens. However, it has 101 tokens."
        )
        _, _, trailers = await refusal(service, request("embed", prompt="x", dimensions=9))
        assert trailers == {"error_tensor": "dimensions"}
        code, details, _ = await refusal(service, request("detokenize", model="nobody", prompt_token_ids=[1]))
        assert (code, "nobody" in details) == ("NOT_FOUND", True)
        message = request("embed", prompt="x")
        message.outputs.add(name="text")
        assert "output 'text'" in (await refusal(service, message))[1]


async def test_a_timeout_and_a_cancellation_free_their_requests() -> None:
    gate = Gate()
    async with serving(FakeVectorRunner(n_batch=10, gate=gate)) as (served, service):
        call: Any = service.ModelInfer(request("embed", prompt="x" * 39))
        cancelled = asyncio.ensure_future(call)
        await gate.entered()  # From here on, nothing expires before the gate is open.
        message = request("embed", prompt="x" * 39)
        message.parameters[contract.PARAM_TIMEOUT].int64_param = 1
        expired = asyncio.create_task(refusal(service, message))
        await wait_for_n_requests(served, 2)
        call.cancel()
        await wait_for_n_requests(served, 1)
        gate.open()
        assert (await expired)[0] == "DEADLINE_EXCEEDED"
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        stats = (await service.ModelStatistics(ModelStatisticsRequest(name="tiny"))).model_stats[0].inference_stats
        assert (stats.success.count, stats.fail.count) == (0, 2)


async def test_streams_are_only_for_generation() -> None:
    def requests() -> Any:
        return iter([request("embed", prompt="x", id="a"), request("generate", model="judge", prompt="x", id="b")])

    async with serving() as (_, service):
        errors = {}
        async for response in service.ModelStreamInfer(requests()):
            errors[response.infer_response.id] = response.error_message
            status = response.infer_response.parameters[contract.ERROR_STATUS].string_param
            assert status == grpc.StatusCode.INVALID_ARGUMENT.name
    assert errors == {
        "a": "parameter 'task': 'embed' cannot be streamed, only called with ModelInfer",
        "b": "model 'judge' does not support 'generate', only rank, tokenize, detokenize",
    }


async def test_a_model_lists_the_tensors_of_its_tasks() -> None:
    async with serving() as (_, service):
        tiny, judge = [await service.ModelMetadata(ModelMetadataRequest(name=name)) for name in ("tiny", "judge")]
        names = [tensor.name for tensor in tiny.inputs]
        assert len(set(names)) == len(names)
        assert {spec.name for task in ("generate", "embed", "tokenize") for spec in contract.TASKS[task].inputs} == set(
            names
        )
        assert [t.name for t in judge.inputs] == [
            *("prompt", "document", "priority", "plain_spans", "add_special", "parse_special", "prompt_token_ids")
        ]
        assert {t.name for t in judge.outputs} == {"score", "prompt_tokens", "token_ids", "token_pieces", "text"}
        assert {"token", "embedding"} <= {t.name for t in tiny.outputs}
        config = (await service.ModelConfig(ModelConfigRequest(name="tiny"))).config
        assert {i.name: i.data_type for i in config.input}["normalize"] == 1  # TYPE_BOOL
