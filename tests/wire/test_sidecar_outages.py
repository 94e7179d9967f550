"""An unreachable backend is logged as one warning with the reason, and its return as one line."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc import aio

from openai_server.backends import pool
from openai_server.backends.outages import BURST, PERIOD, Outages
from protos.grpc_predict_v2_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from scripts.ports import free_port, refusing_port
from tests.certificates import Authority
from tests.wire.fake_worker import FakeWorker, serving
from tests.wire.test_sidecar_process import TIMEOUT, Running, fetch, send_completions, sidecar

LOST_MESSAGE, FOUND_MESSAGE = "can't reach the backend", "connected to the backend"


class Lines:
    """The lines that a sidecar logs, without access lines."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self.seen: list[str] = []

    async def until(self, *words: str) -> str:
        """Returns the next line that contains all the words."""
        async with asyncio.timeout(TIMEOUT):
            while line := (await self._running.stderr.readline()).decode():
                if "openai_server.access" not in line:
                    self.seen.append(line)
                if all(word in line for word in words):
                    return line
        raise AssertionError(self.seen)

    def about(self, *words: str) -> list[str]:
        return [line for line in self.seen if all(word in line for word in words)]

    async def end(self) -> None:
        self._running.process.terminate()
        assert await self._running.exit_status() == 0
        self.seen += (await self._running.stderr.read()).decode().splitlines()


@asynccontextmanager
async def logged_sidecar(port: int, *args: str) -> AsyncIterator[tuple[Running, Lines]]:
    async with sidecar(port, *args) as running:
        yield running, Lines(running)


@pytest.mark.slow
async def test_a_backend_that_starts_late_is_one_warning_and_one_line_when_it_comes() -> None:
    attempts = asyncio.Semaphore(0)

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        attempts.release()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with logged_sidecar(port) as (running, lines):
            assert f" WARNING openai_server.backends.calls: {LOST_MESSAGE} 127.0.0.1:{port}: " in await lines.until(
                LOST_MESSAGE
            )
            for _ in range(3):
                await asyncio.wait_for(attempts.acquire(), TIMEOUT)
                assert (await fetch(running.port, "/readyz"))[0] == 503
            server.close()
            async with serving(FakeWorker(), port):
                assert f" INFO openai_server.backends.calls: {FOUND_MESSAGE} 127.0.0.1:{port}\n" in await lines.until(
                    FOUND_MESSAGE
                )
                await send_completions(running.port, 1)
                await lines.end()
    assert (len(lines.about(LOST_MESSAGE)), len(lines.about(FOUND_MESSAGE))) == (1, 1)


@pytest.mark.slow
async def test_a_backend_that_goes_and_comes_back_is_a_warning_and_a_line_each_time() -> None:
    port = free_port()
    async with logged_sidecar(port) as (_, lines):
        for _ in range(2):
            assert re.search(r"Connection (refused|reset)", await lines.until(LOST_MESSAGE))
            async with serving(FakeWorker(), port):
                await lines.until(FOUND_MESSAGE)
        await lines.until(LOST_MESSAGE)
        await lines.end()
    logged = lines.about("the backend")
    assert [LOST_MESSAGE in line for line in logged] == [True, False, True, False, True], logged


@pytest.mark.slow
async def test_every_unreachable_backend_is_named() -> None:
    with refusing_port() as first, refusing_port() as second:
        addresses = [f"localhost:{first}", f"127.0.0.1:{second}"]
        async with (
            serving(FakeWorker()) as port,
            logged_sidecar(port, "--anyserve-endpoint", ",".join(addresses)) as (_, lines),
        ):
            for address in addresses:
                if not lines.about(LOST_MESSAGE, address):
                    await lines.until(LOST_MESSAGE, address)
            await lines.end()
        assert len(lines.about(LOST_MESSAGE)) == 2


@pytest.mark.slow
async def test_the_warning_says_that_a_name_does_not_resolve() -> None:
    async with logged_sidecar(free_port(), "--anyserve-endpoint", "nobody.invalid:8000") as (_, lines):
        assert "resol" in await lines.until(LOST_MESSAGE, "nobody.invalid:8000")
        await lines.end()
    assert len(lines.about("nobody.invalid")) == 1


