"""The examples of the OpenAPI document: each fits its schema, and the server answers it unchanged."""

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from openai_server.api import openapi
from openai_server.api.registry import ENDPOINTS
from tests.ops.able_worker import able_worker
from tests.wire.sidecar import running

DOCUMENT = json.loads(openapi.encoded(ENDPOINTS, keys=False))
OPERATIONS = [
    (method, path, operation) for path, methods in DOCUMENT["paths"].items() for method, operation in methods.items()
]
REQUESTS = [
    pytest.param(path, name, content, id=f"{path} {name}")
    for _, path, operation in OPERATIONS
    for content in operation.get("requestBody", {}).get("content", {}).values()
    for name in content["examples"]
]


def check(schema: Any, value: object) -> None:
    Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(value)


def test_every_body_has_an_example() -> None:
    bodies = {path for method, path, _ in OPERATIONS if method == "post"}
    assert {request.values[0] for request in REQUESTS} == bodies


@pytest.mark.parametrize(("path", "name", "content"), REQUESTS)
async def test_every_example_is_answered(path: str, name: str, content: Any) -> None:
    example = content["examples"][name]
    assert example["summary"]
    check(content["schema"], example["value"])
    async with running(able_worker()) as sidecar:
        reply = await sidecar.send("POST", path, example["value"])
    assert reply.status == 200, reply.body
    if example["value"].get("stream"):
        assert reply.anthropic_events if "/messages" in path else reply.events
    else:
        check(DOCUMENT["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"], reply.json)


@pytest.mark.parametrize("path", [path for method, path, _ in OPERATIONS if method == "get"])
async def test_every_example_of_a_get_is_answered(path: str) -> None:
    for parameter in DOCUMENT["paths"][path]["get"].get("parameters", ()):
        check(parameter["schema"], parameter["example"])
        path = path.replace(f"{{{parameter['name']}}}", parameter["example"])
    assert "{" not in path
    async with running(able_worker()) as sidecar:
        assert (await sidecar.get(path)).status == 200


@pytest.mark.parametrize(("method", "path", "operation"), [pytest.param(*item, id=item[1]) for item in OPERATIONS])
def test_every_example_of_a_response_fits_its_schema(method: str, path: str, operation: Any) -> None:
    described = operation["responses"]["200"]["content"]
    content = described["text/plain" if path == "/metrics" else "application/json"]
    check(content["schema"], content["example"])
