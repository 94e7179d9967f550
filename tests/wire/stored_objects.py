"""Objects in the store of a sidecar, for paths that contain their ids."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from tests.wire.sidecar import Sidecar

MEMORY = "sqlite://"
"""A store in memory."""


async def with_ids(sidecar: Sidecar, path: str) -> str:
    """Returns the path with the ids of new objects in place of the parameters in it."""
    if "{response_id}" in path:
        response = await sidecar.send("POST", "/v1/responses", {"input": "hi"})
        path = path.replace("{response_id}", response.json["id"])
    if "{conversation_id}" in path:
        items = [{"role": "user", "content": "hi", "id": "msg_1"}]
        conversation = await sidecar.send("POST", "/v1/conversations", {"items": items})
        path = path.replace("{conversation_id}", conversation.json["id"]).replace("{item_id}", "msg_1")
    if "{file_id}" in path:
        file = await sidecar.send("POST", "/v1/files", *form({"purpose": "user_data"}, file=b"hello"))
        path = path.replace("{file_id}", file.json["id"])
    if "{upload_id}" in path:
        request = {"bytes": 5, "filename": "f", "mime_type": "text/plain", "purpose": "user_data"}
        upload = await sidecar.send("POST", "/v1/uploads", request)
        path = path.replace("{upload_id}", upload.json["id"])
    if "{batch_id}" in path:
        request = {"input_file_id": "", "endpoint": "/v1/completions", "completion_window": "24h"}
        batch = await sidecar.send("POST", "/v1/batches", await with_objects(sidecar, "/v1/batches", request))
        path = path.replace("{batch_id}", batch.json["id"])
    return path


async def with_objects(sidecar: Sidecar, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Returns the body, with the ids of new objects in place of those of parts and input files in it. The path has the
    upload of the parts."""
    if "input_file_id" in body:
        file = await sidecar.send("POST", "/v1/files", *form({"purpose": "batch"}, file=b"{}"))
        return {**body, "input_file_id": file.json["id"]}
    if "part_ids" not in body:
        return body
    part = await sidecar.send("POST", path.replace("/complete", "/parts"), *form(data=b"hello"))
    return {**body, "part_ids": [part.json["id"]]}


def form(
    fields: Mapping[str, str] = MappingProxyType({}), *, filename: str = "f.txt", **files: bytes
) -> tuple[bytes, dict[str, str]]:
    """Returns the body of a form with files, and its headers."""
    body = b""
    for name, content in files.items():
        body += f'--B\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n'.encode()
        body += content + b"\r\n"
    for name, value in fields.items():
        body += f'--B\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    return body + b"--B--\r\n", {"content-type": "multipart/form-data; boundary=B"}
