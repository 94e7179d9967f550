"""Tables that decide how each key of a JSON object, and of the objects in it, is handled. PURE.

A table decides by name: a key that is not in the table is refused, and a null key counts as absent. So `clean` removes
nulls before the conversion. A value without a table, such as a JSON Schema, is data and is left unchanged.
"""

import logging
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson
from msgspec import Struct

from anyserve_common.text import shortened
from openai_server.api.schemas.bounds import Place, path_of
from openai_server.core.errors import InvalidRequest, UnsupportedParameter

log = logging.getLogger(__name__)

MAX_ITEMS = 8192
"""Longest list whose items are checked. The API refuses every longer list."""


class Table(Protocol):
    """The allowed value at one place of a body. A value of another type is left to the conversion, which refuses it."""

    def clean(self, value: Any, place: Place = None) -> None:
        """Removes null fields. Raises InvalidRequest for a key that would be ignored."""


@dataclass(frozen=True, slots=True)
class Fields:
    """The keys of one kind of object."""

    mapped: frozenset[str]
    """Attributes of the msgspec Struct."""
    no_effect: frozenset[str] = frozenset()
    """Keys that have no effect on the output, whatever their value."""
    neutral: Mapping[str, Sequence[object]] = field(default_factory=dict)
    """Unsupported keys, with the values that are accepted because they change nothing. null is accepted too."""
    family: Set[str] = frozenset()
    """Keys of this object and related ones. A key that only related objects have may be null."""
    nested: Mapping[str, Table] = field(default_factory=dict)
    """Tables for the attributes that hold objects."""
    is_open: bool = False
    """Whether all further keys are accepted. Only for objects that have no effect as a whole, or are only shown to the
    model, and for an API that requires it: other servers add keys to theirs."""
    implied_tag: str = ""
    """The key that identifies the kind of object, if it may be absent; empty if it is required."""

    def clean(self, value: Any, place: Place = None) -> None:
        if not isinstance(value, dict):
            return
        mapped, nested, nulls = self.mapped, self.nested, []
        for key, item in value.items():
            if key not in mapped:
                if key not in self.no_effect:
                    self._check(key, item, place)
            elif item is None:
                nulls.append(key)
            elif key in nested:
                nested[key].clean(item, (place, key))
        for key in nulls:
            del value[key]

    def _check(self, key: str, item: object, place: Place) -> None:
        if item is None and (key in self.neutral or key in self.family):
            return
        param = path_of((place, shortened(key)))
        if (values := self.neutral.get(key)) is None:
            if self.is_open:
                log.debug("ignored: %s", param)
                return
            raise InvalidRequest(f"Unrecognized request argument supplied: {param}", param=param)
        if not any(_same(item, value) for value in values):
            raise UnsupportedParameter(param, f"'{param}' is not supported by this server{_exceptions(values)}.")

    @property
    def null_only(self) -> frozenset[str]:
        """Keys that only related objects have; here they may only be null."""
        return frozenset(self.family - self.mapped - self.no_effect - self.neutral.keys())


@dataclass(frozen=True, slots=True)
class Variants:
    """An object of one of several kinds. The value of one required key identifies the kind."""

    tag: str
    tables: Mapping[str, Table]

    def clean(self, value: Any, place: Place = None) -> None:
        if not isinstance(value, dict):
            return
        tag = value.get(self.tag)
        if tag is None:
            raise missing(path_of((place, self.tag)))
        if isinstance(tag, str) and (table := self.tables.get(tag)) is not None:
            table.clean(value, place)


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list with one table for all its items."""

    table: Table

    def clean(self, value: Any, place: Place = None) -> None:
        if isinstance(value, list) and len(value) <= MAX_ITEMS:
            for i, item in enumerate(value):
                self.table.clean(item, (place, i))


@dataclass(frozen=True, slots=True)
class KnownItems(ListOf):
    """A list of objects of several kinds, with one table for each. Objects of other kinds are removed."""

    table: Variants

    def clean(self, value: Any, place: Place = None) -> None:
        if not isinstance(value, list) or len(value) > MAX_ITEMS:
            return
        unknown = set()
        for i, item in enumerate(value):
            kind = item.get(self.table.tag) if isinstance(item, dict) else None
            if isinstance(kind, str) and kind not in self.table.tables:
                log.debug("ignored: %s, which has the type %s", path_of((place, i)), shortened(kind))
                unknown.add(i)
            else:
                self.table.clean(item, (place, i))
        if unknown:
            value[:] = [item for i, item in enumerate(value) if i not in unknown]


class Entries:
    """An object whose keys the client chooses. Keys with null are removed."""

    def clean(self, value: Any, place: Place = None) -> None:
        if isinstance(value, dict):
            for key in [key for key, item in value.items() if item is None]:
                del value[key]


class Family:
    """Related objects. Clients write them with one type, which has the keys of all of them."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def fields(
        self,
        mapped: frozenset[str],
        no_effect: frozenset[str] = frozenset(),
        neutral: Mapping[str, Sequence[object]] | None = None,
        nested: Mapping[str, Table] | None = None,
    ) -> Fields:
        neutral = neutral or {}
        self._names |= mapped | no_effect | neutral.keys()
        return Fields(mapped, no_effect, neutral, self._names, nested or {})


def missing(param: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid '{param}': This field is required.", param=param)


def mapped(struct: type[Struct]) -> frozenset[str]:
    """All attributes of the Struct, and its tag field."""
    tag = struct.__struct_config__.tag_field
    return frozenset(struct.__struct_fields__) | ({tag} if tag else set())


def _same(item: object, value: object) -> bool:
    """Whether two values are equal as JSON: 1 equals 1.0, but 0 doesn't equal false."""
    return item == value and isinstance(item, bool) == isinstance(value, bool)


def _exceptions(values: Sequence[object]) -> str:
    return f", except as {' or '.join(orjson.dumps(value).decode() for value in values)}" if values else ""
