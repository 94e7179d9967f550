"""Every method of files, uploads and batches of the `openai` package, with a sidecar program of two processes."""

import asyncio
import hashlib
import json
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, ConflictError, NotFoundError
from openai.resources import batches as batch_resources
from openai.resources import files as file_resources
from openai.resources.uploads import parts as part_resources
from openai.resources.uploads import uploads as upload_resources
from openai.types import Batch, FileDeleted, FileObject, Upload
from openai.types.chat import ChatCompletion
from openai.types.uploads import UploadPart

from tests.shapes import exact
from tests.wire.test_stored_objects import Client, SyncClient, clients

pytestmark = pytest.mark.slow

RESOURCES: dict[str, tuple[type, type]] = {
    "files": (file_resources.Files, file_resources.FilesWithRawResponse),
    "uploads": (upload_resources.Uploads, upload_resources.UploadsWithRawResponse),
    "uploads.parts": (part_resources.Parts, part_resources.PartsWithRawResponse),
    "batches": (batch_resources.Batches, batch_resources.BatchesWithRawResponse),
}
PLAIN, RAW, STREAMING = "", "with_raw_response.", "with_streaming_response."
CHAT = "/v1/chat/completions"
POLL_SECONDS = 0.05
END_SECONDS = 60
Make = Callable[[], Awaitable[tuple[tuple[Any, ...], dict[str, Any]]]]


def methods(resource: str) -> set[str]:
    """The public methods of a resource."""
    found = vars(RESOURCES[resource][0]).items()
    return {name for name, value in found if callable(value) and not name.startswith("_")}


def raw_methods(client: Client, resource: str) -> set[str]:
    raw = client.at(f"{resource}.with_raw_response")
    return {name for name in vars(raw) if not name.startswith("_")}