async def test_a_resolved_name_that_fails_is_logged_once_per_outage(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pool, "RESOLVE_INTERVAL", 0.01)
    caplog.set_level(logging.INFO)
    resolves, looked_up = [False], asyncio.Semaphore(0)

    async def resolve(name: str) -> list[pool.Address]:
        looked_up.release()
        if resolves[0]:
            return []
        raise OSError("no such name")

    async def five_lookups() -> None:
        for _ in range(5):
            await asyncio.wait_for(looked_up.acquire(), TIMEOUT)

    backend_pool = pool.Pool(["dns:///workers:1"], lambda _: pytest.fail("there is none"), resolve=resolve)
    watching = asyncio.create_task(backend_pool.watch())
    for state in (False, True, False):
        resolves[0] = state
        await five_lookups()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    logged = [record.getMessage() for record in caplog.records if "workers:1" in record.getMessage()]
    failure = "can't resolve workers:1: no such name"
    assert logged == [failure, "workers:1 is resolved again", failure]


@pytest.mark.slow
async def test_the_warning_says_that_the_certificate_is_of_another_authority(tmp_path: Path) -> None:
    trusted, untrusted = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    certificate, key = (path.read_bytes() for path in untrusted.issue("localhost"))
    server = aio.server()
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    await server.start()
    options = ("--anyserve-endpoint", f"localhost:{port}", "--backend-tls", "--backend-ca", str(trusted.file))
    try:
        async with logged_sidecar(free_port(), *options) as (_, lines):
            assert "CERTIFICATE_VERIFY_FAILED" in await lines.until(LOST_MESSAGE, f"localhost:{port}")
            await asyncio.sleep(1.5)  # another attempt
            await lines.end()
    finally:
        await server.stop(None)
    assert len(lines.about("CERTIFICATE_VERIFY_FAILED")) == 1, lines.seen


@pytest.mark.slow
async def test_a_backend_whose_calls_fail_is_a_warning() -> None:
    """For example, a backend behind a proxy that is reachable itself."""

    class Unavailable(FakeWorker):
        is_back = asyncio.Event()

        async def ServerReady(self, request: object, context: object) -> object:  # type: ignore[override]
            if not self.is_back.is_set():
                await context.abort(grpc.StatusCode.UNAVAILABLE, "no upstream")  # type: ignore[attr-defined]
            return await super().ServerReady(request, context)  # type: ignore[arg-type]

    worker = Unavailable()
    async with serving(worker) as port, logged_sidecar(port) as (_, lines):
        assert "no upstream" in await lines.until(LOST_MESSAGE)
        worker.is_back.set()
        await lines.until(FOUND_MESSAGE)
        await lines.end()
    assert len(lines.about(LOST_MESSAGE)) == 1


@pytest.mark.slow
async def test_a_backend_on_a_unix_socket_is_served(tmp_path: Path) -> None:
    server, endpoint = aio.server(), f"unix:{tmp_path / 'socket'}"
    add_GRPCInferenceServiceServicer_to_server(FakeWorker(), server)
    server.add_insecure_port(endpoint)
    await server.start()
    try:
        async with logged_sidecar(free_port(), "--anyserve-endpoint", endpoint) as (running, lines):
            await lines.until(FOUND_MESSAGE, endpoint)
            await send_completions(running.port, 1)
    finally:
        await server.stop(None)


def test_a_backend_that_flaps_is_not_logged_each_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = [0.0]
    outages = Outages(logging.getLogger("test"), "lost", "back", lambda: clock[0])
    for _ in range(1000):  # ten times a second
        outages.lost("why")
        clock[0] += 0.05
        outages.back()
        clock[0] += 0.05
    n_lines = len(caplog.records)
    assert n_lines <= 2 * BURST * (100 / PERIOD + 1)
    outages.lost("why")
    clock[0] += PERIOD
    assert outages.would_log, "the outage is logged in the end"
    outages.lost("for long")
    outages.lost("for long")
    [line] = caplog.records[n_lines:]
    assert line.getMessage().startswith("lost: for long")
