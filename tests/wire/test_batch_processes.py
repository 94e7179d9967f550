"""Batches of server processes that are killed and ended."""

import asyncio
import json
import signal
from collections import Counter
from pathlib import Path

import pytest
from openai import AsyncOpenAI
from openai.types import Batch

from tests.postgres import running_postgres
from tests.wire.batch_files import ENDED, jsonl, requests
from tests.wire.fake_worker import serving
from tests.wire.test_sidecar_batches import BatchWorker
from tests.wire.test_sidecar_process import client, sidecar

pytestmark = pytest.mark.slow

QUIET = "--no-access-log"
"""Nothing reads the log lines, which would fill the pipe."""
TAKEOVER_SECONDS = 40
"""More than a lease lasts."""


async def create(openai: AsyncOpenAI, n: int) -> Batch:
    file = await openai.files.create(file=("input.jsonl", jsonl(requests(n, "hang"))), purpose="batch")
    return await openai.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")


async def ended(openai: AsyncOpenAI, id: str) -> Batch:
    async with asyncio.timeout(TAKEOVER_SECONDS):
        while (batch := await openai.batches.retrieve(id)).status not in ENDED:
            pass
    return batch


async def ids_of(openai: AsyncOpenAI, batch: Batch) -> Counter[str]:
    ids: Counter[str] = Counter()
    for file in (batch.output_file_id, batch.error_file_id):
        if file is not None:
            content = (await openai.files.content(file)).content
            ids.update(json.loads(line)["custom_id"] for line in content.splitlines())
    return ids


@pytest.mark.parametrize("kind", ["file", "postgres"])
async def test_the_lines_of_a_process_that_is_killed_run_in_another_one(kind: str, tmp_path: Path) -> None:
    if kind == "file":
        await _kill(f"sqlite:///{tmp_path / 'db'}", tmp_path)
        return
    with running_postgres() as server:
        await server.execute("CREATE DATABASE store")
        await _kill(server.url("store"), tmp_path)


async def _kill(url: str, folder: Path) -> None:
    worker, n = BatchWorker(), 12
    arguments = ("--store", url, "--blobs", str(folder / "blobs"), "--batch-concurrency", "4", QUIET)
    async with (
        serving(worker) as port,
        sidecar(port, *arguments) as a,
        client(a.port) as at_a,
        sidecar(port, *arguments) as b,
        client(b.port) as at_b,
    ):
        batch = await create(at_a, n)
        for _ in range(8):  # four lines in each process
            assert await worker.next() == "hang"
        a.process.kill()
        worker.release.set()
        batch = await ended(at_b, batch.id)
        assert (batch.status, batch.request_counts and batch.request_counts.completed) == ("completed", n)
        assert await ids_of(at_b, batch) == {f"request {i}": 1 for i in range(n)}
        assert n <= len(worker.requests) <= n + 4


async def test_a_process_that_gets_sigterm_finishes_its_lines(tmp_path: Path) -> None:
    worker = BatchWorker()
    arguments = ("--store", f"sqlite:///{tmp_path / 'db'}", "--batch-concurrency", "2", QUIET)
    async with serving(worker) as port:
        async with sidecar(port, *arguments) as first, client(first.port) as openai:
            id = (await create(openai, 4)).id
            for _ in range(2):
                assert await worker.next() == "hang"
            await first.drain_with(signal.SIGTERM)
            worker.release.set()
            assert await first.exit_status() == 0
        assert len(worker.requests) == 2
        async with sidecar(port, *arguments) as second, client(second.port) as openai:
            batch = await ended(openai, id)
            assert await ids_of(openai, batch) == {f"request {i}": 1 for i in range(4)}
    assert len(worker.requests) == 4
