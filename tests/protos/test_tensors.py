"""The codec: the bytes that it writes, the values that it reads back, and the messages that it refuses."""

import math
import struct
import time
import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos import tensors
from protos.contract import TensorSpec
from protos.grpc_predict_v2_pb2 import InferTensorContents, ModelInferRequest, ModelInferResponse
from protos.tensors import Tensor, TensorError, add_input, add_output, from_raw, read_inputs, read_outputs, to_raw

Elements = Sequence[Any]

INTEGERS = {
    **{f"INT{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
}
STRATEGIES: dict[str, st.SearchStrategy[Any]] = {
    "BOOL": st.booleans(),
    "BYTES": st.binary(max_size=300),
    **{f"FP{width}": st.floats(width=width) for width in (16, 32, 64)},
    **{name: st.integers(low, high) for name, (low, high) in INTEGERS.items()},
}
FIELDS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
TYPED = sorted(FIELDS)
ONE: dict[str, Any] = {field: [1] for field in FIELDS.values()} | {"bool_contents": [True], "bytes_contents": [b"x"]}
"""One element for each field of the contents."""


def spec(datatype: str, name: str = "x") -> TensorSpec:
    return TensorSpec(name, datatype, (-1,), "")


def raw_request(*parts: tuple[str, str, list[int], bytes]) -> ModelInferRequest:
    request = ModelInferRequest()
    for name, datatype, shape, raw in parts:
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        request.raw_input_contents.append(raw)
    return request


def typed_request(datatype: str, shape: list[int], contents: InferTensorContents | None) -> ModelInferRequest:
    request = ModelInferRequest()
    request.inputs.add(name="x", datatype=datatype, shape=shape, contents=contents)
    return request


def same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and (a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b)))


def refused(request: ModelInferRequest) -> TensorError:
    with pytest.raises(TensorError) as refusal:
        read_inputs(request)
    return refusal.value


# ---- Encoded bytes, worked out by hand

GOLDEN: list[tuple[str, Elements, str]] = [
    ("BYTES", [], ""),
    ("BYTES", [b""], "00000000"),
    ("BYTES", [b"hi", b"", "é".encode()], "02000000 6869 00000000 02000000 c3a9"),
    ("BYTES", [b"a" * 258], "02010000" + "61" * 258),
    ("BOOL", [True, False], "01 00"),
    ("INT8", [-1, 127], "ff 7f"),
    ("INT16", [-2, 258], "feff 0201"),
    ("INT32", [1, -1, 16909060], "01000000 ffffffff 04030201"),
    ("INT64", [-(2**63)], "0000000000000080"),
    ("UINT8", [200], "c8"),
    ("UINT16", [65535], "ffff"),
    ("UINT32", [2**32 - 2], "feffffff"),
    ("UINT64", [2**64 - 1], "ffffffffffffffff"),
    ("FP16", [1.0, -2.0], "003c 00c0"),
    ("FP32", [1.0, -2.5, 0.1], "0000803f 000020c0 cdcccc3d"),
    ("FP64", [1.0], "000000000000f03f"),
]


@pytest.mark.parametrize(("datatype", "elements", "expected"), GOLDEN)
def test_raw_elements_have_the_expected_bytes(datatype: str, elements: Elements, expected: str) -> None:
    raw = bytes.fromhex(expected)
    assert to_raw(datatype, elements) == raw
    decoded = from_raw("x", datatype, raw)
    assert to_raw(datatype, decoded) == raw
    assert len(decoded) == len(elements)
    if datatype != "FP32":
        assert list(decoded) == list(elements)


def test_a_typed_request_has_the_expected_bytes() -> None:
    request = ModelInferRequest()
    add_input(request, spec("BYTES", "p"), [b"hi"])
    add_input(request, spec("INT32", "n"), [7])
    # Field 5 (inputs), then in it 1 name, 2 datatype, 3 shape (packed), 5 contents with 8 bytes or 2 int (packed).
    assert request.SerializeToString() == bytes.fromhex(
        "2a13 0a0170 12054259544553 1a0101 2a04 42026869 2a12 0a016e 1205494e543332 1a0101 2a03 120107"
    )


