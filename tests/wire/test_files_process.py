"""Files and uploads with a sidecar program: the `openai` package, slow clients, clients that leave, and its memory."""

import asyncio
import hashlib
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError
from openai.types import FileDeleted, FileObject, Upload
from openai.types.uploads import UploadPart

from tests.shapes import exact
from tests.wire import raw_http
from tests.wire.fake_worker import FakeWorker, serving
from tests.wire.stored_objects import form
from tests.wire.test_sidecar_process import Running, sidecar
from tests.wire.test_stored_objects import Client, SyncClient, clients

pytestmark = pytest.mark.slow

MIB = 1 << 20
HEAD = b'--B\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
TAIL = b'\r\n--B\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--B--\r\n'


def head(n_bytes: int, *headers: str) -> bytes:
    """The head of a request with a file of this size."""
    fields = (
        *("POST /v1/files HTTP/1.1", "host: x", "content-type: multipart/form-data; boundary=B"),
        *(f"content-length: {len(HEAD) + n_bytes + len(TAIL)}", *headers),
    )
    return "".join(f"{field}\r\n" for field in (*fields, "")).encode()


@asynccontextmanager
async def storing(folder: Path, *arguments: str, workers: int = 1) -> AsyncIterator[Running]:
    async with serving(FakeWorker()) as port:
        store = ("--store", f"sqlite:///{folder / 'store.db'}")
        async with sidecar(port, *store, *arguments, workers=workers) as running:
            yield running


def blobs_of(folder: Path) -> list[Path]:
    return [path for path in (folder / "store.db.blobs").glob("??/*") if path.is_file()]


async def eventually_empty(folder: Path) -> None:
    async with asyncio.timeout(30):
        while blobs_of(folder):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


# ---- The `openai` package


@pytest.mark.parametrize("kind", [Client, SyncClient])
async def test_files_with_the_openai_package(kind: type[Client], tmp_path: Path) -> None:
    async with clients(tmp_path, kind) as (client, _):
        contents = [os.urandom(n) for n in (0, 1, 100_000)]
        files = []
        for n, content in enumerate(contents):
            files.append(
                exact(
                    FileObject,
                    await client.call(
                        "files.create",
                        file=(f"\u00fc{n}.bin", content),
                        purpose=("user_data", "batch")[n % 2],
                        expires_after={"anchor": "created_at", "seconds": 3600},
                    ),
                )
            )
            assert (files[n].bytes, files[n].filename) == (len(content), f"\u00fc{n}.bin")
        assert await client.all("files.list", limit=1) == files[::-1]
        assert await client.all("files.list", limit=2, order="asc") == files
        assert await client.all("files.list", purpose="batch") == [files[1]]
        for file, content in zip(files, contents, strict=True):
            assert exact(FileObject, await client.call("files.retrieve", file.id)) == file
            assert (await client.call("files.content", file.id)).content == content
            assert await client.call("files.wait_for_processing", file.id) == file
            deleted = exact(FileDeleted, await client.call("files.delete", file.id))
            assert (deleted.id, deleted.deleted) == (file.id, True)
            with pytest.raises(NotFoundError):
                await client.call("files.retrieve", file.id)
        assert await client.all("files.list") == []


