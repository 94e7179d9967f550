"""Extracts from a tool's JSON Schema the properties of its arguments that parsers and grammars need.

PURE. A schema comes from a request, so it may be any JSON object.
"""

from collections.abc import Mapping
from typing import Any

from openai_server.core.closing import closed
from openai_server.core.tools import FunctionDefinition

Schema = dict[str, Any]
_MAX_REFERENCES = 16
_MAX_VALUES = 1000
"""Number of values of an `enum` whose types are examined: any number of arguments may refer to the same `enum`."""
_TYPES = ((bool, "boolean"), (str, "string"), (int | float, "number"), (list, "array"), (dict, "object"))
_WITHOUT_NAMES = frozenset(
    {
        *("$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "not", "if", "const", "enum"),
        *("additionalProperties", "unevaluatedProperties", "patternProperties", "propertyNames", "minProperties"),
        *("dependencies", "dependentRequired", "dependentSchemas"),
    }
)
"""Keywords that may allow or require arguments that `properties` doesn't name."""
_ADDITIONAL = frozenset({"additionalProperties", "unevaluatedProperties"})
_BESIDE_REFERENCE = frozenset({"$ref", "default", "deprecated", "description", "examples", "title"})
_NULLABLE = ("properties", "required", "additionalProperties", "patternProperties")


def parameters(function: FunctionDefinition) -> Schema:
    """The schema of the arguments, with at least the type `object`."""
    schema = {"type": "object", **(function.parameters or {})}
    for key in _NULLABLE:
        if key in schema and schema[key] is None:
            del schema[key]
    if schema["type"] is None:
        schema["type"] = "object"
    return schema


def closed_parameters(function: FunctionDefinition) -> Schema:
    """The same schema, without arguments and members that it doesn't mention."""
    return closed(parameters(function))


def with_properties(parameters: Schema) -> Schema:
    """The same schema with a type and `properties`, which may be empty."""
    if isinstance(parameters.get("properties"), dict):
        return parameters
    return {"type": "object", **parameters, "properties": {}}


def has_no_arguments(schema: Mapping[str, Any]) -> bool:
    """Whether the only valid arguments are {}."""
    return not (properties(schema) or required(schema) or any(map(schema.get, _WITHOUT_NAMES - _ADDITIONAL))) and all(
        schema.get(key) in (None, False) for key in _ADDITIONAL
    )


def properties(schema: Mapping[str, Any]) -> dict[str, Any]:
    value = schema.get("properties")
    return value if isinstance(value, dict) else {}


def required(schema: Mapping[str, Any]) -> frozenset[str]:
    names = schema.get("required")
    return frozenset(name for name in names if isinstance(name, str)) if isinstance(names, list) else frozenset()


def with_definitions(part: Any, root: Mapping[str, Any]) -> Any:
    """`part` of `root` as a separate schema, with the definitions that it may refer to."""
    if not isinstance(part, dict):
        return part
    return {**{key: root[key] for key in ("$defs", "definitions") if key in root}, **part}


def types(schema: object, root: Mapping[str, Any]) -> frozenset[str] | None:
    """The JSON types that a value may have; None if the schema doesn't restrict them."""
    return _types(schema, root, [_MAX_REFERENCES])


def followed(schema: object, root: Mapping[str, Any]) -> object:
    """The schema that a reference alone stands for, else the schema itself."""
    for _ in range(_MAX_REFERENCES):
        if not isinstance(schema, dict) or not isinstance(reference := schema.get("$ref"), str):
            break
        if not schema.keys() <= _BESIDE_REFERENCE:
            break
        schema = _referred(reference, root)
    return schema


def texts(schema: object) -> list[str]:
    """The allowed values of a string; empty if every string is allowed."""
    if not isinstance(schema, dict):
        return []
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        return []
    return values


def _types(schema: object, root: Mapping[str, Any], left: list[int]) -> frozenset[str] | None:
    left[0] -= 1
    if left[0] < 0 or not isinstance(schema, dict):
        return None
    declared = schema.get("type")
    if isinstance(declared, str):
        return frozenset({declared})
    if isinstance(declared, list):
        return frozenset(name for name in declared if isinstance(name, str)) or None
    if "const" in schema:
        return frozenset({_type_of(schema["const"])})
    if isinstance(values := schema.get("enum"), list) and values:
        return frozenset(map(_type_of, values[:_MAX_VALUES]))
    if isinstance(reference := schema.get("$ref"), str):
        return _types(_referred(reference, root), root, left)
    for key in ("anyOf", "oneOf"):
        if isinstance(choices := schema.get(key), list) and choices:
            union: frozenset[str] = frozenset()
            for choice in choices:
                if (names := _types(choice, root, left)) is None:
                    return None
                union |= names
            return union
    return None


def _type_of(value: object) -> str:
    for python, name in (
        (bool, "boolean"),
        (str, "string"),
        (int | float, "number"),
        (list, "array"),
        (dict, "object"),
    ):
        if isinstance(value, python):
            return name
    return "null"


def _referred(reference: str, root: Mapping[str, Any]) -> object:
    target: object = root
    if not reference.startswith("#"):
        return None
    for step in reference[1:].split("/")[1:]:
        target = target.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(target, dict) else None
    return target
