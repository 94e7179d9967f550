"""Values of a request as elements of tensors, JSON and parameters. PURE.

No value is changed in silence: what a datatype can't hold is an error.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from openai_server.backends.dialects.inputs import fold_seed
from openai_server.backends.dialects.mapping.schema import Constant
from protos import tensors

Elements = Sequence[Any]
TEXT, BOOLEAN, NUMBER = "text", "boolean", "number"


def kind_of(datatype: str) -> str | None:
    """The kind of values that a tensor of this datatype is for; None for a datatype without a typed form."""
    if not tensors.has_typed_form(datatype):
        return None
    return TEXT if datatype == tensors.BYTES else BOOLEAN if datatype == "BOOL" else NUMBER


def kind_of_value(value: Constant) -> str:
    return TEXT if isinstance(value, str) else BOOLEAN if isinstance(value, bool) else NUMBER


def is_whole(datatype: str) -> bool:
    """Whether the datatype holds whole numbers."""
    return datatype.startswith(("INT", "UINT"))


def datatype_for(values: Sequence[Constant]) -> str:
    """The datatype of constants for a tensor that the model doesn't report."""
    if not values or isinstance(values[0], str):
        return tensors.BYTES
    if isinstance(values[0], bool):
        return "BOOL"
    if any(isinstance(value, float) for value in values):
        return "FP32"
    return "INT32" if all(-(1 << 31) <= int(value) < 1 << 31 for value in values) else "INT64"


def encoded(values: Elements, datatype: str) -> Elements:
    """The values as elements of this datatype. Numbers and booleans become text as in JSON. Raises ValueError, with the
    reason, if the datatype can't hold a value."""
    if datatype == tensors.BYTES:
        return [value if isinstance(value, bytes) else plain(value).encode() for value in values]
    return tensors.exact(values, datatype)


def plain(element: Any) -> str:
    """The element as text."""
    if isinstance(element, bytes):
        return element.decode(errors="replace")
    return element if isinstance(element, str) else orjson.dumps(element).decode()


def json_value(elements: Elements, *, is_list: bool) -> Any:
    values = [plain(element) if isinstance(element, bytes) else element for element in elements]
    return values if is_list else values[0]


def set_at(target: dict[str, Any], path: str, value: Any) -> None:
    """Sets the value at the path of keys with dots."""
    *parents, last = path.split(".")
    for parent in parents:
        target = target.setdefault(parent, {})
    target[last] = value


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `changes`; objects in both are merged."""
    return base | {
        key: merged(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
        for key, value in changes.items()
    }


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


def seed_for(seed: int, datatype: str | None) -> int:
    """The client's seed for a tensor of this datatype. None: for a JSON key or a parameter."""
    if datatype is None:
        return seed & 0x7FFFFFFFFFFFFFFF  # engines refuse negative seeds, or take -1 as none
    if datatype == "INT64":
        return seed
    if datatype == "UINT64":
        return seed & 0xFFFFFFFFFFFFFFFF
    if datatype == "UINT32":
        return (seed ^ (seed >> 32)) & 0xFFFFFFFF
    return fold_seed(seed)
