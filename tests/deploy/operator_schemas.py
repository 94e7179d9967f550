"""JSON Schemas of the resources of Prometheus' operator (`monitoring.coreos.com/v1`) and of KEDA (`keda.sh/v1alpha1`).

They are read from Python classes that are generated from the operators' own definitions. A type in an unsupported
notation becomes a schema that no value matches.
"""

import ast
from pathlib import Path
from typing import Any

Schema = dict[str, Any]
_PLAIN: dict[str, Schema] = {
    "str": {"type": "string"},
    "bool": {"type": "boolean"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
}
_LIMITS = {"pattern": "pattern", "min_length": "minLength", "ge": "minimum", "le": "maximum"}
"""Keywords of JSON Schema, by the arguments of `Field` for the same limit."""
_NOTHING: Schema = {"not": {}}


def definitions(types: Path, here: str, metadata: Schema) -> dict[str, Schema]:
    """Schemas by kind, of the classes in the file `types`. `here` is the prefix of references to them; `metadata` is
    Kubernetes' schema of metadata."""
    classes = [node for node in ast.parse(types.read_text()).body if isinstance(node, ast.ClassDef)]
    known = {
        **_PLAIN,
        "apimachinery.ObjectMeta": metadata,
        **{node.name: {"$ref": f"{here}{node.name}"} for node in classes},
    }
    return {node.name: _of_class(node, known) for node in classes}


def _of_class(node: ast.ClassDef, known: dict[str, Schema]) -> Schema:
    fields = [statement for statement in node.body if isinstance(statement, ast.AnnAssign)]
    properties, required = {}, []
    for field in fields:
        name = _settings(field.annotation).get("alias", ast.unparse(field.target))
        properties[name] = _of_type(field.annotation, known)
        if field.value is None:
            required.append(name)
    if ast.unparse(node.bases[0]).startswith("RootModel["):
        return properties["root"]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _of_type(kind: ast.expr, known: dict[str, Schema]) -> Schema:
    if not isinstance(kind, ast.Subscript):
        return known.get(ast.unparse(kind), _NOTHING)
    parts = kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]
    match ast.unparse(kind.value), parts:
        case "Annotated", [inner, _]:
            settings = _settings(kind)
            limits = {_LIMITS[key]: settings[key] for key in _LIMITS.keys() & settings.keys()}
            return {**_of_type(inner, known), **limits}
        case "Optional", [inner]:
            return _of_type(inner, known)
        case "List", [inner]:
            return {"type": "array", "items": _of_type(inner, known)}
        case "Dict", [_, inner]:
            return {"type": "object", "additionalProperties": _of_type(inner, known)}
        case "Union", _:
            return {"anyOf": [_of_type(part, known) for part in parts]}
        case "Literal", _:
            return {"enum": [ast.literal_eval(part) for part in parts]}
    return _NOTHING


def _settings(annotation: ast.expr) -> dict[str, Any]:
    """The arguments of `Field` in `Annotated[type, Field(...)]`."""
    match annotation:
        case ast.Subscript(slice=ast.Tuple(elts=[_, ast.Call(keywords=keywords)])):
            return {keyword.arg: ast.literal_eval(keyword.value) for keyword in keywords if keyword.arg}
    return {}