def test_a_raw_response_has_the_expected_bytes() -> None:
    response = ModelInferResponse()
    add_output(response, spec("BYTES", "t"), [b"hi"], raw=True)
    # Field 5 (outputs) without contents; field 6 (raw_output_contents).
    assert response.SerializeToString() == bytes.fromhex("2a0d 0a0174 12054259544553 1a0101 3206 020000006869")


@pytest.mark.parametrize("datatype", TYPED)
def test_typed_elements_are_in_the_field_of_their_datatype(datatype: str) -> None:
    request = ModelInferRequest()
    add_input(request, spec(datatype), ONE[FIELDS[datatype]])
    assert [descriptor.name for descriptor, _ in request.inputs[0].contents.ListFields()] == [FIELDS[datatype]]
    assert list(getattr(request.inputs[0].contents, FIELDS[datatype])) == ONE[FIELDS[datatype]]
    assert not request.raw_input_contents


# ---- Round trips


@pytest.mark.parametrize("datatype", TYPED)
@given(data=st.data())
def test_typed_elements_survive_a_round_trip(datatype: str, data: st.DataObject) -> None:
    elements = data.draw(st.lists(STRATEGIES[datatype], max_size=8))
    request = ModelInferRequest()
    add_input(request, spec(datatype), elements)
    tensor = read_inputs(ModelInferRequest.FromString(request.SerializeToString()))["x"]
    assert (tensor.name, tensor.datatype, tensor.shape) == ("x", datatype, (len(elements),))
    assert len(tensor.elements) == len(elements)
    assert all(same(a, b) for a, b in zip(tensor.elements, elements, strict=True))


@pytest.mark.parametrize("datatype", sorted(STRATEGIES))
@given(data=st.data())
def test_raw_elements_survive_a_round_trip(datatype: str, data: st.DataObject) -> None:
    elements = data.draw(st.lists(STRATEGIES[datatype], max_size=8))
    response = ModelInferResponse()
    # Without another tensor, an empty raw response looks like an empty typed one.
    add_output(response, spec("INT32", "first"), [1], raw=True)
    add_output(response, spec(datatype), elements, raw=True)
    tensor = read_outputs(ModelInferResponse.FromString(response.SerializeToString()))["x"]
    assert (tensor.datatype, tensor.shape) == (datatype, (len(elements),))
    assert len(tensor.elements) == len(elements)
    assert all(same(a, b) for a, b in zip(tensor.elements, elements, strict=True))


@given(elements=st.lists(STRATEGIES["FP32"], max_size=8), raw=st.booleans())
def test_typed_and_raw_contents_decode_to_the_same_elements(elements: list[float], raw: bool) -> None:
    response = ModelInferResponse()
    add_output(response, spec("FP32"), elements, raw=raw)
    decoded = read_outputs(response)["x"].elements
    assert struct.pack(f"<{len(elements)}f", *decoded) == struct.pack(f"<{len(elements)}f", *elements)


def test_several_tensors_keep_their_order_and_their_contents() -> None:
    request = raw_request(
        ("b", "INT32", [1], b"\1\0\0\0"), ("a", "BYTES", [1], b"\1\0\0\0x"), ("c", "BOOL", [1], b"\1")
    )
    decoded = read_inputs(request)
    assert list(decoded) == ["b", "a", "c"]
    assert [list(t.elements) for t in decoded.values()] == [[1], [b"x"], [True]]


def test_a_message_without_tensors_has_no_inputs() -> None:
    assert read_inputs(ModelInferRequest()) == {}


def test_a_request_is_raw_if_it_has_raw_contents() -> None:
    assert tensors.is_raw(raw_request(("x", "INT32", [1], b"\0\0\0\0")))
    assert not tensors.is_raw(typed_request("INT32", [1], InferTensorContents(int_contents=[1])))
    assert not tensors.is_raw(ModelInferRequest())


@pytest.mark.parametrize("shape", [[], [1], [1, 1], [1, 1, 1]])
def test_one_element_fills_any_shape_of_ones(shape: list[int]) -> None:
    typed = typed_request("INT32", shape, InferTensorContents(int_contents=[5]))
    raw = raw_request(("x", "INT32", shape, b"\5\0\0\0"))
    expected = Tensor("x", "INT32", tuple(shape), [5])
    assert read_inputs(typed)["x"] == expected
    assert read_inputs(raw)["x"] == Tensor("x", "INT32", tuple(shape), (5,))


