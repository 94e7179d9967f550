"""Closes the objects of a JSON Schema that are silent about further members, which small models invent without end.

PURE. A schema that has valid values still has one: an object is closed only where no other part of the schema may
require a member that it doesn't name. So nothing is closed inside the branches of `allOf`, `anyOf`, `oneOf`, `not`,
`if` and their like, nor inside members and items of which another part speaks as well. A definition that is used both
inside and outside of branches becomes two, one of them closed. A union with null (pydantic's `Optional[Model]`) is no
such combiner: nothing but the one branch speaks of the object.
"""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote

Schema = dict[str, Any]
Steps = tuple[str, ...]
"""Keys that lead from the root to a subschema."""

MAX_VISITS = 4096
"""Subschemas to look at, those of a definition once for each of its two forms: 10 ms of work. A larger schema stays as
it is."""

_DEFINITIONS = ("$defs", "definitions")
_CHILDREN = frozenset({"additionalItems", "additionalProperties", "items", "prefixItems"})
"""Keywords with schemas for members or items, beside `properties` and `patternProperties`."""
_BY_NAME = frozenset({"dependencies", "dependentSchemas", "patternProperties", "properties"})
"""Keywords with a schema for each of some names."""
_LISTS = frozenset({"allOf", "anyOf", "oneOf"})
_IN_PLACE = _LISTS | {"dependencies", "dependentSchemas", "else", "if", "not", "then"}
"""Keywords with schemas for the value itself."""
_BRANCHES = _IN_PLACE | {"contains", "propertyNames", "unevaluatedItems", "unevaluatedProperties"}
"""Keywords in whose schemas nothing is closed."""
_NOT_SILENT = (_IN_PLACE - {"dependencies"}) | {
    *("$ref", "additionalProperties", "const", "enum", "patternProperties", "unevaluatedProperties"),
}
_ANNOTATIONS = frozenset(
    {
        *("$comment", "$id", "$schema", "default", "deprecated", "description", "examples", "nullable"),
        *("readOnly", "title", "writeOnly", *_DEFINITIONS),
    }
)
"""Keywords that may stand beside a reference whose target is to be closed."""
_OF_ITSELF = _ANNOTATIONS | {
    *("dependentRequired", "exclusiveMaximum", "exclusiveMinimum", "format", "maxItems", "maxLength", "maxProperties"),
    *("maximum", "minItems", "minLength", "minProperties", "minimum", "multipleOf", "pattern", "propertyNames"),
    *("required", "type"),
}
"""Keywords that speak of no member's or item's inside."""
_UNFOLLOWED = frozenset({"$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveAnchor", "$recursiveRef"})
_WITH_SCHEMAS = _CHILDREN | _BY_NAME | _BRANCHES | _UNFOLLOWED | {"$id", "$ref", *_DEFINITIONS}
"""Keywords of a schema that is not a leaf."""
_EVERYTHING = frozenset({""})
"""In place of names of members: all members, and all items."""


class _StaysOpen(Exception):
    """The schema is too large, or has references that can't be followed."""


def closed(schema: Schema) -> Schema:
    """The schema with such objects closed, or itself if there are none. Shares parts with it."""
    closing = _Closing(schema)
    try:
        result = closing.root()
    except (_StaysOpen, RecursionError):
        return schema
    return result if closing.n_closed else schema