class Caller:
    """Calls methods in three ways, and records which."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.called: set[str] = set()

    async def call(self, path: str, *args: Any, **fields: Any) -> Any:
        self.called.add(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return await self.client.call(path, *args, **fields)

    async def all(self, path: str, *args: Any, **fields: Any) -> list[Any]:
        self.called.add(path)
        return await self.client.all(path, *args, **fields)

    async def bytes_of(self, way: str, path: str, *args: Any, **fields: Any) -> bytes:
        """Calls the method, and returns the body of the response."""
        resource, _, name = path.rpartition(".")
        full = f"{resource}.{way}{name}"
        self.called.add(full)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            if way == STREAMING:
                return await self.client.streamed(full, *args, **fields)
            response = await self.client.call(full, *args, **fields)
        assert response.http_response.status_code == 200
        return bytes(response.http_response.content)

    async def each_way(self, path: str, make: Make, shape: Any) -> list[Any]:
        """Calls the method plainly, raw and streamed with new arguments, and returns the three results as `shape`."""
        args, fields = await make()
        found = [exact(shape, await self.call(path, *args, **fields), frozenset())]
        for way in (RAW, STREAMING):
            args, fields = await make()
            found.append(exact(shape, json.loads(await self.bytes_of(way, path, *args, **fields)), frozenset()))
        return found


def always(*args: Any, **fields: Any) -> Make:
    async def make() -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, fields

    return make


@asynccontextmanager
async def calling(folder: Path, kind: type[Client]) -> AsyncIterator[Caller]:
    async with clients(folder, kind) as (client, _):
        yield Caller(client)


def line(custom_id: str, **body: Any) -> str:
    message = {"role": "user", "content": custom_id}
    return json.dumps(
        {
            "custom_id": custom_id,
            "method": "POST",
            "url": CHAT,
            "body": {"model": "tiny", "messages": [message], **body},
        }
    )


async def new_file(caller: Caller, content: bytes = b"abc", purpose: str = "user_data") -> Any:
    return await caller.call("files.create", file=("a.txt", content), purpose=purpose)


async def new_upload(caller: Caller, content: bytes) -> Any:
    fields = {"filename": "b.txt", "mime_type": "text/plain", "purpose": "user_data"}
    return await caller.call("uploads.create", bytes=len(content), **fields)


async def new_batch(caller: Caller, content: str = line("1"), **fields: Any) -> Any:
    file = await new_file(caller, content.encode(), "batch")
    return await caller.call("batches.create", input_file_id=file.id, endpoint=CHAT, completion_window="24h", **fields)


async def ended(caller: Caller, id: str) -> Any:
    async with asyncio.timeout(END_SECONDS):
        while True:
            batch = await caller.call("batches.retrieve", id)
            if batch.status in ("completed", "failed", "expired", "cancelled"):
                return exact(Batch, batch, frozenset())
            await asyncio.sleep(POLL_SECONDS)


async def every_method_of_files(caller: Caller) -> None:
    content = "ä\n".encode() * 1000
    fields = {"file": ("ä “x”.txt", content), "purpose": "user_data"}
    expiry = {"expires_after": {"anchor": "created_at", "seconds": 3600}}
    for new in await caller.each_way("files.create", always(**fields, **expiry), FileObject):
        assert (new.filename, new.bytes, new.purpose) == ("ä “x”.txt", len(content), "user_data")
        assert new.expires_at is not None
        assert new.expires_at - new.created_at == 3600
    id = new.id
    for again in await caller.each_way("files.retrieve", always(id), FileObject):
        assert again == new
    assert await caller.call("files.wait_for_processing", id) == new
    assert (await caller.call("files.content", id)).content == content
    assert await caller.call("files.retrieve_content", id) == content.decode()
    for name in ("content", "retrieve_content"):
        for way in (RAW, STREAMING):
            assert await caller.bytes_of(way, f"files.{name}", id) == content
    for way in (RAW, STREAMING):
        page = json.loads(await caller.bytes_of(way, "files.list", limit=1))
        assert page["object"] == "list"
        assert (page["first_id"], page["last_id"], page["has_more"]) == (id, id, True)
        exact(FileObject, page["data"][0], frozenset())

    async def another() -> tuple[tuple[Any, ...], dict[str, Any]]:
        return ((await new_file(caller)).id,), {}

    for deleted in await caller.each_way("files.delete", another, FileDeleted):
        assert deleted.deleted is True
        with pytest.raises(NotFoundError) as missing:
            await caller.call("files.retrieve", deleted.id)
        assert missing.value.code == "file_not_found"


async def every_method_of_uploads(caller: Caller, folder: Path) -> None:
    content = b"0123456789" * 100
    fields = {"filename": "b.txt", "mime_type": "text/plain", "purpose": "user_data"}
    for upload in await caller.each_way("uploads.create", always(bytes=len(content), **fields), Upload):
        assert (upload.status, upload.bytes, upload.filename) == ("pending", len(content), "b.txt")
    for part in await caller.each_way("uploads.parts.create", always(upload.id, data=content[:600]), UploadPart):
        assert part.upload_id == upload.id

    async def with_parts() -> tuple[tuple[Any, ...], dict[str, Any]]:
        upload = await new_upload(caller, content)
        second = await caller.call("uploads.parts.create", upload.id, data=content[600:])
        first = await caller.call("uploads.parts.create", upload.id, data=content[:600])
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        return (upload.id,), {"part_ids": [first.id, second.id], "md5": digest}

    for done in await caller.each_way("uploads.complete", with_parts, Upload):
        assert done.status == "completed"
        assert done.file is not None
        assert (await caller.call("files.content", done.file.id)).content == content
        assert exact(FileObject, done.file, frozenset()) == await caller.call("files.retrieve", done.file.id)

    async def pending() -> tuple[tuple[Any, ...], dict[str, Any]]:
        return ((await new_upload(caller, content)).id,), {}

    for cancelled in await caller.each_way("uploads.cancel", pending, Upload):
        assert cancelled.status == "cancelled"
        with pytest.raises(BadRequestError):
            await caller.call("uploads.parts.create", cancelled.id, data=b"x")
    path = folder / "large.txt"
    path.write_bytes(content)
    chunked = {"mime_type": "text/plain", "purpose": "user_data", "part_size": 300}
    for more in ({"file": path}, {"file": content, "filename": "c.txt", "bytes": len(content)}):
        done = exact(Upload, await caller.call("uploads.upload_file_chunked", **more, **chunked), frozenset())
        assert done.file is not None
        assert (await caller.call("files.content", done.file.id)).content == content


async def every_method_of_batches(caller: Caller) -> None:
    lines = "\n".join(line(str(n), **({"temperature": 9} if n == 3 else {})) for n in range(5)) + "\n"
    metadata = {"x": "y"}

    async def with_lines() -> tuple[tuple[Any, ...], dict[str, Any]]:
        file = await new_file(caller, lines.encode(), "batch")
        fields = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h", "metadata": metadata}
        return (), {**fields, "output_expires_after": {"anchor": "created_at", "seconds": 7200}}

    for new in await caller.each_way("batches.create", with_lines, Batch):
        assert (new.status, new.metadata, new.endpoint) == ("validating", metadata, CHAT)
        assert new.expires_at is not None
        assert new.expires_at - new.created_at == 86400
        batch = await ended(caller, new.id)
        await check_outputs(caller, batch)
    for again in await caller.each_way("batches.retrieve", always(batch.id), Batch):
        assert again == batch
    for way in (RAW, STREAMING):
        page = json.loads(await caller.bytes_of(way, "batches.list", limit=1))
        assert page["object"] == "list"
        assert (page["first_id"], page["last_id"], page["has_more"]) == (batch.id, batch.id, True)
        exact(Batch, page["data"][0], frozenset())

    async def another() -> tuple[tuple[Any, ...], dict[str, Any]]:
        return ((await new_batch(caller, "\n".join(line(str(n)) for n in range(2000)))).id,), {}

    for cancelled in await caller.each_way("batches.cancel", another, Batch):
        assert cancelled.status in ("cancelling", "cancelled")
        last = await ended(caller, cancelled.id)
        assert last.status == "cancelled"
        assert last.cancelled_at is not None
    with pytest.raises(NotFoundError) as missing:
        await caller.call("batches.retrieve", "batch_0")
    assert missing.value.code == "batch_not_found"


async def check_outputs(caller: Caller, batch: Any) -> None:
    """Four lines were answered, and one was refused."""
    assert batch.status == "completed"
    assert batch.request_counts is not None
    counts = (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed)
    assert counts == (5, 4, 1)
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    output = await json_lines(caller, batch.output_file_id)
    assert {answered["custom_id"] for answered in output} == {"0", "1", "2", "4"}
    for answered in output:
        assert answered.keys() == {"id", "custom_id", "response", "error"}
        assert answered["id"].startswith("batch_req_")
        assert answered["error"] is None
        assert answered["response"].keys() == {"status_code", "request_id", "body"}
        assert answered["response"]["status_code"] == 200
        exact(ChatCompletion, answered["response"]["body"])
    assert batch.usage is not None
    assert batch.usage.total_tokens == batch.usage.input_tokens + batch.usage.output_tokens
    n_tokens = sum(answered["response"]["body"]["usage"]["total_tokens"] for answered in output)
    assert batch.usage.total_tokens == n_tokens
    [failed] = await json_lines(caller, batch.error_file_id)
    assert failed.keys() == {"id", "custom_id", "response", "error"}
    assert failed["custom_id"] == "3"
    assert failed["response"]["status_code"] == 400
    assert failed["response"]["body"]["error"]["param"] == "temperature"
    for id in (batch.output_file_id, batch.error_file_id):
        file = await caller.call("files.retrieve", id)
        assert (file.purpose, file.expires_at - file.created_at) == ("batch_output", 7200)


async def json_lines(caller: Caller, id: str) -> list[Any]:
    content = (await caller.call("files.content", id)).content
    assert content.endswith(b"\n")
    return [json.loads(text) for text in content.splitlines()]


@pytest.mark.parametrize("kind", [Client, SyncClient])
async def test_every_method(kind: type[Client], tmp_path: Path) -> None:
    async with calling(tmp_path, kind) as caller:
        await every_method_of_files(caller)
        await every_method_of_uploads(caller, tmp_path)
        await every_method_of_batches(caller)
        for order in ("asc", "desc"):
            await every_page(caller, order)
        for resource in RESOURCES:
            expected = {f"{resource}.{name}" for name in methods(resource)}
            raw = raw_methods(caller.client, resource)
            expected |= {f"{resource}.{way}{name}" for way in (RAW, STREAMING) for name in raw}
            assert expected <= caller.called, expected - caller.called


async def every_page(caller: Caller, order: str) -> None:
    files = [(await new_file(caller, str(n).encode(), "evals")).id for n in range(11)]
    expected = files if order == "asc" else files[::-1]
    found = await caller.all("files.list", purpose="evals", order=order, limit=3)
    assert [file.id for file in found] == expected
    everything = await caller.all("files.list", order=order, limit=2)
    assert len({file.id for file in everything}) == len(everything) > len(files)
    rest = await caller.all("files.list", purpose="evals", order=order, limit=3, after=expected[4])
    assert [file.id for file in rest] == expected[5:]
    for id in files:
        await caller.call("files.delete", id)
    batches = [(await new_batch(caller)).id for _ in range(5)]
    listed = [batch.id for batch in await caller.all("batches.list", limit=2)]
    assert listed[:5] == batches[::-1]
    assert len(set(listed)) == len(listed)


async def test_a_batch_that_is_not_valid_names_its_lines(tmp_path: Path) -> None:
    async with calling(tmp_path, Client) as caller:
        batch = await new_batch(caller, "\n".join([line("a"), "{", line("a"), line("b")]))
        failed = await ended(caller, batch.id)
        assert failed.status == "failed"
        assert failed.errors is not None
        assert [error.line for error in failed.errors.data or ()] == [2, 3]
        assert all(error.code and error.message for error in failed.errors.data or ())


async def test_the_input_of_a_batch_can_be_deleted_when_it_has_ended(tmp_path: Path) -> None:
    async with calling(tmp_path, Client) as caller:
        batch = await new_batch(caller, "\n".join(line(str(n)) for n in range(3000)))
        with pytest.raises(ConflictError) as in_use:
            await caller.call("files.delete", batch.input_file_id)
        assert in_use.value.code == "file_in_use"
        await caller.call("batches.cancel", batch.id)
        await ended(caller, batch.id)
        await caller.call("files.delete", batch.input_file_id)