def test_a_shape_with_very_many_dimensions_is_refused_quickly() -> None:
    """Multiplying out these dimensions would take hours."""
    started = time.process_time()
    for shape in ([2**62] * 1_000_000, [1] * 17):
        with pytest.raises(TensorError, match=f"{len(shape)} dimensions, at most 16") as caught:
            read_inputs(typed_request("INT32", shape, InferTensorContents(int_contents=[5])))
        assert caught.value.tensor == "x"
    assert time.process_time() - started < 5
    assert read_inputs(typed_request("INT32", [1] * 16, InferTensorContents(int_contents=[5])))["x"].elements == [5]


@pytest.mark.parametrize(("n", "problem"), [(256, "sent twice"), (257, "257 tensors, at most 256")])
def test_more_than_256_tensors_are_refused(n: int, problem: str) -> None:
    request = ModelInferRequest()
    for _ in range(n):
        request.inputs.add(name="x", datatype="INT32", shape=[0])
    with pytest.raises(TensorError, match=problem):
        read_inputs(request)


@pytest.mark.parametrize("shape", [[0], [3, 0], [0, 2**62, 2**62]])
def test_a_shape_with_a_zero_needs_no_elements(shape: list[int]) -> None:
    assert list(read_inputs(typed_request("INT32", shape, None))["x"].elements) == []
    assert list(read_inputs(typed_request("FP16", shape, None))["x"].elements) == []
    assert list(read_inputs(raw_request(("x", "BYTES", shape, b"")))["x"].elements) == []


# ---- Refusals


@given(elements=st.lists(st.binary(max_size=5), min_size=1, max_size=4))
def test_truncated_raw_bytes_are_refused_or_read_as_fewer_elements(elements: list[bytes]) -> None:
    raw = to_raw("BYTES", elements)
    ends = {len(to_raw("BYTES", elements[:n])): n for n in range(len(elements) + 1)}
    for cut in range(len(raw)):
        if cut in ends:
            assert from_raw("x", "BYTES", raw[:cut]) == elements[: ends[cut]]
        else:
            with pytest.raises(TensorError, match=r"tensor 'x': raw BYTES end inside an element"):
                from_raw("x", "BYTES", raw[:cut])
        # Where the shape is checked too, truncated contents are never accepted.
        assert refused(raw_request(("x", "BYTES", [len(elements)], raw[:cut]))).tensor == "x"


def test_a_raw_length_past_the_end_allocates_nothing() -> None:
    error = refused(raw_request(("x", "BYTES", [1], b"\xff\xff\xff\xff" + b"a")))
    assert "4294967299 bytes announced, 5 sent" in str(error)


@pytest.mark.parametrize("datatype", sorted(STRATEGIES.keys() - {"BYTES", "BOOL", "INT8", "UINT8"}))
def test_raw_numbers_truncated_inside_an_element_are_refused(datatype: str) -> None:
    raw = to_raw(datatype, [1, 2])
    for cut in range(1, len(raw)):
        error = refused(raw_request(("x", datatype, [2], raw[:cut])))
        assert error.tensor == "x"
        assert datatype in str(error) or "do not fill shape [2]" in str(error)


@pytest.mark.parametrize("count", [0, 1, 3, 4])
@pytest.mark.parametrize("shape", [[2], [1, 2], [2, 1]])
def test_the_number_of_elements_must_match_the_shape(count: int, shape: list[int]) -> None:
    typed = typed_request("INT32", shape, InferTensorContents(int_contents=[7] * count))
    raw = raw_request(("x", "INT32", shape, to_raw("INT32", [7] * count)))
    for request in (typed, raw):
        assert str(refused(request)) == f"tensor 'x': {count} elements do not fill shape {shape}"


def test_a_huge_shape_allocates_nothing() -> None:
    assert "do not fill shape" in str(refused(raw_request(("x", "INT32", [2**62, 2**62], b"\0\0\0\0"))))


@pytest.mark.parametrize("shape", [[-1], [2, -1], [-1, -1], [-(2**63)]])
def test_negative_dimensions_are_refused(shape: list[int]) -> None:
    typed = typed_request("INT32", shape, InferTensorContents(int_contents=[7]))
    raw = raw_request(("x", "INT32", shape, b"\0\0\0\0"))
    for request in (typed, raw):
        assert str(refused(request)) == f"tensor 'x': negative dimension in shape {shape}"


