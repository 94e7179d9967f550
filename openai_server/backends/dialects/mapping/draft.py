"""A request that is built for one model. PURE."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from openai_server.backends.dialects.description import TensorDescription
from openai_server.backends.dialects.mapping.conversions import (
    Elements,
    encoded,
    json_value,
    plain,
    set_at,
    set_parameter,
)
from openai_server.backends.dialects.mapping.places import BoundConstant, BoundPlace
from openai_server.backends.dialects.mapping.schema import Constant
from openai_server.core.errors import UnsupportedParameter
from protos import tensors
from protos.grpc_predict_v2_pb2 import ModelInferRequest


class Draft:
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

    def add_constants(self, constants: Sequence[BoundConstant]) -> None:
        for constant in constants:
            self.add(constant.tensor, constant.elements, constant.parameters)

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
        try:
            self._put(place, _changed(place, elements))
        except ValueError as error:
            raise UnsupportedParameter(field_name, f"'{field_name}' can't be sent to this model: {error}.") from error
        self.add_constants(place.constants)

    def _put(self, place: BoundPlace, elements: Elements) -> None:
        settings = place.place
        if settings.join is not None:
            elements = [settings.join.join(map(plain, elements)).encode()]
        is_list = place.is_list and settings.join is None
        if settings.as_ == "json":
            value = json_value(elements, is_list=is_list)
            elements, is_list = [orjson.dumps({settings.inside: value} if settings.inside else value)], False
        if place.tensor is not None:
            self.add(place.tensor, _encoded(elements, place.tensor), settings.parameters)
        elif settings.key is not None:
            set_at(self.json, settings.key, json_value(elements, is_list=is_list))
        elif settings.parameter is not None:
            value = json_value(elements, is_list=is_list)
            set_parameter(
                self.request.parameters[settings.parameter],
                orjson.dumps(value).decode() if isinstance(value, list) else value,
            )


def _changed(place: BoundPlace, elements: Elements) -> Elements:
    """The elements as the backend counts them."""
    settings = place.place
    if settings.zero is not None and list(elements) == [0]:
        elements = [int(settings.zero) if settings.zero.is_integer() and place.is_whole else settings.zero]
    if settings.factor is not None:
        elements = [value * settings.factor for value in elements]
        if place.is_whole:
            elements = [round(value) for value in elements]
    return elements


def _encoded(elements: Elements, tensor: TensorDescription) -> Elements:
    """Raises TensorError."""
    try:
        return encoded(elements, tensor.datatype)
    except ValueError as error:
        raise tensors.TensorError(tensor.name, f"{error} ({tensor.datatype})") from error


def _out_of_range(field_name: str, bound: str, elements: Elements) -> UnsupportedParameter:
    message = f"'{field_name}' must be {bound} for this model's backend, got {elements[0]}."
    return UnsupportedParameter(field_name, message)
