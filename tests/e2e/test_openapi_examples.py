"""The examples of the OpenAPI document, answered by the bundled worker with its default model."""

import json
import urllib.error
import urllib.request
from typing import Any

from tests.e2e.conftest import Pair


def _send(url: str, body: object = None) -> tuple[int, bytes]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_each_example_is_answered_unchanged(pair: Pair) -> None:
    _, text = _send(f"{pair.url}/openapi.json")
    paths: dict[str, Any] = json.loads(text)["paths"]
    refused = {}
    for path, methods in paths.items():
        for operation in methods.values():
            for parameter in operation.get("parameters", ()):
                path = path.replace(f"{{{parameter['name']}}}", parameter["example"])
            bodies = operation.get("requestBody", {"content": {"": {"examples": {"": {"value": None}}}}})["content"]
            for content in bodies.values():
                for name, example in content["examples"].items():
                    status, response = _send(pair.url + path, example["value"])
                    if status != 200:
                        refused[path, name] = json.loads(response)["error"]["code"]
    # The default model is not a reranker, which that example mentions.
    assert refused == {("/v1/rerank", "documents"): "unsupported_task"}