@pytest.mark.parametrize("datatype", ["", "FP8", "BF16", "int32", "STRING", "INT32 "])
def test_unknown_datatypes_are_refused(datatype: str) -> None:
    for request in (typed_request(datatype, [0], None), raw_request(("x", datatype, [1], b"\0\0\0\0"))):
        assert str(refused(request)) == f"tensor 'x': unknown datatype '{datatype}'"


@pytest.mark.parametrize("datatype", TYPED)
def test_elements_in_the_field_of_another_datatype_are_refused(datatype: str) -> None:
    right = FIELDS[datatype]
    for field in ONE.keys() - {right}:
        for extra in ({}, {right: ONE[right]}):
            error = refused(typed_request(datatype, [1], InferTensorContents(**{field: ONE[field]}, **extra)))
            assert error.tensor == "x"
            assert f"{datatype} belongs in '{right}', not in " in str(error)
            assert field in str(error)


def test_typed_fp16_is_refused() -> None:
    error = refused(typed_request("FP16", [1], InferTensorContents(fp32_contents=[1])))
    assert error.tensor == "x"


def test_a_repeated_tensor_name_is_refused() -> None:
    typed = ModelInferRequest()
    add_input(typed, spec("INT32"), [1])
    add_input(typed, spec("INT32"), [1])
    raw = raw_request(("x", "BOOL", [1], b"\0"), ("x", "BOOL", [1], b"\0"))
    for request in (typed, raw):
        assert str(refused(request)) == "tensor 'x': sent twice"


@pytest.mark.parametrize("position", [0, 1])
def test_typed_and_raw_contents_in_one_message_are_refused(position: int) -> None:
    """The error names the typed tensor, however many raw contents the message has."""
    for count in (1, 2):
        request = raw_request(("a", "BOOL", [1], b"\0"), ("b", "BOOL", [1], b"\0"))
        request.inputs[position].contents.bool_contents.append(True)
        del request.raw_input_contents[count:]
        error = refused(request)
        assert error.tensor == "ab"[position]
        assert "typed contents, but the message has raw contents too" in str(error)


def test_empty_typed_contents_beside_raw_ones_are_refused() -> None:
    request = raw_request(("x", "BOOL", [1], b"\0"))
    request.inputs[0].contents.SetInParent()
    assert refused(request).tensor == "x"


@pytest.mark.parametrize("count", [1, 3])
def test_a_number_of_raw_contents_other_than_that_of_tensors_is_refused(count: int) -> None:
    request = raw_request(("a", "BOOL", [1], b"\0"), ("b", "BOOL", [1], b"\0"))
    del request.raw_input_contents[:]
    request.raw_input_contents.extend([b"\0"] * count)
    error = refused(request)
    assert (error.tensor, str(error)) == ("", f"{count} raw contents for 2 tensors")


def test_raw_contents_without_tensors_are_refused() -> None:
    assert str(refused(ModelInferRequest(raw_input_contents=[b"x"]))) == "1 raw contents for 0 tensors"


def test_outputs_are_read_as_strictly_as_inputs() -> None:
    response = ModelInferResponse()
    add_output(response, spec("BYTES"), [b"a"], raw=True)
    response.raw_output_contents[0] = b"\2\0\0\0a"
    with pytest.raises(TensorError, match="tensor 'x'"):
        read_outputs(response)


@given(
    raw=st.binary(max_size=40),
    datatype=st.sampled_from(sorted(STRATEGIES)),
    shape=st.lists(st.integers(-2, 5), max_size=3),
)
def test_any_bytes_decode_to_a_tensor_or_an_error(raw: bytes, datatype: str, shape: list[int]) -> None:
    request = raw_request(("x", datatype, shape, raw))
    try:
        tensor = read_inputs(request)["x"]
    except TensorError:
        assert refused(request).tensor == "x"
    else:
        assert len(tensor.elements) == math.prod(shape)


def test_many_tensors_use_no_memory_once_one_is_refused() -> None:
    """A message of 16 MB can hold eight million empty tensors."""
    request = ModelInferRequest.FromString(b"\x2a\x00" * 100_000)
    tracemalloc.start()
    try:
        with pytest.raises(TensorError):
            read_inputs(request)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
