"""JSON templates: constants, and values of a request, which are left out where the request has none. PURE."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from anyserve_worker.pipelines.core.errors import InvalidInput
from anyserve_worker.pipelines.http_api.paths import as_text
from anyserve_worker.pipelines.toml_errors import explained

ABSENT: Any = object()
"""The result of a template of which nothing is left."""
Scope = Callable[[str], Any]
"""Returns the value of a name; None: the request has none. Raises InvalidInput."""

_REFERENCE = re.compile(r"\{([A-Za-z_]\w*)\}")


class Leaf(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value with a conversion."""

    from_: Annotated[str, Meta(pattern=r"^[A-Za-z_]\w*$")] = field(name="from")
    default: Any = None
    """Value if the request has none."""
    map: dict[str, Any] = {}
    """Templates by value. Other values are refused, unless there is `otherwise`."""
    otherwise: Any = None
    """Template for all values that `map` lacks."""
    omit: list[Any] = []
    """Values that are left out."""
    factor: float | None = None
    min: float | None = None
    """A smaller number is raised to this."""
    max: float | None = None
    as_: Literal["list", "scalar", "text"] | None = field(default=None, name="as")
    max_items: int | None = None
    """A longer list is refused."""


@dataclass(frozen=True, slots=True)
class _Constant:
    value: Any


@dataclass(frozen=True, slots=True)
class _Reference:
    name: str


class JsonTemplate:
    def __init__(self, source: Any, where: str, allowed: Collection[str] = ()) -> None:
        """`where`: name of the template for errors. `allowed`: the values that there are; empty: any. Raises
        ValueError."""
        self._tree = _compiled(source, where)
        self.names = frozenset(_names(self._tree))
        """Names of the values that it uses."""
        for name in sorted(self.names.difference(allowed) if allowed else ()):
            raise ValueError(f"{where}: there is no value {{{name}}}; there are: {', '.join(allowed)}")

    def render(self, scope: Scope) -> Any:
        """Returns ABSENT if nothing is left. Raises InvalidInput."""
        return _rendered(self._tree, scope)


def scope_of(values: Mapping[str, Any]) -> Scope:
    return values.get


def reference(text: Any) -> str:
    """The name in `{name}`; empty: the text is no reference."""
    found = _REFERENCE.fullmatch(text) if isinstance(text, str) else None
    return found[1] if found else ""


def _compiled(source: Any, where: str) -> Any:
    if name := reference(source):
        return _Reference(name)
    if isinstance(source, str) and (found := _REFERENCE.search(source)):
        raise ValueError(
            f"{where}: {found[0]} must be the whole text; a text with it that is meant literally is {{ constant = … }}"
        )
    if isinstance(source, list):
        return [_compiled(value, f"{where}[{i}]") for i, value in enumerate(source)]
    if not isinstance(source, dict):
        return _Constant(source)
    if source.keys() == {"constant"}:
        return _Constant(source["constant"])
    if "from" not in source:
        return {key: _compiled(value, f"{where}.{key}") for key, value in source.items()}
    try:
        leaf = msgspec.convert(source, Leaf)
    except msgspec.ValidationError as error:
        raise ValueError(f"{where}: {explained(error, Leaf)}") from None
    return msgspec.structs.replace(
        leaf,
        map={key: _compiled(value, f"{where}.map.{key}") for key, value in leaf.map.items()},
        otherwise=None if leaf.otherwise is None else _compiled(leaf.otherwise, f"{where}.otherwise"),
    )


def _names(tree: Any) -> Iterator[str]:
    if isinstance(tree, _Reference):
        yield tree.name
    elif isinstance(tree, Leaf):
        yield tree.from_
        for value in (*tree.map.values(), tree.otherwise):
            yield from _names(value)
    elif isinstance(tree, dict | list):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _names(value)


def _rendered(tree: Any, scope: Scope) -> Any:
    match tree:
        case _Constant(value):
            return value
        case _Reference(name):
            value = scope(name)
            return ABSENT if value is None else value
        case Leaf():
            return _converted(tree, scope)
        case list():
            values = [value for value in (_rendered(element, scope) for element in tree) if value is not ABSENT]
            return values if values or not tree else ABSENT
        case _:
            fields = {key: _rendered(value, scope) for key, value in tree.items()}
            fields = {key: value for key, value in fields.items() if value is not ABSENT}
            return fields if fields or not tree else ABSENT


def _converted(leaf: Leaf, scope: Scope) -> Any:
    value = scope(leaf.from_)
    value = leaf.default if value is None else value
    if value is None or value in leaf.omit:
        return ABSENT
    if leaf.map:
        text = as_text(value)
        if text not in leaf.map and leaf.otherwise is not None:
            return _rendered(leaf.otherwise, scope)
        if text not in leaf.map:
            allowed = ", ".join(leaf.map)
            raise InvalidInput(f"This model supports these values of '{leaf.from_}': {allowed}.", field=leaf.from_)
        return _rendered(leaf.map[text], scope)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = _number(leaf, value)
    if leaf.max_items is not None and isinstance(value, list) and len(value) > leaf.max_items:
        raise InvalidInput(
            f"This model supports at most {leaf.max_items} elements of '{leaf.from_}'.", field=leaf.from_
        )
    if leaf.as_ == "list":
        return value if isinstance(value, list) else [value]
    if leaf.as_ == "scalar" and isinstance(value, list):
        if len(value) > 1:
            raise InvalidInput(f"This model supports a single value of '{leaf.from_}'.", field=leaf.from_)
        return value[0] if value else ABSENT
    return as_text(value) if leaf.as_ == "text" else value


def _number(leaf: Leaf, value: float) -> float:
    if leaf.factor is not None:
        is_whole = isinstance(value, int) and leaf.factor.is_integer()
        value = value * int(leaf.factor) if is_whole else value * leaf.factor
    if leaf.min is not None and value < leaf.min:
        value = leaf.min
    if leaf.max is not None and value > leaf.max:
        value = leaf.max
    return value
