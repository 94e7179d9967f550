"""Long names that a client makes up, in requests to the worker: an error quotes only their beginning and end."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc import aio

from protos import contract, tensors
from protos import grpc_predict_v2_pb2 as pb
from tests.wire.worker import stub, worker

LONG_NAME = "n" * (1 << 20)
MAX_ERROR_CHARACTERS = 600
"""Maximum characters of an error: it travels in a header."""


@asynccontextmanager
async def serving() -> AsyncIterator[Any]:
    async with worker() as served, stub(served.port) as service:
        yield service


def request() -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="tiny", id="i")
    tensors.add_input(message, contract.PROMPT, [b"x"])
    return message


def model_name(message: pb.ModelInferRequest) -> None:
    message.model_name = LONG_NAME


def model_version(message: pb.ModelInferRequest) -> None:
    message.model_version = LONG_NAME


def request_id(message: pb.ModelInferRequest) -> None:
    message.id = LONG_NAME


def input_name(message: pb.ModelInferRequest) -> None:
    message.inputs.add(name=LONG_NAME, datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"x")


def datatype(message: pb.ModelInferRequest) -> None:
    message.inputs[0].datatype = LONG_NAME


def output_name(message: pb.ModelInferRequest) -> None:
    message.outputs.add(name=LONG_NAME)


def task(message: pb.ModelInferRequest) -> None:
    message.parameters[contract.PARAM_TASK].string_param = LONG_NAME


def caller(message: pb.ModelInferRequest) -> None:
    message.parameters[contract.PARAM_CALLER].string_param = LONG_NAME


def capability(message: pb.ModelInferRequest) -> None:
    message.model_name, message.model_version = LONG_NAME, contract.ANYSERVE_VERSION


CHANGES = (model_name, model_version, request_id, input_name, datatype, output_name, task, caller, capability)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: str(change.__name__))
async def test_long_names_in_an_inference_have_short_errors(change: Callable[[pb.ModelInferRequest], None]) -> None:
    message = request()
    change(message)

    async def requests() -> AsyncIterator[pb.ModelInferRequest]:
        yield message

    async with serving() as service:
        with pytest.raises(aio.AioRpcError) as refused:
            await service.ModelInfer(message)
        assert refused.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
        assert 0 < len(refused.value.details() or "") < MAX_ERROR_CHARACTERS
        (response,) = [response async for response in service.ModelStreamInfer(requests())]
    assert 0 < len(response.error_message) < MAX_ERROR_CHARACTERS
    assert response.ByteSize() < 8192


@pytest.mark.parametrize("field", ["name", "version"])
async def test_long_names_in_a_lookup_have_short_errors(field: str) -> None:
    fields: dict[str, Any] = {"name": "tiny", field: LONG_NAME}
    async with serving() as service:
        for call in (
            service.ModelReady(pb.ModelReadyRequest(**fields)),
            service.ModelMetadata(pb.ModelMetadataRequest(**fields)),
            service.ModelConfig(pb.ModelConfigRequest(**fields)),
            service.ModelStatistics(pb.ModelStatisticsRequest(**fields)),
        ):
            with pytest.raises(aio.AioRpcError) as refused:
                await call
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND
            assert "nnn…nnn" in (refused.value.details() or "")
            assert len(refused.value.details() or "") < MAX_ERROR_CHARACTERS


@pytest.mark.parametrize("kind", ["int64_param", "uint64_param"])
async def test_the_longest_timeout_is_accepted(kind: str) -> None:
    message = request()
    setattr(message.parameters[contract.PARAM_TIMEOUT], kind, 2**63 - 1 if kind == "int64_param" else 2**64 - 1)
    async with serving() as service:
        assert (await service.ModelInfer(message)).outputs
