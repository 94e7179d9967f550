"""The examples of the OpenAPI document: each fits its schema, and the server answers it unchanged."""

import json
import re
from typing import Any
from urllib.parse import urlencode

import pytest
from jsonschema import Draft202012Validator

from openai_server.api import openapi
from openai_server.api.registry import ENDPOINTS
from tests.ops.able_worker import able_worker
from tests.wire.sidecar import running
from tests.wire.stored_objects import MEMORY, form, with_ids, with_objects

DOCUMENT = json.loads(openapi.encoded(ENDPOINTS, keys=False))
OPERATIONS = [
    (method, path, operation) for path, methods in DOCUMENT["paths"].items() for method, operation in methods.items()
]
REQUESTS = [
    pytest.param(path, name, content, kind, id=f"{path} {name}")
    for _, path, operation in OPERATIONS
    for kind, content in operation.get("requestBody", {}).get("content", {}).items()
    for name in content["examples"]
]


def check(schema: Any, value: object) -> None:
    Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(value)


WITHOUT_BODY = {"/v1/responses/{response_id}/cancel", "/v1/uploads/{upload_id}/cancel", "/v1/batches/{batch_id}/cancel"}


def test_every_body_has_an_example() -> None:
    bodies = {path for method, path, _ in OPERATIONS if method == "post"}
    assert {request.values[0] for request in REQUESTS} == bodies - WITHOUT_BODY


@pytest.mark.parametrize(("path", "name", "content", "kind"), REQUESTS)
async def test_every_example_is_answered(path: str, name: str, content: Any, kind: str) -> None:
    example = content["examples"][name]
    assert example["summary"]
    check(content["schema"], example["value"])
    async with running(able_worker(), store=MEMORY) as sidecar:
        actual = await with_ids(sidecar, path)
        if kind == "multipart/form-data":
            (file, data), *fields = example["value"].items()
            reply = await sidecar.send("POST", actual, *form(dict(fields), **{file: data.encode()}))
        else:
            reply = await sidecar.send("POST", actual, await with_objects(sidecar, actual, example["value"]))
    assert reply.status == 200, reply.body
    if example["value"].get("stream"):
        assert reply.anthropic_events if "/messages" in path else reply.events
    else:
        check(DOCUMENT["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"], reply.json)


@pytest.mark.parametrize("path", [path for method, path, _ in OPERATIONS if method == "get"])
async def test_every_example_of_a_get_is_answered(path: str) -> None:
    parameters = DOCUMENT["paths"][path]["get"].get("parameters", ())
    query = []
    for parameter in parameters:
        check(parameter["schema"], parameter["example"])
        if parameter["name"] == "model":
            path = path.replace("{model}", parameter["example"])
        elif parameter["in"] == "query" and parameter["name"] not in OF_OTHER_OBJECTS:
            values = parameter["example"] if isinstance(parameter["example"], list) else [parameter["example"]]
            query += [(parameter["name"], json.dumps(value).strip('"')) for value in values]
    async with running(able_worker(), store=MEMORY) as sidecar:
        actual = await with_ids(sidecar, path)
        assert "{" not in actual
        assert (await sidecar.get(f"{actual}?{urlencode(query)}")).status == 200


OF_OTHER_OBJECTS = ("after", "starting_after")
"""Fields of a query whose values depend on the object or on other fields."""


@pytest.mark.parametrize("path", [path for method, path, _ in OPERATIONS if method == "delete"])
async def test_every_delete_is_answered(path: str) -> None:
    async with running(able_worker(), store=MEMORY) as sidecar:
        reply = await sidecar.send("DELETE", await with_ids(sidecar, path))
        assert reply.status == 200
    described = DOCUMENT["paths"][path]["delete"]["responses"]["200"]["content"]["application/json"]
    check(described["schema"], reply.json)


def test_operations_have_ids_of_their_own() -> None:
    ids = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(set(ids)) == len(ids)


def test_every_parameter_of_a_path_is_described() -> None:
    for _, path, operation in OPERATIONS:
        described = {item["name"] for item in operation.get("parameters", ()) if item["in"] == "path"}
        assert described == set(re.findall(r"\{(\w+)\}", path))


@pytest.mark.parametrize(("method", "path", "operation"), [pytest.param(*item, id=item[1]) for item in OPERATIONS])
def test_every_example_of_a_response_fits_its_schema(method: str, path: str, operation: Any) -> None:
    described = operation["responses"]["200"]["content"]
    (content,) = (described[kind] for kind in described if kind != "text/event-stream")
    check(content["schema"], content["example"])
