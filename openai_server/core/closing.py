"""Closes the objects of a JSON Schema that don't mention additional members, since small models invent such members
without end.

PURE. A schema that has valid values still has one afterwards: an object is closed only where no other part of the
schema can require a member that it doesn't name. So nothing is closed inside the branches of `allOf`, `anyOf`, `oneOf`,
`not`, `if` and similar keywords, nor inside members and items that another part constrains too. A definition that is
used both inside and outside of branches is duplicated, and one of the two is closed. A union with null (pydantic's
`Optional[Model]`) is not treated as a combiner: only its one branch constrains the object.
"""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote

Schema = dict[str, Any]
Steps = tuple[str, ...]
"""Keys on the path from the root to a subschema."""

MAX_VISITS = 4096
"""Subschemas to visit, counting both forms of a definition: 10 ms of work. A larger schema is left unchanged."""

_DEFINITIONS = ("$defs", "definitions")
_CHILDREN = frozenset({"additionalItems", "additionalProperties", "items", "prefixItems"})
"""Keywords with schemas for members or items, beside `properties` and `patternProperties`."""
_BY_NAME = frozenset({"dependencies", "dependentSchemas", "patternProperties", "properties"})
"""Keywords with a schema per name."""
_LISTS = frozenset({"allOf", "anyOf", "oneOf"})
_IN_PLACE = _LISTS | {"dependencies", "dependentSchemas", "else", "if", "not", "then"}
"""Keywords with schemas for the value itself, rather than for its members or items."""
_BRANCHES = _IN_PLACE | {"contains", "propertyNames", "unevaluatedItems", "unevaluatedProperties"}
"""Keywords whose subschemas stay as they are."""
_MAY_ADD_MEMBERS = (_IN_PLACE - {"dependencies"}) | {
    *("$ref", "additionalProperties", "const", "enum", "patternProperties", "unevaluatedProperties"),
}
"""Keywords of an object that may allow or require additional members."""
_ANNOTATIONS = frozenset(
    {
        *("$comment", "$id", "$schema", "default", "deprecated", "description", "examples", "nullable"),
        *("readOnly", "title", "writeOnly", *_DEFINITIONS),
    }
)
"""Keywords that may accompany a reference whose target is closed."""
_SHALLOW = _ANNOTATIONS | {
    *("dependentRequired", "exclusiveMaximum", "exclusiveMinimum", "format", "maxItems", "maxLength", "maxProperties"),
    *("maximum", "minItems", "minLength", "minProperties", "minimum", "multipleOf", "pattern", "propertyNames"),
    *("required", "type"),
}
"""Keywords that don't constrain the contents of a member or item."""
_UNSUPPORTED_REFERENCES = frozenset({"$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveAnchor", "$recursiveRef"})
_WITH_SCHEMAS = _CHILDREN | _BY_NAME | _BRANCHES | _UNSUPPORTED_REFERENCES | {"$id", "$ref", *_DEFINITIONS}
"""Keywords that make a schema more than a leaf."""
_EVERYTHING = frozenset({""})
"""Stands for the names of all members, and for all items."""


class _StaysOpen(Exception):
    """The schema is too large, or has references that this module can't follow."""