class _Closing:
    def __init__(self, root: Schema) -> None:
        self._root = root
        self._n_left = MAX_VISITS
        self._places: dict[tuple[Steps, bool], Steps] = {}
        """Where definitions are in the result, by where they were and whether they are closed."""
        self._unwritten: list[tuple[Steps, bool]] = []
        self.n_closed = 0

    def root(self) -> Schema:
        result: Schema = self._schema(self._root, close=True)
        while self._unwritten:
            steps, close = key = self._unwritten.pop()
            container, name = self._places[key]
            result.setdefault(container, {})[name] = self._schema(self._target(steps), close=close)
        return result

    def _schema(self, schema: Any, *, close: bool) -> Any:
        if not isinstance(schema, dict):
            return schema
        self._visit()
        if _WITH_SCHEMAS.isdisjoint(schema):
            return schema
        if not _UNFOLLOWED.isdisjoint(schema) or ("$id" in schema and schema is not self._root):
            raise _StaysOpen
        shared = self._shared(schema) if close else _EVERYTHING
        result: Schema = {}
        for key, value in schema.items():
            if key == "$ref":
                result[key] = self._reference(value, close=close and schema.keys() <= {key, *_ANNOTATIONS})
            elif key in _BY_NAME and isinstance(value, dict):
                may_close = key not in _BRANCHES and "" not in shared
                result[key] = {
                    name: self._schema(item, close=may_close and name not in shared) for name, item in value.items()
                }
            elif key in _CHILDREN or key in _BRANCHES:
                may_close = (key in _CHILDREN and "" not in shared) or (close and _is_nullable(schema, key))
                if isinstance(value, list):
                    result[key] = [self._schema(item, close=may_close) for item in value]
                else:
                    result[key] = self._schema(value, close=may_close)
            elif key not in _DEFINITIONS:  # of which those that are used follow
                result[key] = value
        if close and _is_silent(schema):
            result["additionalProperties"] = False
            self.n_closed += 1
        return result

    def _visit(self) -> None:
        self._n_left -= 1
        if self._n_left < 0:
            raise _StaysOpen

    # ---- References

    def _reference(self, reference: Any, *, close: bool) -> str:
        """To the form of the definition that is closed, or to the other one."""
        steps = _steps(reference)
        key = steps, close
        if key not in self._places:
            self._places[key] = self._free_place(steps)
            self._unwritten.append(key)
        place = self._places[key]
        return str(reference) if place == steps else "#/" + "/".join(map(_escaped, place))

    def _free_place(self, steps: Steps) -> Steps:
        """Where it was, if that is among the definitions and not taken by its other form."""
        taken = set(self._places.values())
        if len(steps) == 2 and steps[0] in _DEFINITIONS and steps not in taken:
            return steps
        container, n = _DEFINITIONS[0], 2
        known = _object(self._root.get(container))
        while (place := (container, f"{steps[-1] if steps else 'root'}-{n}")) in taken or place[1] in known:
            n += 1
        return place

    def _target(self, steps: Steps) -> Any:
        found: Any = self._root
        for step in steps:
            if isinstance(found, dict) and step in found:
                found = found[step]
            elif isinstance(found, list) and step.isascii() and step.isdecimal() and int(step) < len(found):
                found = found[int(step)]
            else:
                raise _StaysOpen
        return found

    # ---- Members and items for which there are several schemas

    def _shared(self, schema: Schema) -> frozenset[str]:
        """Names of members inside which nothing is closed."""
        if not {"const", "contains", "enum"}.isdisjoint(schema):
            return _EVERYTHING
        patterns = _object(schema.get("patternProperties"))
        if patterns and (len(patterns) > 1 or schema.get("properties")):
            return _EVERYTHING
        if schema.get("uniqueItems") and _number(schema.get("minItems")) > 1:
            return _EVERYTHING  # There may be fewer closed items than there must be different ones.
        if "$ref" not in schema and _IN_PLACE.isdisjoint(schema):
            return frozenset()
        seen: set[Steps] = set()
        return frozenset().union(*(self._named(branch, seen) for branch in self._in_place(schema, seen)))

    def _named(self, branch: Any, seen: set[Steps]) -> frozenset[str]:
        """Names of members of which a branch speaks."""
        if not isinstance(branch, dict):
            return frozenset()
        self._visit()
        if branch.keys() - _OF_ITSELF - _IN_PLACE - {"$ref", "properties"}:
            return _EVERYTHING
        names = frozenset(_object(branch.get("properties")))
        return names.union(*(self._named(inner, seen) for inner in self._in_place(branch, seen)))

    def _in_place(self, schema: Schema, seen: set[Steps]) -> Iterator[Any]:
        """Other schemas for the same value. `seen`: references that have been followed."""
        for key in _IN_PLACE & schema.keys():
            value = schema[key]
            if key in _LISTS and isinstance(value, list):
                yield from value
            elif key in _BY_NAME and isinstance(value, dict):
                yield from value.values()
            else:
                yield value
        if "$ref" in schema and (steps := _steps(schema["$ref"])) not in seen:
            seen.add(steps)
            yield self._target(steps)


def _is_silent(schema: Schema) -> bool:
    """Whether an object says nothing of members that it does not name."""
    properties = _object(schema.get("properties"))
    if not properties or not _NOT_SILENT.isdisjoint(schema):
        return False
    required = schema.get("required")
    names = set(map(str, required)) if isinstance(required, list) else set()
    needed = set(names)
    dependent = [schema[key] for key in ("dependencies", "dependentRequired") if key in schema]
    for dependencies in dependent:
        for more in _object(dependencies).values():
            if not isinstance(more, list):
                return False
            needed.update(map(str, more))
    if not needed <= properties.keys():
        return False
    least = _number(schema.get("minProperties"))
    if least <= len(names):
        return True
    if dependent or "propertyNames" in schema:
        return False
    return least <= len(names) + sum(_is_plain(item) for name, item in properties.items() if name not in names)


def _is_nullable(schema: Schema, key: str) -> bool:
    """Whether it is nothing but a union of one schema and null."""
    branches = schema[key]
    if key not in ("anyOf", "oneOf") or not isinstance(branches, list) or not schema.keys() <= {key, *_ANNOTATIONS}:
        return False
    others = [branch for branch in branches if not (isinstance(branch, dict) and branch.get("type") == "null")]
    return len(others) == 1 < len(branches)


def _is_plain(schema: Any) -> bool:
    """Whether it is easily seen that there is a value for it."""
    if not isinstance(schema, dict):
        return schema is True
    assertions = schema.keys() - _ANNOTATIONS
    return not assertions or (assertions == {"type"} and bool(schema["type"])) or assertions == {"const"}


def _steps(reference: Any) -> Steps:
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise _StaysOpen
    return tuple(unquote(step).replace("~1", "/").replace("~0", "~") for step in reference.split("/")[1:])


def _escaped(step: str) -> str:
    return quote(step.replace("~", "~0").replace("/", "~1"), safe="~!$&'()*+,;=:@")


def _object(value: Any) -> dict[str, Any]:
    """Empty for what is none: a client may send anything."""
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) else 0
