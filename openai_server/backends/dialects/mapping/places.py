"""The places of a mapping file, bound to the tensors of one model, with their datatypes and ranks. PURE."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from openai_server.backends.dialects.description import Description, TensorDescription
from openai_server.backends.dialects.inputs import fold_seed
from openai_server.backends.dialects.mapping.schema import AnyConstant, Constant, Names, Place, TypedConstant
from openai_server.core.errors import UnsupportedParameter
from protos import tensors
from protos.contract import TensorSpec
from protos.grpc_predict_v2_pb2 import ModelInferRequest

Elements = Sequence[Any]


class Tensors:
    """The input tensors of a model. `are_listed`: whether the model has no others than those that it reports. A model
    that reports none is assumed to have all that a file names."""

    def __init__(self, description: Description, *, are_listed: bool) -> None:
        self._by_name = {tensor.name: tensor for tensor in description.inputs}
        self._are_listed = are_listed and bool(self._by_name)

    def first(self, names: Names) -> str | None:
        """The first of the names that the model has."""
        alternatives = [names] if isinstance(names, str) else names
        fallback = None if self._are_listed else alternatives[0]
        return next((name for name in alternatives if name in self._by_name), fallback)

    def place(self, name: str, datatype: str | None, rank: int | None, default_type: str) -> TensorDescription:
        """The tensor with its datatype and, as the length of the shape, its rank."""
        known = self._by_name.get(name)
        if rank is None:
            rank = len(known.shape) if known is not None and known.shape else 1
        return TensorDescription(name, datatype or (known.datatype if known else "") or default_type, (-1,) * rank)


@dataclass(frozen=True, slots=True)
class BoundConstant:
    tensor: TensorDescription
    elements: Elements
    parameters: Mapping[str, Constant] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BoundPlace:
    """The place of one input of the contract. It has one of `tensor`, `key` and `parameter`."""

    spec: TensorSpec
    place: Place
    tensor: TensorDescription | None
    constants: Sequence[BoundConstant]
    constants_at_zero: Sequence[BoundConstant] | None

    @property
    def is_list(self) -> bool:
        """Whether the input may have several elements."""
        return self.spec.shape != (1,)

    def describe(self) -> str:
        """For a person."""
        if self.tensor is not None:
            return f"tensor {self.tensor.name} ({self.tensor.datatype})"
        return f"JSON key {self.place.key}" if self.place.key else f"request parameter {self.place.parameter}"


def bind(spec: TensorSpec, names: Names | Place, inputs: Tensors) -> BoundPlace | None:
    """None: the model lacks the tensor."""
    place = names if isinstance(names, Place) else Place(tensor=names)
    tensor = None
    if place.tensor is not None:
        if (name := inputs.first(place.tensor)) is None:
            return None
        default = tensors.BYTES if place.as_ or place.join is not None else spec.datatype
        tensor = inputs.place(name, place.type, place.rank, default)
    at_zero = None if place.at_zero is None else constants(place.at_zero, inputs)
    return BoundPlace(spec, place, tensor, constants(place.with_, inputs), at_zero)


def constants(values: Mapping[str, AnyConstant], inputs: Tensors) -> list[BoundConstant]:
    """Constants for tensors that the model lacks are left out."""
    bound = []
    for names, constant in values.items():
        if (name := inputs.first(names.split("|"))) is None:
            continue
        typed = constant if isinstance(constant, TypedConstant) else TypedConstant(value=constant)
        values_ = typed.value if isinstance(typed.value, list) else [typed.value]
        tensor = inputs.place(name, typed.type, typed.rank, _datatype_of(values_[0] if values_ else ""))
        bound.append(BoundConstant(tensor, encoded(values_, tensor.datatype), typed.parameters))
    return bound


def _datatype_of(value: Constant) -> str:
    if isinstance(value, bool):
        return "BOOL"
    return "INT32" if isinstance(value, int) else "FP32" if isinstance(value, float) else tensors.BYTES


def encoded(values: Elements, datatype: str) -> Elements:
    """The values as elements of this datatype."""
    if datatype == tensors.BYTES:
        return [value if isinstance(value, bytes) else str(value).encode() for value in values]
    if datatype.startswith("FP"):
        return [float(value) for value in values]
    return [bool(value) if datatype == "BOOL" else int(value) for value in values]


# ---- Requests


class Draft:
    """A request that is being built for one model."""

    def __init__(self, request: ModelInferRequest) -> None:
        self.request = request
        self.json: dict[str, Any] = {}
        self._names: set[str] = set()

    def add(
        self, tensor: TensorDescription, elements: Elements, parameters: Mapping[str, Constant] | None = None
    ) -> None:
        """Adds a tensor, unless it was added before. Raises TensorError."""
        if tensor.name in self._names:
            return
        self._names.add(tensor.name)
        tensors.add_tensor(self.request, tensor.name, tensor.datatype, len(tensor.shape), elements)
        for name, value in (parameters or {}).items():
            set_parameter(self.request.inputs[-1].parameters[name], value)

    def put(self, place: BoundPlace, elements: Elements, field_name: str) -> None:
        """Adds the input at its place. Raises UnsupportedParameter if the backend can't take the value."""
        settings = place.place
        if settings.min is not None and min(elements) < settings.min:
            raise _out_of_range(field_name, f"at least {settings.min:g}", elements)
        if settings.max is not None and max(elements) > settings.max:
            raise _out_of_range(field_name, f"at most {settings.max:g}", elements)
        if place.constants_at_zero is not None and list(elements) == [0]:
            self.add_constants(place.constants_at_zero)
            return
        if settings.zero is not None and list(elements) == [0]:
            elements = [settings.zero]
        try:
            self._put(place, elements)
        except tensors.TensorError as error:
            raise UnsupportedParameter(field_name, f"'{field_name}' can't be sent to this model: {error}.") from error
        self.add_constants(place.constants)

    def _put(self, place: BoundPlace, elements: Elements) -> None:
        settings = place.place
        if settings.factor is not None:
            elements = [value * settings.factor for value in elements]
        if settings.join is not None:
            elements = [settings.join.join(map(_plain, elements)).encode()]
        is_list = place.is_list and settings.join is None
        if settings.as_ == "json":
            value = _json_value(elements, is_list=is_list)
            elements, is_list = [orjson.dumps({settings.inside: value} if settings.inside else value)], False
        if place.tensor is not None:
            self.add(place.tensor, encoded(elements, place.tensor.datatype), settings.parameters)
        elif settings.key is not None:
            _set(self.json, settings.key, _json_value(elements, is_list=is_list))
        elif settings.parameter is not None:
            value = _json_value(elements, is_list=is_list)
            set_parameter(
                self.request.parameters[settings.parameter],
                orjson.dumps(value).decode() if isinstance(value, list) else value,
            )

    def add_constants(self, constants: Sequence[BoundConstant]) -> None:
        for constant in constants:
            self.add(constant.tensor, constant.elements, constant.parameters)


