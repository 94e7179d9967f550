"""Converts Python values to and from KServe v2 tensors, in both forms of the wire.

Typed: the elements are in `InferTensorContents`. Raw: all elements of a tensor are one little-endian byte string in
`raw_input_contents` / `raw_output_contents`, in the order of the tensors; a BYTES element is its length in 4 bytes,
followed by its data. A message uses one form for all of its tensors.
"""

import math
import struct
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from protos.contract import TensorSpec
from protos.grpc_predict_v2_pb2 import InferTensorContents, ModelInferRequest, ModelInferResponse

BYTES = "BYTES"
MAX_TENSORS = 256
MAX_DIMENSIONS = 16
"""Limits of one message. The product of the dimensions costs time that grows with the square of their number."""
MAX_INPUT_ELEMENTS = 1 << 20
"""Maximum elements of all inputs together: more than any context has tokens. Converting them takes 10 to 20 ms."""
MAX_INPUT_STRINGS = 1 << 14
"""Maximum elements of all BYTES inputs together, which take longer to convert."""
MIN_ARRAY_ELEMENTS = 4096
"""INT32 tensors with more elements become an array, which is converted and searched several times as fast."""
Elements = Sequence[Any]
"""bytes for BYTES, bool for BOOL, int for (U)INT*, float for FP*, in row-major order."""


@dataclass(frozen=True, slots=True)
class _Datatype:
    contents: str
    """Field of InferTensorContents."""
    code: str
    """`struct` code of one raw element; empty for BYTES."""


