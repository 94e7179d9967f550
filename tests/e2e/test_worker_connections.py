"""The number of connections to the worker is limited, and a new one must start HTTP/2 soon."""

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import grpc_predict_v2_pb2 as pb
from tests.e2e import servers
from tests.gguf_files import tiny

CONNECTIONS = 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    model = tmp_path_factory.mktemp("models") / "tiny.gguf"
    model.write_bytes(tiny().data())
    options = ("--max-connections", str(CONNECTIONS), "--handshake-timeout", "0.5")
    with servers.worker("--model", str(model), *options) as (_, address):
        yield address


@contextmanager
def health(address: str) -> Iterator[Any]:
    """Yields a health stub on a new connection."""
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, options=options) as channel:
        yield health_pb2_grpc.HealthStub(channel)


def status(address: str) -> grpc.StatusCode:
    with health(address) as stub:
        try:
            stub.Check(health_pb2.HealthCheckRequest())
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK


@pytest.mark.parametrize("data", [b"", PREFACE[:7], PREFACE, PREFACE + b"\0\0\6\4"])
def test_silent_clients_are_cut_off(address: str, data: bytes) -> None:
    host, _, port = address.rpartition(":")
    silent = [socket.create_connection((host, int(port)), timeout=30) for _ in range(3 * CONNECTIONS)]
    for connection in silent:
        try:
            connection.sendall(data)
            while connection.recv(4096):
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass
        connection.close()
    servers.eventually(lambda: status(address) is grpc.StatusCode.OK)


def test_a_connection_beyond_the_limit_is_refused(address: str) -> None:
    servers.eventually(lambda: status(address) is grpc.StatusCode.OK)
    with ExitStack() as stack:
        stubs = [stack.enter_context(health(address)) for _ in range(CONNECTIONS)]
        watches = [stub.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True) for stub in stubs]
        for watch in watches:
            next(watch)
        assert status(address) is grpc.StatusCode.UNAVAILABLE
        for stub in stubs:
            assert stub.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    servers.eventually(lambda: status(address) is grpc.StatusCode.OK)


def test_a_low_limit_of_open_files_lowers_the_limit_of_connections(tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    model.write_bytes(tiny().data())
    limited = ("sh", "-c", 'ulimit -n 140 && exec "$0" "$@"')
    process = servers.Process(*limited, sys.executable, "-m", "anyserve_worker", "--port", "0", "--model", str(model))
    try:
        process.wait_for(r"at most 12 connections instead of \d+")
        address = "127.0.0.1:" + process.wait_for(r"listening on 127\.0\.0\.1:(\d+)")[1]
        process.wait_for("server: ready: ")
        host, _, port = address.rpartition(":")
        connections = [socket.create_connection((host, int(port)), timeout=30) for _ in range(200)]
        for connection in connections:
            connection.close()
        with servers.stub(address) as service:
            assert service.ServerLive(pb.ServerLiveRequest(), wait_for_ready=True, timeout=30).live
    finally:
        assert process.end() == 0
