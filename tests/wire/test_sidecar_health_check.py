"""`python -m openai_server --healthcheck`, which the image runs, beside a server with the same options."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from grpc import aio

from protos.grpc_predict_v2_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from tests.certificates import Authority
from tests.e2e.servers import Process
from tests.networks import Network, network
from tests.wire.fake_worker import FakeWorker

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="networks of their own are Linux's")]


@asynccontextmanager
async def listening_on(path: Path, worker: FakeWorker) -> AsyncIterator[str]:
    """Serves the worker on a socket that every network reaches; yields the endpoint."""
    server = aio.server()
    add_GRPCInferenceServiceServicer_to_server(worker, server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    try:
        yield f"unix:{path}"
    finally:
        await server.stop(None)


async def status(net: Network, *options: str) -> int:
    command = (*net.prefix, sys.executable, "-m", "openai_server", "--healthcheck", *options)
    process = await asyncio.create_subprocess_exec(*command)
    return await asyncio.wait_for(process.wait(), 30)


@pytest.mark.parametrize(
    "options",
    [
        ("--host", "::"),
        ("--host", "fd00::2"),
        ("--host", "127.0.0.2", "--admin-port", "8090"),
        ("--tls-cert", "CERTIFICATE", "--tls-key", "KEY"),
    ],
)
async def test_the_health_check_returns_readiness(tmp_path: Path, options: tuple[str, ...]) -> None:
    certificate, key = Authority(tmp_path / "ca").issue("localhost")
    files = {"CERTIFICATE": str(certificate), "KEY": str(key)}
    options = tuple(files.get(word, word) for word in options)
    worker = FakeWorker()
    with network(tmp_path) as net:
        async with listening_on(tmp_path / "w", worker) as endpoint:
            server = Process(
                *(*net.prefix, sys.executable, "-m", "openai_server", "--anyserve-endpoint", endpoint, *options)
            )
            try:
                await asyncio.to_thread(server.wait_for, "connected to the backend")
                assert await status(net, *options) == 0
                worker.ready = False
                assert await status(net, *options) == 1
            finally:
                await asyncio.to_thread(server.end)


async def test_the_health_check_fails_if_no_server_answers(tmp_path: Path) -> None:
    with network(tmp_path, ipv6=False) as net:
        assert await status(net) == 1
        assert await status(net, "--host", "name.invalid") == 1


async def test_the_health_check_calls_only_the_address_in_its_options(tmp_path: Path) -> None:
    worker = FakeWorker()
    with network(tmp_path) as net:
        async with listening_on(tmp_path / "w", worker) as endpoint:
            command = (*net.prefix, sys.executable, "-m", "openai_server", "--anyserve-endpoint", endpoint)
            server = Process(*command, "--host", "127.0.0.1")
            try:
                await asyncio.to_thread(server.wait_for, "connected to the backend")
                assert [await status(net, "--host", host) for host in ("::1", "127.0.0.2")] == [1, 1]
                assert [await status(net, "--host", host) for host in ("localhost", "0.0.0.0")] == [0, 0]
            finally:
                await asyncio.to_thread(server.end)