def closed(schema: Schema) -> Schema:
    """The schema with its open objects closed, or the same schema if there are none. The two share parts."""
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
        """Path of each definition in the result, by its original path and whether it is closed."""
        self._pending: list[tuple[Steps, bool]] = []
        self.n_closed = 0

    def root(self) -> Schema:
        result: Schema = self._schema(self._root, close=True)
        while self._pending:
            steps, close = key = self._pending.pop()
            container, name = self._places[key]
            result.setdefault(container, {})[name] = self._schema(self._target(steps), close=close)
        return result

    def _schema(self, schema: Any, *, close: bool) -> Any:
        if not isinstance(schema, dict):
            return schema
        self._visit()
        if _WITH_SCHEMAS.isdisjoint(schema):
            return schema
        if not _UNSUPPORTED_REFERENCES.isdisjoint(schema) or ("$id" in schema and schema is not self._root):
            raise _StaysOpen
        kept_open = self._kept_open(schema) if close else _EVERYTHING
        result: Schema = {}
        for key, value in schema.items():
            if key == "$ref":
                result[key] = self._reference(value, close=close and schema.keys() <= {key, *_ANNOTATIONS})
            elif key in _BY_NAME and isinstance(value, dict):
                may_close = key not in _BRANCHES and "" not in kept_open
                result[key] = {
                    name: self._schema(item, close=may_close and name not in kept_open) for name, item in value.items()
                }
            elif key in _CHILDREN or key in _BRANCHES:
                may_close = (key in _CHILDREN and "" not in kept_open) or (close and _is_nullable(schema, key))
                if isinstance(value, list):
                    result[key] = [self._schema(item, close=may_close) for item in value]
                else:
                    result[key] = self._schema(value, close=may_close)
            elif key not in _DEFINITIONS:  # `root` adds the definitions that are used
                result[key] = value
        if close and _can_close(schema):
            result["additionalProperties"] = False
            self.n_closed += 1
        return result

    def _visit(self) -> None:
        self._n_left -= 1
        if self._n_left < 0:
            raise _StaysOpen

    # ---- References

    def _reference(self, reference: Any, *, close: bool) -> str:
        """The reference in the result, to the closed or the unchanged form of the definition."""
        steps = _steps(reference)
        key = steps, close
        if key not in self._places:
            self._places[key] = self._free_place(steps)
            self._pending.append(key)
        place = self._places[key]
        return str(reference) if place == steps else "#/" + "/".join(map(_escaped, place))

    def _free_place(self, steps: Steps) -> Steps:
        """The original path, if it is among the definitions and not taken by the other form; otherwise a new one."""
        taken = set(self._places.values())
        if len(steps) == 2 and steps[0] in _DEFINITIONS and steps not in taken:
            return steps
        container, n = _DEFINITIONS[0], 2
        existing = _object(self._root.get(container))
        while (place := (container, f"{steps[-1] if steps else 'root'}-{n}")) in taken or place[1] in existing:
            n += 1
        return place

    def _target(self, steps: Steps) -> Any:
        target: Any = self._root
        for step in steps:
            if isinstance(target, dict) and step in target:
                target = target[step]
            elif isinstance(target, list) and step.isascii() and step.isdecimal() and int(step) < len(target):
                target = target[int(step)]
            else:
                raise _StaysOpen
        return target

    # ---- Members and items with several schemas

    def _kept_open(self, schema: Schema) -> frozenset[str]:
        """Names of the members that are left unchanged, contents included."""
        if not {"const", "contains", "enum"}.isdisjoint(schema):
            return _EVERYTHING
        patterns = _object(schema.get("patternProperties"))
        if patterns and (len(patterns) > 1 or schema.get("properties")):
            return _EVERYTHING
        if schema.get("uniqueItems") and _number(schema.get("minItems")) > 1:
            return _EVERYTHING  # the closed items may have fewer distinct values than required
        if "$ref" not in schema and _IN_PLACE.isdisjoint(schema):
            return frozenset()
        followed: set[Steps] = set()
        return frozenset().union(*(self._constrained(branch, followed) for branch in self._in_place(schema, followed)))

    def _constrained(self, branch: Any, followed: set[Steps]) -> frozenset[str]:
        """Names of the members that a branch constrains."""
        if not isinstance(branch, dict):
            return frozenset()
        self._visit()
        if branch.keys() - _SHALLOW - _IN_PLACE - {"$ref", "properties"}:
            return _EVERYTHING
        names = frozenset(_object(branch.get("properties")))
        return names.union(*(self._constrained(inner, followed) for inner in self._in_place(branch, followed)))

    def _in_place(self, schema: Schema, followed: set[Steps]) -> Iterator[Any]:
        """Other schemas for the same value. `followed` are the references that have been followed."""
        for key in _IN_PLACE & schema.keys():
            value = schema[key]
            if key in _LISTS and isinstance(value, list):
                yield from value
            elif key in _BY_NAME and isinstance(value, dict):
                yield from value.values()
            else:
                yield value
        if "$ref" in schema and (steps := _steps(schema["$ref"])) not in followed:
            followed.add(steps)
            yield self._target(steps)


def _can_close(schema: Schema) -> bool:
    """Whether the schema of an object neither mentions nor needs members that it doesn't name."""
    properties = _object(schema.get("properties"))
    if not properties or not _MAY_ADD_MEMBERS.isdisjoint(schema):
        return False
    required = schema.get("required")
    names = set(map(str, required)) if isinstance(required, list) else set()
    needed = set(names)
    dependent = [schema[key] for key in ("dependencies", "dependentRequired") if key in schema]
    for dependencies in dependent:
        for dependency in _object(dependencies).values():
            if not isinstance(dependency, list):
                return False
            needed.update(map(str, dependency))
    if not needed <= properties.keys():
        return False
    min_properties = _number(schema.get("minProperties"))
    if min_properties <= len(names):
        return True
    if dependent or "propertyNames" in schema:
        return False
    n_optional = sum(_is_satisfiable(item) for name, item in properties.items() if name not in names)
    return min_properties <= len(names) + n_optional


def _is_nullable(schema: Schema, key: str) -> bool:
    """Whether the schema is only a union of one other schema and null."""
    branches = schema[key]
    if key not in ("anyOf", "oneOf") or not isinstance(branches, list) or not schema.keys() <= {key, *_ANNOTATIONS}:
        return False
    others = [branch for branch in branches if not (isinstance(branch, dict) and branch.get("type") == "null")]
    return len(others) == 1 < len(branches)


def _is_satisfiable(schema: Any) -> bool:
    """Whether the schema obviously has a valid value."""
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
    """The value if it is an object, else an empty object: a client may send anything."""
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) else 0
