"""The examples of the OpenAPI document, answered by the bundled worker with its default model and a store."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import requests

from tests.e2e import servers
from tests.e2e.conftest import Pair

QUESTION = {"input": "Name a colour.", "max_output_tokens": 8}
USER = {"role": "user", "content": "Hello!"}
UPLOAD = {"bytes": 5, "filename": "f", "mime_type": "text/plain", "purpose": "user_data"}
LINE = {
    "custom_id": "a",
    "method": "POST",
    "url": "/v1/completions",
    "body": {"model": "smollm2", "prompt": "Once", "max_tokens": 1000},
}
"""A line that takes longer than the cancellation of its batch."""


def _send(method: str, url: str, body: object = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def _created(url: str, path: str, body: object) -> dict[str, Any]:
    status, response = _send("POST", url + path, body)
    assert status == 200, response
    return dict(json.loads(response))


def _sent(url: str, path: str, name: str, content: bytes, **fields: str) -> dict[str, Any]:
    """The response to a form with a file."""
    response = requests.post(url + path, data=fields, files={name: ("f.txt", content)}, timeout=120)
    assert response.ok, response.text
    return dict(response.json())


def _input_file(url: str) -> str:
    return str(_sent(url, "/v1/files", "file", json.dumps(LINE).encode(), purpose="batch")["id"])


def _with_new_objects(url: str, path: str, body: Any) -> Any:
    """Returns the body with the ids of objects that are in the store."""
    if path == "/v1/batches" and body:
        return {**body, "input_file_id": _input_file(url), "endpoint": LINE["url"]}
    if path.endswith("/complete"):
        part = _sent(url, path.replace("/complete", "/parts"), "data", b"hello")
        return {**body, "part_ids": [part["id"]]}
    return body


def _with_stored_objects(url: str, path: str) -> str:
    """Returns the path with the ids of objects that are in the store."""
    if "{response_id}" in path:
        background = path.endswith("/cancel")
        path = path.replace(
            "{response_id}", _created(url, "/v1/responses", {**QUESTION, "background": background})["id"]
        )
    if "{conversation_id}" in path:
        id = _created(url, "/v1/conversations", {})["id"]
        path = path.replace("{conversation_id}", id)
        if "{item_id}" in path:
            [item] = _created(url, f"/v1/conversations/{id}/items", {"items": [USER]})["data"]
            path = path.replace("{item_id}", item["id"])
    if "{file_id}" in path:
        path = path.replace("{file_id}", _sent(url, "/v1/files", "file", b"hello", purpose="user_data")["id"])
    if "{upload_id}" in path:
        path = path.replace("{upload_id}", _created(url, "/v1/uploads", UPLOAD)["id"])
    if "{batch_id}" in path:
        new = {"input_file_id": _input_file(url), "endpoint": LINE["url"], "completion_window": "24h"}
        path = path.replace("{batch_id}", _created(url, "/v1/batches", new)["id"])
    return path


def test_each_example_is_answered_unchanged(pair: Pair, tmp_path: Path) -> None:
    refused = {}
    with servers.sidecar(pair.worker, "--store", f"sqlite:///{tmp_path}/store.db") as (_, url):
        _, text = _send("GET", f"{url}/openapi.json")
        for path, methods in json.loads(text)["paths"].items():
            for method, operation in methods.items():
                bodies = operation.get("requestBody", {"content": {"": {"examples": {"": {"value": None}}}}})["content"]
                for kind, content in bodies.items():
                    for name, example in content["examples"].items():
                        actual = _with_stored_objects(url, path)
                        for parameter in operation.get("parameters", ()):
                            if parameter["in"] == "path":
                                actual = actual.replace(f"{{{parameter['name']}}}", parameter["example"])
                        if kind == "multipart/form-data":
                            (file, data), *fields = example["value"].items()
                            assert _sent(url, actual, file, data.encode(), **dict(fields))["id"]
                            continue
                        body = _with_new_objects(url, actual, example["value"])
                        status, response = _send(method.upper(), url + actual, body)
                        if status != 200:
                            refused[method, path, name] = json.loads(response)["error"]["code"]
    # The default model is not a reranker, which that example mentions.
    assert refused == {("post", "/v1/rerank", "documents"): "unsupported_task"}