@pytest.mark.parametrize("kind", [Client, SyncClient])
async def test_uploads_with_the_openai_package(kind: type[Client], tmp_path: Path) -> None:
    async with clients(tmp_path, kind) as (client, _):
        content = os.urandom(250_000)
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        fields = {"filename": "f.bin", "mime_type": "text/plain", "purpose": "user_data"}
        upload = exact(Upload, await client.call("uploads.create", bytes=len(content), **fields))
        pieces = [content[start : start + 100_000] for start in range(0, len(content), 100_000)]
        parts = await asyncio.gather(*(client.call("uploads.parts.create", upload.id, data=piece) for piece in pieces))
        ids = [exact(UploadPart, part).id for part in parts]
        with pytest.raises(BadRequestError):
            await client.call("uploads.complete", upload.id, part_ids=ids[:1])
        done = exact(Upload, await client.call("uploads.complete", upload.id, part_ids=ids, md5=digest))
        assert done.file is not None
        assert (await client.call("files.content", done.file.id)).content == content
        chunked = await client.call(
            "uploads.upload_file_chunked",
            file=content,
            bytes=len(content),
            part_size=60_000,
            **fields,
        )
        assert exact(Upload, chunked).status == "completed"
        assert (await client.call("files.content", chunked.file.id)).content == content
        pending = await client.call("uploads.create", bytes=5, **fields)
        assert exact(Upload, await client.call("uploads.cancel", pending.id)).status == "cancelled"


# ---- Clients that are slow, or leave


async def test_a_slow_client_has_time_as_long_as_it_goes_on(tmp_path: Path) -> None:
    """The time limit is that of each MiB."""
    async with storing(tmp_path, "--body-timeout", "1") as running:
        with raw_http.connected(running.port) as connection:
            n = 8
            await asyncio.to_thread(connection.send, head(n * MIB) + HEAD)
            began = time.monotonic()
            for _ in range(n):
                await asyncio.sleep(0.3)
                await asyncio.to_thread(connection.send, b"x" * MIB)
            assert time.monotonic() - began > 2
            await asyncio.to_thread(connection.send, TAIL)
            response = await asyncio.to_thread(connection.response)
            assert response.status == 200, response
        with raw_http.connected(running.port) as connection:
            await asyncio.to_thread(connection.send, head(3 * MIB) + HEAD + b"x" * MIB)
            response = await asyncio.to_thread(connection.response)
            assert response.status == 408
            assert "1048576 bytes" in response.error["message"]
    assert len(blobs_of(tmp_path)) == 1


async def test_a_client_that_leaves_leaves_no_blob(tmp_path: Path) -> None:
    async with storing(tmp_path) as running:
        with socket.create_connection(("127.0.0.1", running.port)) as connection:
            connection.sendall(head(100 * MIB) + HEAD + b"x" * 3 * MIB)
            async with asyncio.timeout(30):
                while not blobs_of(tmp_path):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        await eventually_empty(tmp_path)


async def test_a_body_in_chunks(tmp_path: Path) -> None:
    body, headers = form({"purpose": "batch"}, file=b"hello")
    lines = (
        "POST /v1/files HTTP/1.1",
        "host: x",
        "transfer-encoding: chunked",
        f"content-type: {headers['content-type']}",
    )
    async with storing(tmp_path) as running:
        with raw_http.connected(running.port) as connection:
            connection.send("".join(f"{line}\r\n" for line in (*lines, "")).encode())
            for k in range(0, len(body), 7):
                part = body[k : k + 7]
                connection.send(b"%x\r\n%b\r\n" % (len(part), part))
            connection.send(b"0\r\n\r\n")
            assert (await asyncio.to_thread(connection.response)).status == 200


async def test_a_client_that_waits_is_refused_before_it_sends_the_file(tmp_path: Path) -> None:
    async with storing(tmp_path, "--max-file-bytes", "2000000", "--store-max-file-bytes", "800000") as running:
        for n_bytes, status in ((3_000_000, 413), (1_000_000, 403)):
            with raw_http.connected(running.port) as connection:
                connection.send(head(n_bytes, "expect: 100-continue"))
                response = await asyncio.to_thread(connection.response)
                assert response.status == status
        with socket.create_connection(("127.0.0.1", running.port)) as plain:
            plain.sendall(head(5, "expect: 100-continue"))
            plain.settimeout(30)
            assert (await asyncio.to_thread(plain.recv, 1000)).startswith(b"HTTP/1.1 100 ")
            plain.sendall(HEAD + b"hello" + TAIL)
            assert b"200 OK" in await asyncio.to_thread(plain.recv, 1000)


