"""Input and output files of batches, for tests in process."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from openai.types import Batch

from openai_server.store.file_records import NewFile
from openai_server.store.ids import new_id
from tests.shapes import exact
from tests.wire.sidecar import Sidecar

COMPLETIONS: Final = "/v1/completions"
ENDED = ("completed", "failed", "expired", "cancelled")
WAIT_SECONDS = 30


def request(custom_id: str, prompt: str = "hi", url: str = COMPLETIONS, **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": "tiny", "prompt": prompt, **body}}


def requests(n: int, prompt: str = "hi") -> list[dict[str, Any]]:
    return [request(f"request {i}", prompt) for i in range(n)]


def jsonl(lines: Sequence[Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


async def add_file(sidecar: Sidecar, content: bytes, *, owner: str = "", purpose: str = "batch") -> str:
    """Stores a file, and returns its id."""
    store = sidecar.app.services.store
    assert store is not None

    async def pieces() -> AsyncIterator[bytes]:
        yield content

    part, now = await store.files.receive(pieces(), max_bytes=1 << 30), time.time()
    file = NewFile(
        id=new_id("file-", now),
        owner=owner,
        created_at=now,
        expires_at=None,
        filename="input.jsonl",
        purpose=purpose,
        parts=[part],
    )
    return (await store.files.create(file)).id


async def create(sidecar: Sidecar, lines: Sequence[Any] | bytes, **fields: Any) -> dict[str, Any]:
    """Creates a batch of these lines, or of a file with this content."""
    file = await add_file(sidecar, lines if isinstance(lines, bytes) else jsonl(lines))
    body = {"input_file_id": file, "endpoint": COMPLETIONS, "completion_window": "24h", **fields}
    reply = await sidecar.send("POST", "/v1/batches", body)
    assert reply.status == 200, reply.body
    return shown(reply.json)


def shown(batch: Any) -> dict[str, Any]:
    exact(Batch, batch)
    return dict(batch)


async def get(sidecar: Sidecar, id: str) -> dict[str, Any]:
    reply = await sidecar.get(f"/v1/batches/{id}")
    assert reply.status == 200, reply.body
    return shown(reply.json)


async def until(sidecar: Sidecar, id: str, *statuses: str) -> dict[str, Any]:
    """The batch as soon as it has one of these statuses."""
    async with asyncio.timeout(WAIT_SECONDS):
        while (batch := await get(sidecar, id))["status"] not in statuses:
            pass
    return batch


async def ended(sidecar: Sidecar, id: str) -> dict[str, Any]:
    return await until(sidecar, id, *ENDED)


async def lines_of(sidecar: Sidecar, file_id: str | None, *, owner: str = "") -> list[Any]:
    """The lines of an output file or error file; none without a file."""
    if file_id is None:
        return []
    store = sidecar.app.services.store
    assert store is not None
    file = await store.files.get(owner, file_id)
    content = b"".join([piece async for piece in store.files.content(file.parts)])
    assert content.endswith(b"\n")
    return [json.loads(line) for line in content.splitlines()]
