"""Failures of calls as the installed gRPC reports them, to a server that writes HTTP/2 frames itself."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc import aio

from openai_server.backends.failures import FAILURES, failure_of
from openai_server.core.errors import BackendError
from protos.grpc_predict_v2_pb2 import ServerLiveRequest
from protos.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

PREFACE_BYTES = 24
HEADERS, RST_STREAM, SETTINGS = 1, 3, 4
ACK = 1
NO_ERROR, INTERNAL_ERROR = 0, 2


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


class ResettingServer(asyncio.Protocol):
    """Resets each call at once."""

    def __init__(self, error_code: int) -> None:
        self._error_code = error_code
        self._data = bytearray()
        self._has_preface = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(frame(SETTINGS, 0, 0))

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._has_preface and len(self._data) >= PREFACE_BYTES:
            del self._data[:PREFACE_BYTES]
            self._has_preface = True
        while self._has_preface and len(self._data) >= (size := 9 + int.from_bytes(self._data[:3], "big")):
            kind, flags, stream = self._data[3], self._data[4], int.from_bytes(self._data[5:9], "big")
            del self._data[:size]
            if kind == SETTINGS and not flags & ACK:
                self.transport.write(frame(SETTINGS, ACK, 0))
            elif kind == HEADERS:
                self.transport.write(frame(RST_STREAM, 0, stream, self._error_code.to_bytes(4, "big")))


@asynccontextmanager
async def resetting_server(error_code: int) -> AsyncIterator[str]:
    """Yields its address."""
    connections: list[ResettingServer] = []

    def connect() -> ResettingServer:
        connections.append(ResettingServer(error_code))
        return connections[-1]

    server = await asyncio.get_running_loop().create_server(connect, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for connection in connections:
        connection.transport.abort()


@pytest.mark.parametrize("error_code", [NO_ERROR, INTERNAL_ERROR])
async def test_a_call_that_the_server_resets_is_unavailable(error_code: int) -> None:
    async with (
        resetting_server(error_code) as address,
        aio.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),)) as channel,
    ):
        with pytest.raises(FAILURES) as failed:
            await GRPCInferenceServiceStub(channel).ServerLive(ServerLiveRequest(), timeout=10)
    failure = failure_of(failed.value)
    assert isinstance(failure, BackendError)
    assert failure.status == "UNAVAILABLE"
    assert failure.is_loss


@pytest.mark.parametrize(
    ("status", "message", "is_loss"),
    [
        ("UNAVAILABLE", "Stream removed (Socket closed)", True),
        ("UNAVAILABLE", "recvmsg:Connection reset by peer", True),
        ("UNAVAILABLE", "failed to connect to all addresses; last error: recvmsg:Connection reset by peer", False),
        ("UNAVAILABLE", "no ModelInfer now", False),
        ("INTERNAL", "Socket closed", False),
    ],
)
def test_a_lost_backend_is_distinguished_from_one_that_is_away(status: str, message: str, is_loss: bool) -> None:
    error = aio.AioRpcError(grpc.StatusCode[status], aio.Metadata(), aio.Metadata(), details=message)
    failure = failure_of(error)
    assert isinstance(failure, BackendError)
    assert (failure.status, failure.is_loss) == (status, is_loss)