# Open Inference Protocol, "Tensor Data Types". FP16 has no typed form.
_DATATYPES = {
    "BOOL": _Datatype("bool_contents", "?"),
    "INT8": _Datatype("int_contents", "b"),
    "INT16": _Datatype("int_contents", "h"),
    "INT32": _Datatype("int_contents", "i"),
    "INT64": _Datatype("int64_contents", "q"),
    "UINT8": _Datatype("uint_contents", "B"),
    "UINT16": _Datatype("uint_contents", "H"),
    "UINT32": _Datatype("uint_contents", "I"),
    "UINT64": _Datatype("uint64_contents", "Q"),
    "FP16": _Datatype("", "e"),
    "FP32": _Datatype("fp32_contents", "f"),
    "FP64": _Datatype("fp64_contents", "d"),
    BYTES: _Datatype("bytes_contents", ""),
}
_RANGES = {
    "BOOL": (0, 1),
    **{f"INT{bits}": (-(1 << bits - 1), (1 << bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": (0, (1 << bits) - 1) for bits in (8, 16, 32, 64)},
}
"""Least and greatest value."""
_MAX_FP32 = 3.4028234663852886e38


class TensorError(ValueError):
    """A tensor is invalid; `tensor` is its name, empty if the whole message is."""

    def __init__(self, tensor: str, problem: str) -> None:
        super().__init__(f"tensor '{tensor}': {problem}" if tensor else problem)
        self.tensor = tensor


@dataclass(frozen=True, slots=True)
class Packed:
    """Elements serialized as InferTensorContents, so that a million of them are one object to copy."""

    n: int
    contents: bytes

    def __len__(self) -> int:
        return self.n

    def elements(self, datatype: str) -> Elements:
        """The elements of a tensor with this datatype."""
        contents = InferTensorContents.FromString(self.contents)
        return list(getattr(contents, _DATATYPES[datatype].contents))


class Tensor(NamedTuple):
    name: str
    datatype: str
    shape: tuple[int, ...]
    elements: Elements


# ---- Raw form of one tensor


def to_raw(datatype: str, elements: Elements) -> bytes:
    if datatype == BYTES:
        return b"".join(struct.pack("<I", len(element)) + element for element in elements)
    return struct.pack(f"<{len(elements)}{_DATATYPES[datatype].code}", *elements)


def from_raw(name: str, datatype: str, raw: bytes, max_elements: float = math.inf) -> Elements:
    """Raises TensorError if `raw` ends inside an element, or has more than `max_elements` elements."""
    if datatype == BYTES:
        return _split_bytes(name, raw, max_elements)
    code = _DATATYPES[datatype].code
    count, rest = divmod(len(raw), struct.calcsize("<" + code))
    if rest:
        raise TensorError(name, f"{len(raw)} raw bytes are not a whole number of {datatype} elements")
    if count > max_elements:
        raise _too_many(name, datatype)
    if count > MIN_ARRAY_ELEMENTS and code == "i" and sys.byteorder == "little":
        return array("i", raw)
    return struct.unpack(f"<{count}{code}", raw)


def _too_many(name: str, datatype: str) -> TensorError:
    if datatype == BYTES:
        return TensorError(name, f"all BYTES inputs together have more than {MAX_INPUT_STRINGS} elements")
    return TensorError(name, f"all inputs together have more than {MAX_INPUT_ELEMENTS} elements")


def _split_bytes(name: str, raw: bytes, max_elements: float) -> list[bytes]:
    elements: list[bytes] = []
    at = 0
    while at < len(raw):
        if len(elements) == max_elements:
            raise _too_many(name, BYTES)
        end = at + 4
        if end <= len(raw):
            (length,) = struct.unpack_from("<I", raw, at)
            at, end = end, end + length
        if end > len(raw):
            raise TensorError(name, f"raw BYTES end inside an element ({end} bytes announced, {len(raw)} sent)")
        elements.append(raw[at:end])
        at = end
    return elements


# ---- Whole messages


def is_raw(request: ModelInferRequest) -> bool:
    return bool(request.raw_input_contents)


def packed(datatype: str, elements: Elements) -> Packed:
    contents = InferTensorContents()
    _fill(contents, datatype, elements)
    return Packed(len(elements), contents.SerializeToString())


def unpacked(datatype: str, elements: Packed) -> Elements:
    """The inverse of `packed`."""
    return list(getattr(InferTensorContents.FromString(elements.contents), _DATATYPES[datatype].contents or ""))


def n_ids(request: ModelInferRequest, name: str) -> int:
    """Returns the number of elements of an INT32 input without converting any; 0 if it is absent or of another type."""
    for i, message in enumerate(request.inputs[:MAX_TENSORS]):
        if message.name == name and message.datatype == "INT32":
            raw = request.raw_input_contents
            return len(raw[i]) // 4 if i < len(raw) else len(message.contents.int_contents)
    return 0


def add_input(request: ModelInferRequest, spec: TensorSpec, elements: Elements | Packed) -> None:
    """Appends a tensor of shape [len(elements)] in the typed form."""
    tensor = request.inputs.add(name=spec.name, datatype=spec.datatype, shape=(len(elements),))
    _fill(tensor.contents, spec.datatype, elements)


def add_tensor(request: ModelInferRequest, name: str, datatype: str, rank: int, elements: Elements) -> None:
    """Appends a tensor in the typed form, of shape [k] or, with leading dimensions of size 1, of a higher rank. Rank 0
    is for a single element. Raises TensorError for a datatype that has no typed form, or that can't hold the elements.
    """
    if not rank and len(elements) != 1:
        raise TensorError(name, f"takes a single value, not {len(elements)}")
    tensor = request.inputs.add(name=name, datatype=datatype, shape=_shape(rank, len(elements)))
    try:
        _fill(tensor.contents, datatype, elements)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise TensorError(name, f"can't be sent as {datatype}") from error


def convert_input(tensor: Any, datatype: str, rank: int) -> None:
    """Converts an input of a request, in the typed form, to another datatype and rank. Raises TensorError."""
    elements = output_elements(tensor, None)
    tensor.ClearField("shape")
    tensor.shape.extend(_shape(rank, len(elements)))
    if datatype and datatype != tensor.datatype:
        try:
            converted = exact(elements, datatype)
        except ValueError as error:
            raise TensorError(tensor.name, f"can't be sent as {datatype}: {error}") from error
        tensor.ClearField("contents")
        tensor.datatype = datatype
        _fill(tensor.contents, datatype, converted)


# ---- Datatypes


def has_typed_form(datatype: str) -> bool:
    return datatype in _DATATYPES and bool(_DATATYPES[datatype].contents)


def exact(values: Elements, datatype: str) -> Elements:
    """The values as elements of this datatype: texts stay texts, and numbers and booleans keep their value, except that
    fractions are rounded to the precision of the datatype. Raises ValueError, with the reason, for a value that the
    datatype can't hold."""
    if not has_typed_form(datatype):
        raise ValueError(f"the datatype {datatype} has no typed form")
    kinds = set(map(type, values))
    if datatype == BYTES or kinds & {bytes, str}:
        if datatype != BYTES or kinds - {bytes}:
            raise ValueError("a text is not a number" if kinds & {bytes, str} else "a number is not a text")
        return values
    if datatype in ("FP32", "FP64"):
        return [_float(value, datatype) for value in values]
    low, high = _RANGES[datatype]
    if kinds != {int} or datatype == "BOOL":
        values = [_whole(value) for value in values]
    if values and not low <= min(values) <= max(values) <= high:
        raise ValueError(f"{min(values) if min(values) < low else max(values)} is not between {low} and {high}")
    return [bool(value) for value in values] if datatype == "BOOL" else values


def _whole(value: float) -> int:
    if value != value or value in (math.inf, -math.inf) or int(value) != value:
        raise ValueError(f"{value} is not a whole number")
    return int(value)


def _float(value: float, datatype: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if datatype == "FP32" and _MAX_FP32 < abs(number) < math.inf:
        raise ValueError(f"{value} is too large")
    if (
        isinstance(value, int)
        and (struct.unpack("<f", struct.pack("<f", number))[0] if datatype == "FP32" else number) != value
    ):
        raise ValueError(f"{value} has too many digits")
    return number


def _shape(rank: int, k: int) -> tuple[int, ...]:
    return (*(1,) * (rank - 1), k) if rank else ()


def add_output(response: ModelInferResponse, spec: TensorSpec, elements: Elements, *, raw: bool) -> None:
    """Appends a tensor of shape [len(elements)] in the form that the request used."""
    tensor = response.outputs.add(name=spec.name, datatype=spec.datatype, shape=(len(elements),))
    if raw:
        response.raw_output_contents.append(to_raw(spec.datatype, elements))
    else:
        _fill(tensor.contents, spec.datatype, elements)


def read_inputs(request: ModelInferRequest) -> dict[str, Tensor]:
    """Raises TensorError for anything that neither form of the protocol allows."""
    return _read(request.inputs, request.raw_input_contents, bounded=True)


def read_outputs(response: ModelInferResponse) -> dict[str, Tensor]:
    """Raises TensorError for anything that neither form of the protocol allows."""
    return _read(response.outputs, response.raw_output_contents, bounded=False)


def output_elements(message: Any, raw: bytes | None) -> Elements:
    """Returns the elements of one output; `raw` are its raw contents, None if it is typed.

    Takes half the time of `read_outputs`: it checks neither the shape nor, unless its own field is empty, other
    fields. Raises TensorError if the contents are in a wrong field only, or if `raw` ends inside an element.
    """
    if raw is not None:
        return from_raw(message.name, message.datatype, raw)
    elements = getattr(message.contents, _DATATYPES[message.datatype].contents)
    return list(elements) or _read_typed(message, message.datatype)


def _fill(contents: InferTensorContents, datatype: str, elements: Elements | Packed) -> None:
    if isinstance(elements, Packed):
        contents.MergeFromString(elements.contents)
        return
    getattr(contents, _DATATYPES[datatype].contents).extend(elements)


def _read(messages: Sequence[Any], raw_contents: Sequence[bytes], *, bounded: bool) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    room: dict[bool, float] = {True: math.inf, False: math.inf}
    """Elements still allowed, by whether they are BYTES."""
    if bounded:
        room = {True: MAX_INPUT_STRINGS, False: MAX_INPUT_ELEMENTS}
    if len(messages) > MAX_TENSORS:
        raise TensorError("", f"{len(messages)} tensors, at most {MAX_TENSORS}")
    if raw_contents:
        for message in messages:
            if message.HasField("contents"):
                raise TensorError(message.name, "has typed contents, but the message has raw contents too")
        if len(raw_contents) != len(messages):
            raise TensorError("", f"{len(raw_contents)} raw contents for {len(messages)} tensors")
    for i, message in enumerate(messages):
        name = message.name
        if name in tensors:
            raise TensorError(name, "sent twice")
        datatype = message.datatype
        if datatype not in _DATATYPES:
            raise TensorError(name, f"unknown datatype '{datatype}'")
        if len(message.shape) > MAX_DIMENSIONS:
            raise TensorError(name, f"{len(message.shape)} dimensions, at most {MAX_DIMENSIONS}")
        shape = tuple(message.shape)
        if min(shape, default=0) < 0:
            raise TensorError(name, f"negative dimension in shape {list(shape)}")
        max_elements = room[datatype == BYTES]
        if raw_contents:
            elements = from_raw(name, datatype, raw_contents[i], max_elements)
        else:
            elements = _read_typed(message, datatype, max_elements)
        room[datatype == BYTES] = max_elements - len(elements)
        if len(elements) != math.prod(shape):
            raise TensorError(name, f"{len(elements)} elements do not fill shape {list(shape)}")
        tensors[name] = Tensor(name, datatype, shape, elements)
    return tensors


def _read_typed(message: Any, datatype: str, max_elements: float = math.inf) -> Elements:
    field = _DATATYPES[datatype].contents
    contents = message.contents
    elements: Elements = []
    if field:
        values = getattr(contents, field)
        if len(values) > max_elements:
            raise _too_many(message.name, datatype)
        elements = array("i", values) if len(values) > MIN_ARRAY_ELEMENTS and datatype == "INT32" else list(values)
    if len(contents.ListFields()) > bool(elements):
        filled = [descriptor.name for descriptor, _ in contents.ListFields()]
        raise TensorError(message.name, f"{datatype} belongs in '{field}', not in {filled}")
    return elements