async def test_a_file_that_is_deleted_while_it_is_read_ends_the_connection(tmp_path: Path) -> None:
    async with storing(tmp_path) as running:
        with raw_http.connected(running.port) as connection:
            connection.send(head(64 * MIB) + HEAD)
            for _ in range(64):
                await asyncio.to_thread(connection.send, b"x" * MIB)
            connection.send(TAIL)
            assert (await asyncio.to_thread(connection.response)).status == 200
        (blob,) = blobs_of(tmp_path)
        with raw_http.connected(running.port) as connection:
            connection.send(b"GET /v1/files HTTP/1.1\r\nhost: x\r\n\r\n")
            listed = await asyncio.to_thread(connection.response)
            id = listed.body.partition(b'"id":"')[2].partition(b'"')[0].decode()
            connection.send(f"GET /v1/files/{id}/content HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            await asyncio.sleep(0.2)
            blob.unlink()
            with pytest.raises(EOFError):
                await asyncio.to_thread(connection.response)


# ---- Resources


def pieces(n_bytes: int) -> Iterator[bytes]:
    piece = os.urandom(MIB)
    for _ in range(n_bytes // MIB):
        yield piece


def peak_of(pid: int) -> int:
    """The peak of the resident memory of a process, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise ValueError(pid)


def send_file(port: int, n_bytes: int) -> raw_http.Response:
    with raw_http.connected(port) as connection:
        connection.send(head(n_bytes) + HEAD)
        for piece in pieces(n_bytes):
            connection.send(piece)
        connection.send(TAIL)
        return connection.response()


async def test_a_large_file_takes_no_memory(tmp_path: Path) -> None:
    n_bytes = 256 * MIB
    async with storing(tmp_path) as running:
        small = await asyncio.to_thread(send_file, running.port, MIB)
        before = peak_of(running.process.pid)
        large = await asyncio.to_thread(send_file, running.port, n_bytes)
        assert (small.status, large.status) == (200, 200)
        id = large.body.partition(b'"id":"')[2].partition(b'"')[0].decode()
        with socket.create_connection(("127.0.0.1", running.port)) as connection:
            connection.sendall(f"GET /v1/files/{id}/content HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            connection.settimeout(30)
            assert await asyncio.to_thread(received, connection) > n_bytes
        assert peak_of(running.process.pid) - before < 32 * MIB


def received(connection: socket.socket) -> int:
    """The number of bytes until the content of a file is complete."""
    data = connection.recv(1 << 16)
    content_length = int(data.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    n_bytes, expected = len(data), data.index(b"\r\n\r\n") + 4 + content_length
    while n_bytes < expected:
        n_bytes += len(connection.recv(1 << 16))
    return n_bytes


async def test_a_disk_that_has_no_room_for_a_file(tmp_path: Path) -> None:
    """The limit on the size of a file, which the system reports as it reports a full disk."""
    async with storing(tmp_path) as running:
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (16 * MIB, 16 * MIB))
        assert (await asyncio.to_thread(send_file, running.port, 8 * MIB)).status == 200
        full = await asyncio.to_thread(send_file, running.port, 32 * MIB)
        assert (full.status, full.error["code"]) == (507, "insufficient_storage")
        assert len(blobs_of(tmp_path)) == 1
        assert (await asyncio.to_thread(send_file, running.port, MIB)).status == 200


async def test_a_file_survives_the_end_of_the_process(tmp_path: Path) -> None:
    async with storing(tmp_path) as running:
        response = await asyncio.to_thread(send_file, running.port, 3 * MIB)
        running.process.kill()
    id = response.body.partition(b'"id":"')[2].partition(b'"')[0].decode()
    async with storing(tmp_path) as running:
        with raw_http.connected(running.port) as connection:
            connection.send(f"GET /v1/files/{id}/content HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            content: Any = await asyncio.to_thread(connection.response)
            assert (content.status, len(content.body)) == (200, 3 * MIB)
