"""A sidecar's output: closed, on a full disk, or a log that clients try to forge."""

import asyncio
import json
import os
import re
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from scripts.ports import free_port
from tests.ops.client import get
from tests.wire.fake_worker import FakeWorker, serving
from tests.wire.raw_http import connected
from tests.wire.test_sidecar_process import TIMEOUT, send_completions, sidecar

pytestmark = pytest.mark.slow

# ---- Standard streams


@asynccontextmanager
async def redirected(worker_port: int, to: str, *args: str) -> AsyncIterator[tuple[Process, int]]:
    """Yields a sidecar, started by a shell with these redirections, and its port."""
    port = free_port()
    command = (sys.executable, "-m", "openai_server", "--port", str(port), *args)
    endpoint = ("--anyserve-endpoint", f"127.0.0.1:{worker_port}")
    process = await asyncio.create_subprocess_exec("sh", "-c", f'exec "$@" {to}', "sh", *command, *endpoint)
    try:
        url = f"http://127.0.0.1:{port}"
        async with asyncio.timeout(TIMEOUT):
            while True:
                assert process.returncode is None, "the sidecar has ended"
                try:
                    if (await asyncio.to_thread(get, url, "/readyz")).status == 200:
                        break
                except OSError:
                    pass
                await asyncio.sleep(0.05)
        yield process, port
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


TWO_WORKERS = ("--workers", "2", "--log-format", "json")


@pytest.mark.parametrize(
    ("to", "options"),
    [
        (">&-", ()),
        ("2>&-", ()),
        ("<&- >&- 2>&-", ("--log-format", "json")),
        (">/dev/full 2>&1", ("--log-level", "debug")),
        ("<&- >&- 2>&-", TWO_WORKERS),
        ("2>/dev/full", TWO_WORKERS),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value) or "one",
)
async def test_the_sidecar_serves_and_exits_cleanly_where_nothing_can_be_written(
    to: str, options: tuple[str, ...]
) -> None:
    async with serving(FakeWorker()) as worker_port, redirected(worker_port, to, *options) as (process, port):
        await send_completions(port, 3)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), TIMEOUT) == 0


async def test_the_sidecar_keeps_serving_when_the_reader_of_its_log_is_gone() -> None:
    reader, writer = os.pipe()
    port = free_port()
    async with serving(FakeWorker()) as worker_port:
        command = (sys.executable, "-m", "openai_server", "--port", str(port))
        process = await asyncio.create_subprocess_exec(
            *command, "--anyserve-endpoint", f"127.0.0.1:{worker_port}", stdout=writer, stderr=writer
        )
        os.close(writer)
        try:
            assert b"listening on" in await asyncio.to_thread(os.read, reader, 1 << 16)
            os.close(reader)
            async with asyncio.timeout(TIMEOUT):
                while (await asyncio.to_thread(get, f"http://127.0.0.1:{port}", "/readyz")).status != 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            await send_completions(port, 3)
            process.terminate()
            assert await asyncio.wait_for(process.wait(), TIMEOUT) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


@pytest.mark.parametrize("to", ["2>&-", "2>/dev/full"])
async def test_a_usage_error_that_can_not_be_written_still_sets_the_exit_status(to: str) -> None:
    command = f'exec "$@" {to}'
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", command, "sh", sys.executable, "-m", "openai_server", "--anyserve-endpoint", "nowhere")
    )
    assert await asyncio.wait_for(process.wait(), TIMEOUT) == 2


# ---- Bytes that a client sends

UNPRINTABLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
"""Control characters (C1 included), line separators, and characters that change the direction of text; newlines end
lines."""
ATTACK = "\x85\x9b2J\x90\x1b[31m\x7f\u202e\u2066\u2028\u2029\u200f"


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_nothing_unprintable_that_a_client_sends_reaches_the_log(log_format: str) -> None:
    latin, utf8 = b"\x85\x9b2J\xa0\x90 status=200", ATTACK.encode()
    requests = [
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 10.0.0.9%b\r\n\r\n" % latin,
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\nx-forwarded-for: %b\r\n\r\n" % (b"9" * 5000),
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\nx-request-id: a%b\r\nuser-agent: %b\r\n\r\n" % (latin, latin),
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\ntraceparent: %b\r\ntracestate: a=%b\r\n\r\n" % (latin, latin),
        b"GET /v1/models/%b HTTP/1.1\r\nhost: x\r\n\r\n" % b"".join(b"%%%02x" % byte for byte in utf8),
        b"GET /x%b HTTP/1.1\r\nhost: x\r\n\r\n" % b"".join(b"%%%02x" % byte for byte in utf8),
        *(
            b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (path, len(body), body)
            for path, body in (
                (b"/v1/completions", json.dumps({"prompt": "x", "model": ATTACK}, ensure_ascii=False).encode()),
                (b"/v1/completions", json.dumps({"prompt": "x", "model": f"\n{ATTACK}"}).encode()),
                (b"/v1/chat/completions", json.dumps({"messages": [{"role": ATTACK}]}).encode()),
                (b"/v1/completions", json.dumps({"prompt": "x", ATTACK: 1}).encode()),
            )
        ),
        b"GET / HTTP/1.1\r\nhost: \x9b\r\n\r\n",
    ]
    options = ("--log-level", "debug", "--log-format", log_format)
    async with serving(FakeWorker()) as worker_port, sidecar(worker_port, *options) as running:
        for request in requests:
            await asyncio.to_thread(_exchange, running.port, request)
        running.process.terminate()
        assert await running.exit_status() == 0
        log = (running.greeting + await running.stderr.read()).decode()
    assert not UNPRINTABLE.findall(log)
    lines = log.splitlines()
    assert max(map(len, lines)) < 2000
    access = [line for line in lines if re.search(r"openai_server\.access[\":]", line)]
    assert len(access) == len(requests) - 1
    if log_format == "json":
        entries = [json.loads(line) for line in lines]
        clients = [line["client"] for line in entries if line["logger"] == "openai_server.access"]
        assert clients[:2] == ["10.0.0.9" + latin.decode("latin-1"), "9" * 64]
        assert any(ATTACK in line["message"] for line in entries), "errors are logged in full"
    else:
        assert all(re.match(r"[0-9-]+ [0-9:,]+ [A-Z]+ [a-z_.]+: ", line) for line in lines)
        assert re.search(r' status=200 .* client="10\.0\.0\.9\\u0085\\u009b2J\\u00a0\\u0090 status=200"$', access[0])
        assert r"\u0085\u009b2J\u0090\u001b[31m" in log


def _exchange(port: int, request: bytes) -> None:
    with connected(port) as raw:
        raw.send(request)
        assert raw.response().status >= 200
