"""Decides which tools are strict: whether every constraint on their arguments can be enforced.

PURE. Follows llguidance's list of supported keywords, and refuses more than llguidance does: where its support depends
on the values of several keywords, only simple cases count as enforceable.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from msgspec.structs import replace

from openai_server.core import guide_parts
from openai_server.core.errors import InvalidRequest
from openai_server.core.tools import Tool
from openai_server.parsing.lark.characters import Refused
from openai_server.parsing.lark.nested import in_json_string, regex_in_json_string, search_pattern
from openai_server.parsing.lark.regex import characters_of
from openai_server.parsing.tools import schema as schemas
from openai_server.parsing.tools.format import ArgumentStyle

MAX_VISITS = 4096
"""Subschemas to examine. A larger schema is not enforced exactly."""

_UNSUPPORTED = frozenset(
    {
        *("$dynamicAnchor", "$dynamicRef", "$recursiveAnchor", "$recursiveRef", "contains", "dependencies"),
        *("dependentRequired", "dependentSchemas", "else", "if", "maxContains", "minContains", "not"),
        *("propertyNames", "then", "unevaluatedItems", "unevaluatedProperties", "uniqueItems"),
    }
)
_OF_OBJECTS = _UNSUPPORTED | {
    *("$ref", "allOf", "anyOf", "const", "enum", "maxProperties", "minProperties", "oneOf", "patternProperties")
}
"""Keywords of a function's parameters that only apply to the arguments as a whole."""
_OF_TEXTS = frozenset({"maxLength", "minLength"})
_CONSTRAINTS = (
    _OF_OBJECTS
    | _OF_TEXTS
    | {
        *(
            "additionalItems",
            "additionalProperties",
            "exclusiveMaximum",
            "exclusiveMinimum",
            "format",
            "items",
            "maxItems",
        ),
        *("maximum", "minItems", "minimum", "multipleOf", "pattern", "prefixItems", "properties", "required", "type"),
    }
)
_FORMATS = frozenset(
    ("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "unknown", "uri", "uuid")
)
_TYPES = frozenset(("array", "boolean", "integer", "null", "number", "object", "string"))
_DIALECT = re.compile(r"https?://json-schema\.org/(draft-0[4-7]/schema#?|draft/20(19-09|20-12)/schema)")
_MIDDLE_ANCHOR = re.compile(r"(?<=[^(|\[\\])\^|(?<!\\)\$(?=[^)|])")
_NUMBERS = ("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf")
_COUNTS = ("maxItems", "maxLength", "maxProperties", "minItems", "minLength", "minProperties")
_LARGEST = 1e15
_MAX_COUNT = 100_000


def resolved(tool: Tool, arguments: ArgumentStyle, *, can_guide: bool) -> Tool:
    """The tool with a `strict` that is true or false. `can_guide`: the backend reports that it can enforce grammars.

    Raises InvalidRequest, whose `param` is the name of the tool's part, if the client demands what this way of writing
    arguments can't enforce.
    """
    if tool.function.strict is None:
        strict = can_guide and tool.enforcement != "none" and unenforceable(tool, arguments) is None
        return replace(tool, function=replace(tool.function, strict=strict))
    if tool.function.strict and (keyword := _unenforceable_in(tool, arguments)):
        raise InvalidRequest(
            f"'{keyword}' in the parameters of the strict tool '{tool.name}' can't be enforced in the format in which "
            "this model calls tools.",
            param=guide_parts.of_function(tool.name),
        )
    return tool


def unenforceable(tool: Tool, arguments: ArgumentStyle = "object") -> str | None:
    """The first part of the tool's schema or definition that can't be enforced exactly; None if all can."""
    if tool.custom is None:
        return first_unenforceable(schemas.closed_parameters(tool.function)) or _unenforceable_in(tool, arguments)
    return _refusal(tool.custom.syntax, tool.custom.definition)


def _unenforceable_in(tool: Tool, arguments: ArgumentStyle) -> str | None:
    """The first keyword that is only enforced in a JSON object; None if there is none."""
    if arguments == "object" or tool.custom is not None:
        return None
    root = schemas.closed_parameters(tool.function)
    for key in root:
        if key in _OF_OBJECTS:
            return str(key)
    if arguments == "values":
        return None
    problems = (_text_problem(value, root) for value in schemas.properties(root).values())
    return next(filter(None, problems), None)


def _text_problem(value: object, root: dict[str, Any]) -> str | None:
    """The first keyword that isn't enforced in an argument that may be a text; None if there is none."""
    value = schemas.followed(value, root)
    types = schemas.types(value, root)
    if not isinstance(value, dict) or (types is not None and "string" not in types) or schemas.texts(value):
        return None
    is_text = types == frozenset({"string"})
    for key, item in value.items():
        if key == "type" or key not in _CONSTRAINTS or (is_text and key in _OF_TEXTS):
            continue
        if is_text and key == "pattern" and isinstance(item, str) and search_pattern(item) is not None:
            continue
        if key == "anyOf" and isinstance(item, list) and all(map(_is_plain, item)):
            continue
        return str(key)
    return None


def _is_plain(schema: object) -> bool:
    """Whether a branch of a union constrains no text."""
    return isinstance(schema, dict) and (
        schema.get("type") != "string" or _CONSTRAINTS.isdisjoint(schema.keys() - {"type"})
    )


@lru_cache(maxsize=64)
def _refusal(syntax: str, definition: str) -> str | None:
    try:
        if syntax == "lark":
            in_json_string(definition)
        elif syntax == "regex":
            regex_in_json_string(definition)
    except Refused as error:
        return str(error)
    return None


def first_unenforceable(schema: Any) -> str | None:
    """The first keyword of a JSON Schema that can't be enforced exactly; None if all can."""
    return _Examination(schema).first()


class _Examination:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._n_left = MAX_VISITS
        self._pending: list[Any] = [root]
        self._followed: set[str] = set()

    def first(self) -> str | None:
        while self._pending:
            schema = self._pending.pop()
            self._n_left -= 1
            if schema is True:
                continue
            if not isinstance(schema, dict):
                return "schema"
            if self._n_left < 0:
                return str(next(iter(schema), "schema"))
            for key, value in schema.items():
                if value is None and key not in ("const", "default"):
                    continue
                if not self._is_enforceable(key, value, schema):
                    return str(key)
        return None

    def _is_enforceable(self, key: str, value: Any, schema: dict[str, Any]) -> bool:
        """Also adds the subschemas of `value` to those that are pending."""
        match key:
            case _ if key in _UNSUPPORTED:
                return False
            case "type":
                names = value if isinstance(value, list) else [value]
                return bool(names) and all(isinstance(name, str) and name in _TYPES for name in names)
            case "enum":
                return isinstance(value, list) and bool(value)
            case "$schema":
                return isinstance(value, str) and _DIALECT.fullmatch(value) is not None
            case "$id" | "id":
                return schema is self._root or not isinstance(value, str)
            case "$ref":
                return self._follows(value)
            case "format":
                return not _allows(schema, "string") or (isinstance(value, str) and value in _FORMATS)
            case "pattern":
                return isinstance(value, str) and _is_simple_pattern(value)
            case "required":
                return isinstance(value, list) and all(isinstance(name, str) for name in value)
            case "minProperties" | "maxProperties":
                return _is_count(value) and schemas.properties(schema).keys() <= schemas.required(schema)
            case "patternProperties":
                is_simple = isinstance(value, dict) and len(value) <= 1 and all(map(_is_simple_pattern, value))
                return is_simple and self._add(value.values())
            case "properties":
                return isinstance(value, dict) and self._add(value.values())
            case "additionalProperties" | "additionalItems":
                return value is False or self._add([value])
            case "items":
                return value is False or self._add(value if isinstance(value, list) else [value])
            case "prefixItems" | "anyOf":
                return isinstance(value, list) and bool(value) and self._add(value)
            case "allOf":
                return isinstance(value, list) and len(value) == 1 and self._add(value)
            case "oneOf":
                return isinstance(value, list) and _are_disjoint(value) and self._add(value)
            case _ if key in _NUMBERS:
                is_number = isinstance(value, int | float) and not isinstance(value, bool)
                return is_number and abs(value) <= _LARGEST and (key != "multipleOf" or value > 0)
            case _ if key in _COUNTS:
                return _is_count(value)
        return True  # "$defs", annotations, and keywords that constrain nothing

    def _add(self, schemas: Any) -> bool:
        self._pending += schemas
        return True

    def _follows(self, reference: Any) -> bool:
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            return False
        if reference not in self._followed:
            self._followed.add(reference)
            target: Any = self._root
            for step in reference.split("/")[1:]:
                key = step.replace("~1", "/").replace("~0", "~")
                if "%" in key or not isinstance(target, dict) or key not in target:
                    return False
                target = target[key]
            if isinstance(target, dict) and target.keys() == {"$ref"}:
                return False  # may refer to itself
            self._pending.append(target)
        return True


def _allows(schema: dict[str, Any], name: str) -> bool:
    kinds = schema.get("type")
    return kinds is None or kinds == name or (isinstance(kinds, list) and name in kinds)


def _are_disjoint(branches: Sequence[Any]) -> bool:
    """Whether the types of the branches show that a value matches at most one."""
    seen: set[str] = set()
    for branch in branches:
        kinds = branch.get("type") if isinstance(branch, dict) else None
        names = {
            "number" if kind == "integer" else kind for kind in ([kinds] if isinstance(kinds, str) else kinds or ())
        }
        if not names or names & seen:
            return False
        seen |= names
    return bool(branches)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_COUNT


@lru_cache(maxsize=256)
def _is_simple_pattern(pattern: str) -> bool:
    try:
        characters_of(pattern, "")
    except Refused:
        return False
    return not _MIDDLE_ANCHOR.search(pattern) and r"\A" not in pattern and r"\z" not in pattern
