"""What a tool's JSON Schema says of its arguments, as far as parsers and grammars have to know.

PURE. A schema comes from a request: it may be anything that is a JSON object.
"""

from collections.abc import Mapping
from typing import Any

from openai_server.core.closing import closed
from openai_server.core.tools import FunctionDefinition

Schema = dict[str, Any]
_MAX_REFERENCES = 16
_MAX_VALUES = 1000
"""How many values of an `enum` are looked at for their types: any number of arguments may refer to the same one."""
_TYPES = ((bool, "boolean"), (str, "string"), (int | float, "number"), (list, "array"), (dict, "object"))
_WITHOUT_NAMES = frozenset(
    {
        *("$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "not", "if", "const", "enum"),
        *("additionalProperties", "unevaluatedProperties", "patternProperties", "propertyNames", "minProperties"),
        *("dependencies", "dependentRequired", "dependentSchemas"),
    }
)
"""Keywords that allow or require arguments even if `properties` names none."""
_ADDITIONAL = frozenset({"additionalProperties", "unevaluatedProperties"})
_NULLABLE = ("properties", "required", "additionalProperties", "patternProperties")


def parameters(function: FunctionDefinition) -> Schema:
    """The schema of the arguments; it says at least that they are an object."""
    schema = {"type": "object", **(function.parameters or {})}
    for key in _NULLABLE:
        if key in schema and schema[key] is None:
            del schema[key]
    if schema["type"] is None:
        schema["type"] = "object"
    return schema


def closed_parameters(function: FunctionDefinition) -> Schema:
    """The same without arguments and members that the schema does not name, unless it speaks of them."""
    return closed(parameters(function))


def with_properties(parameters: Schema) -> Schema:
    """The same schema, with `properties` (that may be empty) and a type."""
    if isinstance(parameters.get("properties"), dict):
        return parameters
    return {"type": "object", **parameters, "properties": {}}


def takes_nothing(schema: Mapping[str, Any]) -> bool:
    """Whether these are the parameters of a function without any: its arguments are {}."""
    return not (properties(schema) or required(schema) or any(map(schema.get, _WITHOUT_NAMES - _ADDITIONAL))) and all(
        schema.get(key) in (None, False) for key in _ADDITIONAL
    )


def properties(schema: Mapping[str, Any]) -> dict[str, Any]:
    given = schema.get("properties")
    return given if isinstance(given, dict) else {}


def required(schema: Mapping[str, Any]) -> frozenset[str]:
    given = schema.get("required")
    return frozenset(name for name in given if isinstance(name, str)) if isinstance(given, list) else frozenset()


def with_definitions(part: Any, root: Mapping[str, Any]) -> Any:
    """`part` of `root` as a schema of its own, whose references still lead somewhere."""
    if not isinstance(part, dict):
        return part
    return {**{key: root[key] for key in ("$defs", "definitions") if key in root}, **part}


def types(schema: object, root: Mapping[str, Any]) -> frozenset[str] | None:
    """JSON types that a value may have; None if the schema does not say."""
    return _types(schema, root, [_MAX_REFERENCES])


def texts(schema: object) -> list[str]:
    """All that a string may be, empty if it may be anything."""
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
    said = schema.get("type")
    if isinstance(said, str):
        return frozenset({said})
    if isinstance(said, list):
        return frozenset(name for name in said if isinstance(name, str)) or None
    if "const" in schema:
        return frozenset({_type_of(schema["const"])})
    if isinstance(values := schema.get("enum"), list) and values:
        return frozenset(map(_type_of, values[:_MAX_VALUES]))
    if isinstance(reference := schema.get("$ref"), str):
        return _types(_referred(reference, root), root, left)
    for key in ("anyOf", "oneOf"):
        if isinstance(choices := schema.get(key), list) and choices:
            found: frozenset[str] = frozenset()
            for choice in choices:
                if (names := _types(choice, root, left)) is None:
                    return None
                found |= names
            return found
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
    found: object = root
    if not reference.startswith("#"):
        return None
    for step in reference[1:].split("/")[1:]:
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return found
