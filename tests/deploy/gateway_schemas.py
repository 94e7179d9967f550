"""JSON Schemas of resources whose own schemas are in no package: those of gateways, and KServe's LLMInferenceService.

They have the fields that deploy/ uses, as in the resources' definitions; any other field is an error.
"""

from collections.abc import Iterable
from typing import Any

Schema = dict[str, Any]
STRING: Schema = {"type": "string", "minLength": 1}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
LABELS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT: Schema = {"type": "integer", "minimum": 0}


def record(required: Iterable[str] = (), **properties: Schema) -> Schema:
    """An object with these fields and no others."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def one_of(*values: str) -> Schema:
    return {"enum": list(values)}


def resource(metadata: Schema, spec: Schema) -> Schema:
    return record(
        ("apiVersion", "kind", "metadata", "spec"), apiVersion=STRING, kind=STRING, metadata=metadata, spec=spec
    )


def array(items: Schema, least: int = 1) -> Schema:
    return {"type": "array", "items": items, "minItems": least}


def inference_pool(metadata: Schema) -> Schema:
    """`inference.networking.k8s.io/v1`."""
    picker = record(
        ("name",),
        group={"type": "string"},
        kind=STRING,
        name=STRING,
        port=record(("number",), number=PORT),
        failureMode=one_of("FailOpen", "FailClose"),
    )
    return resource(
        metadata,
        record(
            ("selector", "targetPorts", "endpointPickerRef"),
            selector=record(("matchLabels",), matchLabels=LABELS),
            targetPorts={**array(record(("number",), number=PORT)), "maxItems": 8},
            endpointPickerRef=picker,
        ),
    )


def http_route(metadata: Schema) -> Schema:
    """`gateway.networking.k8s.io/v1`."""
    reference = record(
        ("name",), group={"type": "string"}, kind=STRING, namespace=STRING, name=STRING, port=PORT, weight=COUNT
    )
    path = record(type=one_of("Exact", "PathPrefix", "RegularExpression"), value=STRING)
    rule = record(
        matches=array(record(path=path)),
        backendRefs=array(reference),
        timeouts=record(request={"type": "string", "pattern": r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"}),
    )
    parent = record(("name",), group=STRING, kind=STRING, namespace=STRING, name=STRING, sectionName=STRING)
    return resource(metadata, record(parentRefs=array(parent), hostnames=array(STRING), rules=array(rule)))


def llm_inference_service(metadata: Schema, pod_spec: Schema) -> Schema:
    """`serving.kserve.io/v1alpha2`. An empty route, gateway or scheduler is one that KServe creates."""
    return resource(
        metadata,
        record(
            model=record(("uri",), uri={"type": "string", "pattern": "^(hf|s3|pvc|oci)://"}, name=STRING),
            replicas=COUNT,
            labels=LABELS,
            annotations=LABELS,
            template=pod_spec,
            router=record(route=record(), gateway=record(), scheduler=record()),
        ),
    )
