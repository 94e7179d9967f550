"""Connections to the worker are bounded, and a new one has to speak HTTP/2 soon."""

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
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


def live(address: str) -> bool:
    """On a connection of its own."""
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, options=options) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            return bool(stub.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            return False


@pytest.mark.parametrize(
    "sent", [b"", PREFACE[:7], PREFACE, PREFACE + b"\0\0\x06\4"], ids=["", "half", "whole", "frame"]
)
def test_silent_clients_are_cut_off(address: str, sent: bytes) -> None:
    host, _, port = address.rpartition(":")
    silent = [socket.create_connection((host, int(port)), timeout=30) for _ in range(3 * CONNECTIONS)]
    for connection in silent:
        try:
            connection.sendall(sent)
            while connection.recv(4096):
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass
        connection.close()
    servers.eventually(lambda: live(address))


def test_one_connection_too_many_is_refused(address: str) -> None:
    servers.eventually(lambda: live(address))
    with ExitStack() as stack:
        watches = []
        for _ in range(CONNECTIONS):
            channel = stack.enter_context(
                grpc.insecure_channel(
                    address, options=[("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
                )
            )
            stub: Any = health_pb2_grpc.HealthStub(channel)
            watches.append(stub.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True))
            next(watches[-1])
        assert not live(address)
        # Those that are there can go on.
        assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()) is not None  # type: ignore[no-untyped-call]
    servers.eventually(lambda: live(address))


def test_fewer_where_the_limit_of_open_files_is_low(tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    model.write_bytes(tiny().data())
    limited = ("sh", "-c", 'ulimit -n 140 && exec "$0" "$@"')
    process = servers.Process(*limited, sys.executable, "-m", "anyserve_worker", "--port", "0", "--model", str(model))
    try:
        process.wait_for("at most 12 connections instead of 1024")
        address = "127.0.0.1:" + process.wait_for(r"listening on 127\.0\.0\.1:(\d+)")[1]
        process.wait_for("server: ready: ")
        host, _, port = address.rpartition(":")
        many = [socket.create_connection((host, int(port)), timeout=30) for _ in range(200)]
        for connection in many:
            connection.close()
        with servers.stub(address) as service:
            assert service.ServerLive(pb.ServerLiveRequest(), wait_for_ready=True, timeout=30).live
    finally:
        assert process.end() == 0
