import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress

import pytest

from anyserve_worker.telemetry import metrics_server
from anyserve_worker.telemetry.metrics_server import MAX_CONNECTIONS, MetricsServer


@pytest.fixture
def server() -> Iterator[MetricsServer]:
    server = MetricsServer(socket.create_server(("127.0.0.1", 0)), lambda: b"a 1\n", "text/plain")
    yield server
    server.close()


def get(port: int, path: str = "/metrics", method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_what_is_there(server: MetricsServer) -> None:
    assert get(server.port) == (200, b"a 1\n")
    assert get(server.port, "/metrics?x=1") == (200, b"a 1\n")
    assert get(server.port, "/")[0] == 404
    assert get(server.port, "/metrics", "POST")[0] == 501


def dripping(port: int, sent: bytes) -> socket.socket:
    """A client that has sent a part of its request, and keeps its connection open."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    with suppress(ConnectionError):  # the server may have closed it for a newer one
        connection.sendall(sent)
    return connection


@pytest.mark.parametrize("sent", [b"", b"G", b"GET /metrics HTTP/1.1\r\n", b"GET /metrics HTTP/1.1\r\nhost: x\r\n"])
def test_clients_that_drip_keep_nobody_out(server: MetricsServer, sent: bytes) -> None:
    before = threading.active_count()
    with ExitStack() as slow:
        for _ in range(3 * MAX_CONNECTIONS):
            slow.enter_context(closing(dripping(server.port, sent)))
        for _ in range(3):
            assert get(server.port) == (200, b"a 1\n")
        assert threading.active_count() <= before + MAX_CONNECTIONS


def test_clients_that_drip_are_cut_off(server: MetricsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "TIMEOUT", 0.0)
    with closing(dripping(server.port, b"GET /metrics HTTP/1.1\r\n")) as slow:
        while slow.recv(1 << 16):
            pass
