"""Messages with too many elements are refused at once, before they are converted."""

from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc import aio

from anyserve_worker.service.message_parts import has_too_many
from protos import contract, tensors
from protos.contract import TensorSpec
from protos.grpc_predict_v2_pb2 import ModelInferRequest
from tests.anyserve_worker.fakes import FakeVectorRunner
from tests.wire.worker import stub, worker

TOKEN_IDS, N_MANY = contract.PROMPT_TOKEN_IDS, 2_000_000


def request(spec: TensorSpec, elements: Any, *, raw: bool, task: str = contract.TASK_GENERATE) -> ModelInferRequest:
    message = ModelInferRequest(model_name="tiny")
    message.parameters[contract.PARAM_TASK].string_param = task
    if raw:
        message.inputs.add(name=spec.name, datatype=spec.datatype, shape=(len(elements),))
        message.raw_input_contents.append(tensors.to_raw(spec.datatype, elements))
    else:
        tensors.add_input(message, spec, elements)
    return message


@asynccontextmanager
async def client() -> AsyncIterator[Any]:
    async with worker(vector_runners={"tiny": FakeVectorRunner()}) as served, stub(served.port) as service:
        yield service


async def refusal(message: ModelInferRequest) -> tuple[grpc.StatusCode, dict[str, str], str]:
    async with client() as service:
        with pytest.raises(aio.AioRpcError) as refused:
            await service.ModelInfer(message)
        trailers = {key: str(value) for key, value in refused.value.trailing_metadata() or ()}
        return refused.value.code(), trailers, refused.value.details() or ""


