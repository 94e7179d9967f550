"""Validates resources with the schemas of Kubernetes, KServe, KEDA, gateways and Prometheus' operator, which reject
unknown fields."""

import ast
import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

import jsonschema
import kubernetes_validate
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from scripts.fetch import ensure_keda_types, ensure_kserve_types, ensure_prometheus_types
from tests.deploy import gateway_schemas
from tests.deploy.manifests import Resource
from tests.deploy.operator_schemas import definitions as operator_definitions

NEWEST: str = kubernetes_validate.latest_version()
Schema = dict[str, Any]
_KUBERNETES = "https://kubernetes.io/api/_definitions.json"
_KSERVE = "https://kserve.github.io/"
_OPERATOR = "https://prometheus-operator.dev/"
_KEDA = "https://keda.sh/"
_GATEWAY = "https://gateway-api.sigs.k8s.io/"
_FROM_GATEWAY_SCHEMAS = ("InferencePool", "HTTPRoute", "LLMInferenceService")
_PLAIN: dict[str, Schema] = {
    "str": {"type": "string"},
    "bool": {"type": "boolean"},
    "int": {"type": "integer"},
    "object": {"type": "object"},
    "ResourceQuantity": {"type": ["string", "number"]},
    "V1beta1MetricQuantity": {"type": ["string", "number"]},
    "dict(str, str)": {"type": "object", "additionalProperties": {"type": "string"}},
}


def check(resource: Resource, version: str = NEWEST) -> None:
    """Raises jsonschema.ValidationError. `version` is that of Kubernetes."""
    group, _, api = resource["apiVersion"].partition("/")
    kind = resource["kind"]
    if kind in _FROM_GATEWAY_SCHEMAS:
        _validator(f"{_GATEWAY}#/$defs/{kind}").validate(resource)
    elif group == "keda.sh":
        _validator(f"{_KEDA}#/$defs/{kind}").validate(resource)
    elif group == "serving.kserve.io":
        _validator(f"{_KSERVE}#/$defs/V{api.removeprefix('v')}{kind}").validate(resource)
    elif group == "monitoring.coreos.com":
        _validator(f"{_OPERATOR}#/$defs/{kind}").validate(resource)
    else:
        kubernetes_validate.validate(resource, version, strict=True)


@cache
def _validator(reference: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"$ref": reference}, registry=_registry())


@cache
def _registry() -> Registry[Any]:
    folder = files(kubernetes_validate).joinpath("kubernetes-json-schema", f"v{NEWEST}-local-strict")
    kubernetes = json.loads(folder.joinpath("_definitions.json").read_text())
    metadata = {"$ref": f"{_KUBERNETES}#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
    pod_spec = {"$ref": f"{_KUBERNETES}#/$defs/io.k8s.api.core.v1.PodSpec"}
    prometheus, keda = ensure_prometheus_types() / "v1.py", ensure_keda_types() / "v1alpha1.py"
    schemas = {
        _KUBERNETES: kubernetes,
        _KSERVE: {"$defs": _kserve_definitions(kubernetes["$defs"])},
        _OPERATOR: {"$defs": operator_definitions(prometheus, f"{_OPERATOR}#/$defs/", metadata)},
        _KEDA: {"$defs": operator_definitions(keda, f"{_KEDA}#/$defs/", metadata)},
        _GATEWAY: {
            "$defs": {
                "InferencePool": gateway_schemas.inference_pool(metadata),
                "HTTPRoute": gateway_schemas.http_route(metadata),
                "LLMInferenceService": gateway_schemas.llm_inference_service(metadata, pod_spec),
            }
        },
    }
    return Registry().with_resources((uri, DRAFT202012.create_resource(schema)) for uri, schema in schemas.items())


def _kserve_definitions(kubernetes: Schema) -> dict[str, Schema]:
    """Schemas from the Python classes that KServe generates from its own OpenAPI document."""
    classes = {}
    for file in ensure_kserve_types().glob("*.py"):
        text = file.read_text()
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef):
                tables = {
                    statement.targets[0].id: ast.literal_eval(statement.value)
                    for statement in node.body
                    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
                }
                classes[node.name] = tables, re.findall(r"Invalid value for `(\w+)`, must not be `None`", text)

    def schema_of(kind: str) -> Schema:
        """The schema of a field's type, in the notation of the classes."""
        if kind in _PLAIN:
            return _PLAIN[kind]
        if items := re.fullmatch(r"list\[(.+)\]", kind):
            return {"type": "array", "items": schema_of(items[1])}
        if kind in classes:
            return {"$ref": f"{_KSERVE}#/$defs/{kind}"}
        if match := re.fullmatch(r"K8sIoApi([A-Z][a-z]+)V(\d)(\w+)", kind):
            endings = [f".{match[1].lower()}.v{match[2]}.{match[3]}"]
        else:
            endings = [f".core.v1.{kind[2:]}", f".meta.v1.{kind[2:]}"]
        # Our resources must not use a type that is in neither: no value is valid.
        found = [name for name in kubernetes if name.endswith(tuple(endings))]
        return {"$ref": f"{_KUBERNETES}#/$defs/{found[0]}"} if found else {"not": {}}

    definitions = {}
    for name, (tables, required) in classes.items():
        json_name, kinds = tables["attribute_map"], tables["openapi_types"]
        definitions[name] = {
            "type": "object",
            "properties": {json_name[key]: schema_of(kind) for key, kind in kinds.items()},
            "required": [json_name[key] for key in required],
            "additionalProperties": False,
        }
    return definitions
