"""The places of a mapping file, bound to the tensors of one model, with their datatypes and ranks. PURE."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from openai_server.backends.dialects.base import UnusableModel
from openai_server.backends.dialects.description import Description, TensorDescription
from openai_server.backends.dialects.mapping.conversions import (
    TEXT,
    Elements,
    datatype_for,
    encoded,
    is_whole,
    kind_of,
    kind_of_value,
)
from openai_server.backends.dialects.mapping.schema import AnyConstant, Constant, Names, Place, TypedConstant
from protos import tensors
from protos.contract import TensorSpec


class Tensors:
    """The input tensors of a model. `are_listed`: whether the model has no others than those that it reports. A model
    that reports none is assumed to have all that a file names."""

    def __init__(self, description: Description, *, are_listed: bool) -> None:
        self._by_name = {tensor.name: tensor for tensor in description.inputs}
        self._are_listed = are_listed and bool(self._by_name)

    def first(self, names: Names, kind: str | None = None) -> str | None:
        """The first of the names that the model has, with a datatype for values of this kind. None: for any values."""
        alternatives = [names] if isinstance(names, str) else names
        unknown = None if self._are_listed else next((name for name in alternatives if name not in self._by_name), None)
        return next((name for name in alternatives if self._fits(name, kind)), unknown)

    def _fits(self, name: str, kind: str | None) -> bool:
        known = self._by_name.get(name)
        return known is not None and (kind is None or not known.datatype or kind_of(known.datatype) == kind)

    def place(self, name: str, datatype: str | None, rank: int | None, default_type: str) -> TensorDescription:
        """The tensor with its datatype and, as the length of the shape, its rank."""
        known = self._by_name.get(name)
        if rank is None:
            rank = len(known.shape) if known is not None and known.shape else 1
        return TensorDescription(name, datatype or (known.datatype if known else "") or default_type, (-1,) * rank)

    def text(self, names: Names, datatype: str | None = None, rank: int | None = None) -> TensorDescription | None:
        """The place of a text. None: the model lacks the tensor."""
        name = self.first(names, None if datatype else TEXT)
        return None if name is None else self.place(name, datatype, rank, tensors.BYTES)


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

    @property
    def is_whole(self) -> bool:
        """Whether the backend gets whole numbers."""
        return is_whole(self.spec.datatype) or (self.tensor is not None and is_whole(self.tensor.datatype))

    def describe(self) -> str:
        """For a person."""
        if self.tensor is not None:
            return f"tensor {self.tensor.name} ({self.tensor.datatype})"
        return f"JSON key {self.place.key}" if self.place.key else f"request parameter {self.place.parameter}"


def bind(spec: TensorSpec, names: Names | Place, inputs: Tensors) -> BoundPlace | None:
    """None: the model lacks the tensor, or has it for values of another kind. Raises UnusableModel for a constant that
    its tensor can't hold."""
    place = names if isinstance(names, Place) else Place(tensor=names)
    tensor = None
    if place.tensor is not None:
        default = tensors.BYTES if place.as_ or place.join is not None else spec.datatype
        if (name := inputs.first(place.tensor, None if place.type else kind_of(default))) is None:
            return None
        tensor = inputs.place(name, place.type, place.rank, default)
    at_zero = None if place.at_zero is None else constants(place.at_zero, inputs)
    return BoundPlace(spec, place, tensor, constants(place.with_, inputs), at_zero)


def constants(values: Mapping[str, AnyConstant], inputs: Tensors) -> list[BoundConstant]:
    """Constants for tensors that the model lacks are left out. Raises UnusableModel for a constant that its
    tensor can't hold."""
    bound = (_constant(names.split("|"), constant, inputs) for names, constant in values.items())
    return [constant for constant in bound if constant is not None]


def _constant(names: list[str], constant: AnyConstant, inputs: Tensors) -> BoundConstant | None:
    typed = constant if isinstance(constant, TypedConstant) else TypedConstant(value=constant)
    values = typed.value if isinstance(typed.value, list) else [typed.value]
    kind = kind_of_value(values[0]) if values and not typed.type else None
    if (name := inputs.first(names, kind) or inputs.first(names)) is None:
        return None
    tensor = inputs.place(name, typed.type, typed.rank, datatype_for(values))
    unfit = f"its input '{name}' of type {tensor.datatype} can't hold the constant {typed.value!r}"
    if kind not in (None, kind_of(tensor.datatype)):
        raise UnusableModel(unfit)
    if not tensor.shape and len(values) != 1:
        raise UnusableModel(f"{unfit}: it takes a single value")
    try:
        return BoundConstant(tensor, encoded(values, tensor.datatype), typed.parameters)
    except ValueError as error:
        raise UnusableModel(f"{unfit}: {error}") from error


def check_apart(uses: Iterable[tuple[str, str, str]]) -> None:
    """`uses` are names of tensors, with what is sent in them, and with the group of that: a request has only one use of
    a group. Raises UnusableModel if two values would be in one tensor."""
    found: dict[str, tuple[str, str]] = {}
    for tensor, use, group in uses:
        other, other_group = found.setdefault(tensor, (use, group))
        if other != use and other_group != group:
            raise UnusableModel(f"its input '{tensor}' would get {other} and {use}")