@pytest.fixture(autouse=True)
def _large_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces grpc's own limit of 4 MiB by the worker's, 16 MiB, so that the checks behind it are reached."""
    original = aio.server
    larger = [("grpc.max_receive_message_length", 16 << 20)]
    monkeypatch.setattr(aio, "server", lambda options: original(options=(*options, *larger)))


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("task", [contract.TASK_GENERATE, contract.TASK_EMBED, contract.TASK_DETOKENIZE])
@pytest.mark.parametrize("n", [tensors.MIN_ARRAY_ELEMENTS + 5000, N_MANY])
async def test_more_token_ids_than_the_context_has_are_refused(raw: bool, task: str, n: int) -> None:
    code, trailers, details = await refusal(request(TOKEN_IDS, [1] * n, raw=raw, task=task))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert trailers[contract.ERROR_REASON] == contract.REASON_CONTEXT_LENGTH
    assert trailers[contract.ERROR_TENSOR] == TOKEN_IDS.name
    assert str(n) in details


@pytest.mark.parametrize("raw", [False, True])
async def test_too_many_token_ids_are_refused_in_a_stream_too(raw: bool) -> None:
    async def requests() -> AsyncIterator[ModelInferRequest]:
        yield request(TOKEN_IDS, [1] * N_MANY, raw=raw)

    async with client() as service:
        (response,) = [response async for response in service.ModelStreamInfer(requests())]
        assert str(N_MANY) in response.error_message


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(
    ("spec", "elements"),
    [
        (contract.STOP, [b""] * 16_385),
        (contract.LOGIT_BIAS, [0.0] * N_MANY),
        (contract.LOGIT_BIAS, [0.0] * 2000),
        (contract.STOP_TOKEN_IDS, [1] * N_MANY),
        (contract.STOP_TOKEN_IDS, [1] * 2000),
    ],
)
async def test_too_many_elements_of_another_input_are_refused(spec: TensorSpec, elements: Any, raw: bool) -> None:
    message = request(contract.PROMPT, [b"hi"], raw=raw)
    addition = request(spec, elements, raw=raw)
    message.inputs.extend(addition.inputs)
    message.raw_input_contents.extend(addition.raw_input_contents)
    code, trailers, details = await refusal(message)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert trailers[contract.ERROR_TENSOR] == spec.name
    assert "at most" in details or "more than" in details


@pytest.mark.parametrize("n_elements", [16_384, 100])
async def test_empty_strings_of_many_inputs_count_together(n_elements: int) -> None:
    """3.9 million empty strings take 16 MB."""
    message = ModelInferRequest(model_name="tiny")
    for i in range(240):
        message.inputs.add(name=f"x{i}", datatype="BYTES", shape=[n_elements])
        message.raw_input_contents.append(bytes(4 * n_elements))
    code, trailers, details = await refusal(message)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert trailers[contract.ERROR_TENSOR] == f"x{16_384 // n_elements}"
    assert "all BYTES inputs together" in details


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("datatype", ["BOOL", "INT32", "INT64", "UINT8", "FP32", "FP64"])
async def test_numbers_of_many_inputs_count_together(datatype: str, raw: bool) -> None:
    message = ModelInferRequest(model_name="tiny")
    for i in range(20):
        spec = TensorSpec(f"x{i}", datatype, (-1,), "")
        addition = request(spec, [1] * 60_000, raw=raw)
        message.inputs.extend(addition.inputs)
        message.raw_input_contents.extend(addition.raw_input_contents)
    code, trailers, details = await refusal(message)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert trailers[contract.ERROR_TENSOR] == f"x{(1 << 20) // 60_000}"
    assert "all inputs together" in details


@pytest.mark.parametrize("raw", [False, True])
async def test_more_plain_spans_than_any_prompt_has_are_refused(raw: bool) -> None:
    message = request(contract.PROMPT, [b"a" * 200_000], raw=raw)
    addition = request(contract.PLAIN_SPANS, list(range(2**17 + 2)), raw=raw)
    message.inputs.extend(addition.inputs)
    message.raw_input_contents.extend(addition.raw_input_contents)
    code, trailers, details = await refusal(message)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert trailers[contract.ERROR_TENSOR] == contract.PLAIN_SPANS.name
    assert "at most 131072" in details


@pytest.mark.parametrize("raw", [False, True])
async def test_long_prompts_within_the_context_arrive_unchanged(raw: bool) -> None:
    ids = [i % 250 for i in range(8000)]
    async with client() as service:
        detokenized = await service.ModelInfer(request(TOKEN_IDS, ids, raw=raw, task=contract.TASK_DETOKENIZE))
        (text,) = tensors.read_outputs(detokenized)[contract.WHOLE_TEXT.name].elements
        assert text == bytes(ids)


def test_an_array_has_the_elements_of_the_list() -> None:
    ids = list(range(-5, 9000))
    for raw in (False, True):
        elements = tensors.read_inputs(request(TOKEN_IDS, ids, raw=raw))[TOKEN_IDS.name].elements
        assert elements == array("i", ids)


# ---- Parts of a message


def encoded(**fields: Any) -> bytes:
    return ModelInferRequest(**fields).SerializeToString()


def test_messages_of_many_parts_are_counted() -> None:
    inputs = [ModelInferRequest.InferInputTensor()] * 40_000
    outputs = [ModelInferRequest.InferRequestedOutputTensor()] * 40_000
    assert has_too_many(encoded(inputs=inputs))
    assert has_too_many(encoded(outputs=outputs))
    assert has_too_many(encoded(raw_input_contents=[b""] * 40_000))
    named = ModelInferRequest.InferInputTensor(name="prompt")
    named.contents.bytes_contents.extend([b""] * 40_000)
    assert has_too_many(encoded(inputs=[named]))
    parameters = ModelInferRequest()
    for i in range(20_000):
        parameters.parameters[str(i)].bool_param = True
    assert has_too_many(parameters.SerializeToString())


@pytest.mark.parametrize(
    "field", ["bool_contents", "int_contents", "int64_contents", "uint_contents", "uint64_contents"]
)
def test_numbers_are_counted(field: str) -> None:
    for n in (2_000_000, 2_200_000):
        tensor = ModelInferRequest.InferInputTensor(name="x")
        getattr(tensor.contents, field).extend([1] * n)
        assert has_too_many(encoded(inputs=[tensor])) == (n > 1 << 21)
    assert has_too_many(encoded(inputs=[ModelInferRequest.InferInputTensor(name="x", shape=[1] * 2_200_000)]))
    halves = ModelInferRequest.InferInputTensor(name="x", shape=[1] * 1_100_000)
    assert has_too_many(encoded(inputs=[halves, halves]))
    long = ModelInferRequest.InferInputTensor(name="x")
    long.contents.uint64_contents.extend([2**64 - 1] * 1_000_000)  # ten bytes each
    assert not has_too_many(encoded(inputs=[long]))


def test_unknown_fields_do_not_hide_parts() -> None:
    """protobuf skips groups, which this protocol doesn't use, and continues after them."""
    parts = encoded(inputs=[ModelInferRequest.InferInputTensor()] * 40_000)
    group = b"\x4b\x4c"
    assert ModelInferRequest.FromString(group + parts) is not None
    assert has_too_many(group + parts)


def test_large_messages_of_few_parts_are_accepted() -> None:
    for raw in (False, True):
        assert not has_too_many(request(TOKEN_IDS, [300] * 1_000_000, raw=raw).SerializeToString())
    assert not has_too_many(request(contract.PROMPT, [b"\x2a\x00" * 5_000_000], raw=False).SerializeToString())
    assert not has_too_many(b"\xff" * 100_000)  # invalid, which protobuf reports
    assert not has_too_many(b"\x0a\xff\xff\x7f" + b"\0" * 100_000)
    assert not has_too_many(b"")