def _out_of_range(field_name: str, bound: str, elements: Elements) -> UnsupportedParameter:
    message = f"'{field_name}' must be {bound} for this model's backend, got {elements[0]}."
    return UnsupportedParameter(field_name, message)


def for_seed(seed: int, place: BoundPlace) -> int:
    """The client's seed as the datatype of its place can hold it."""
    if place.tensor is None:
        return seed & 0x7FFFFFFFFFFFFFFF  # engines refuse negative seeds, or take -1 as none
    if place.tensor.datatype == "INT64":
        return seed
    if place.tensor.datatype == "UINT64":
        return seed & 0xFFFFFFFFFFFFFFFF
    if place.tensor.datatype == "UINT32":
        return (seed ^ (seed >> 32)) & 0xFFFFFFFF
    return fold_seed(seed)


def set_parameter(parameter: Any, value: Constant) -> None:
    """Sets an InferParameter."""
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        parameter.int64_param = value
    elif isinstance(value, float):
        parameter.double_param = value
    else:
        parameter.string_param = value


def _plain(element: Any) -> str:
    return element.decode(errors="replace") if isinstance(element, bytes) else str(element)


def _json_value(elements: Elements, *, is_list: bool) -> Any:
    plain = [_plain(element) if isinstance(element, bytes) else element for element in elements]
    return plain if is_list else plain[0]


def _set(target: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        target = target.setdefault(parent, {})
    target[last] = value
