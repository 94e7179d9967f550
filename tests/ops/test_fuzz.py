"""Random and mutated messages to a real worker: each gets a status in time, never INTERNAL, and the worker still serves
afterwards."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protos import contract
from protos import grpc_predict_v2_pb2 as pb
from tests.e2e import servers
from tests.e2e.messages import infer
from tests.models import smollm2_path

TIMEOUT = 20.0
PATH = "/inference.GRPCInferenceService/"
INPUTS = {spec.name: spec for task in contract.TASKS.values() for spec in (*task.inputs, *contract.INPUTS)}
PARAMETERS = [value for name, value in vars(contract).items() if name.startswith("PARAM_") and name != "PARAM_TIMEOUT"]
FORBIDDEN_STATUSES = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED}
"""Statuses that no request may get."""
MAX_MESSAGE_CHARACTERS = 500
"""Maximum characters of an error's message."""

# ---- Messages

numbers = st.one_of(st.sampled_from([0, 1, -1, 2, 2**31 - 1, -(2**31)]), st.integers(-(2**31), 2**31 - 1))
floats = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 0.5]), st.floats(width=32))
texts = st.one_of(
    st.sampled_from([b"", b"Once upon a time", b"{}", b'root ::= "a"*', b"(a+)+b", b"(" * 5000, b"9" * 5000]),
    st.sampled_from([b'{"not":' * 300 + b"{}" + b"}" * 300, b'{"pattern":"' + b"x" * 5000 + b'("}']),
    st.binary(max_size=40),
)


@st.composite
def tensor(draw: st.DrawFn) -> tuple[pb.ModelInferRequest.InferInputTensor, bytes]:
    """Draws an input tensor with a known or unknown name, often with valid contents."""
    spec = INPUTS[draw(st.sampled_from(sorted(INPUTS)))]
    is_valid = draw(st.integers(0, 3)) > 0
    input_tensor = pb.ModelInferRequest.InferInputTensor(
        name=spec.name if is_valid else draw(st.text(max_size=20)),
        datatype=spec.datatype
        if is_valid
        else draw(st.sampled_from(["BYTES", "INT32", "FP32", "BOOL", "UINT64", "", "x"])),
    )
    contents = input_tensor.contents
    match spec.datatype if is_valid else draw(st.sampled_from(["BYTES", "INT32", "FP32", "BOOL", "INT64"])):
        case "BYTES":
            values: list[Any] = draw(st.lists(texts, max_size=3))
            contents.bytes_contents.extend(values)
        case "INT32":
            values = draw(st.lists(st.integers(0, 300) if is_valid else numbers, max_size=4))
            contents.int_contents.extend(values)
        case "FP32":
            values = draw(st.lists(floats, max_size=3))
            contents.fp32_contents.extend(values)
        case "BOOL":
            values = draw(st.lists(st.booleans(), max_size=2))
            contents.bool_contents.extend(values)
        case _:
            values = draw(st.lists(numbers, max_size=2))
            contents.int64_contents.extend(values)
    input_tensor.shape.extend(
        [len(values)] if is_valid else draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3))
    )
    return input_tensor, draw(st.binary(max_size=24))


@st.composite
def message(draw: st.DrawFn) -> pb.ModelInferRequest:
    request = infer("smollm2", "Once upon", max_tokens=3) if draw(st.booleans()) else pb.ModelInferRequest()
    request.model_name = draw(
        st.sampled_from(["smollm2", "smollm2", "", "other", "n" * 5000, contract.ANYSERVE_MODEL_INFO])
    )
    request.id = draw(st.text(max_size=10))
    tensors = draw(st.lists(tensor(), max_size=5))
    request.inputs.extend(input_tensor for input_tensor, _ in tensors)
    if draw(st.integers(0, 3)) == 0:
        request.raw_input_contents.extend(raw for _, raw in tensors)
    for name in draw(st.lists(st.one_of(st.sampled_from(PARAMETERS), st.text(max_size=9)), max_size=3)):
        match draw(st.integers(0, 3)):
            case 0:
                request.parameters[name].int64_param = draw(numbers)
            case 1:
                request.parameters[name].string_param = draw(st.sampled_from([*contract.TASKS, "x"]))
            case 2:
                request.parameters[name].bool_param = True
            case _:
                request.parameters[name].double_param = draw(floats)
    if draw(st.integers(0, 5)) == 0:
        request.outputs.add(name=draw(st.text(max_size=9)))
    return request


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Draws the bytes of a message and changes some of them."""
    wire = bytearray(draw(message()).SerializeToString())
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(wire)))
        wire[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(wire)


# ---- The worker


@pytest.fixture(scope="module")
def channel() -> Iterator[grpc.Channel]:
    options = ("--n-ctx", "64", "--parallel", "4", "--max-queue", "8")
    with (
        servers.worker("--model", f"smollm2={smollm2_path()}", *options) as (process, address),
        grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel,
    ):
        yield channel
        stub: Any = channel.unary_unary(f"{PATH}ModelInfer", pb.ModelInferRequest.SerializeToString)
        whole = [stub.future(infer("smollm2", "Once upon", max_tokens=40, ignore_eos=True)) for _ in range(12)]
        assert all(call.result(timeout=TIMEOUT) for call in whole)
        assert process.end() == 0
        assert " ERROR " not in process.output, process.output
        assert "Traceback" not in process.output, process.output


few = settings(max_examples=150, suppress_health_check=list(HealthCheck))


@few
@given(wire=mutated())
def test_any_message_gets_a_valid_status(channel: grpc.Channel, wire: bytes) -> None:
    call: Any = channel.unary_unary(f"{PATH}ModelInfer")
    code, message = grpc.StatusCode.OK, ""
    try:
        call(wire, timeout=TIMEOUT)
    except grpc.RpcError as error:
        code, message = error.code(), error.details() or ""
    assert code not in FORBIDDEN_STATUSES
    assert len(message) <= MAX_MESSAGE_CHARACTERS


@few
@given(wires=st.lists(mutated(), min_size=1, max_size=6))
def test_any_stream_of_messages_gets_valid_statuses(channel: grpc.Channel, wires: list[bytes]) -> None:
    call: Any = channel.stream_stream(f"{PATH}ModelStreamInfer", None, pb.ModelStreamInferResponse.FromString)
    code = grpc.StatusCode.OK
    try:
        for response in call(iter(wires), timeout=TIMEOUT):
            status_name = response.infer_response.parameters[contract.ERROR_STATUS].string_param
            assert status_name not in {status.name for status in FORBIDDEN_STATUSES}
            assert len(response.error_message) <= MAX_MESSAGE_CHARACTERS
    except grpc.RpcError as error:
        code = error.code()
    assert code not in FORBIDDEN_STATUSES


@pytest.mark.parametrize(
    "method",
    [
        *(f"{PATH}{name}" for name in ("ModelInfer", "ModelReady", "ModelStreamInfer")),
        *("/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"),
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
def test_bytes_that_are_not_a_message_are_refused(channel: grpc.Channel, method: str) -> None:
    call: Any = channel.stream_stream(method)
    with pytest.raises(grpc.RpcError) as caught:
        list(call(iter([b"\xff" * 9]), timeout=TIMEOUT))
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "cannot be parsed" in error.details()


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
def test_a_message_that_is_too_large_is_refused(channel: grpc.Channel, method: str) -> None:
    call: Any = channel.stream_stream(f"{PATH}{method}")
    with pytest.raises(grpc.RpcError) as caught:
        list(call(iter([bytes(17 * 2**20)]), timeout=TIMEOUT))
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
