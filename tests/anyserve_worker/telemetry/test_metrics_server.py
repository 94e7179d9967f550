import http.client
import socket
import threading
import time
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


def test_only_get_metrics_is_served(server: MetricsServer) -> None:
    assert get(server.port) == (200, b"a 1\n")
    assert get(server.port, "/metrics?x=1") == (200, b"a 1\n")
    assert get(server.port, "/")[0] == 404
    assert get(server.port, "/metrics", "POST")[0] == 501


def unfinished_request(port: int, sent: bytes) -> socket.socket:
    """Returns a connection that has sent only a part of a request."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    with suppress(ConnectionError):  # the server may have closed it for a newer one
        connection.sendall(sent)
    return connection


@pytest.fixture
def without_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a newer connection ends one."""
    monkeypatch.setattr(metrics_server, "TIMEOUT", 1000.0)


@pytest.mark.usefixtures("without_timeouts")
@pytest.mark.parametrize("sent", [b"", b"G", b"GET /metrics HTTP/1.1\r\n", b"GET /metrics HTTP/1.1\r\nhost: x\r\n"])
def test_slow_clients_do_not_block_others(server: MetricsServer, sent: bytes) -> None:
    before = threading.active_count()
    with ExitStack() as slow:
        for _ in range(3 * MAX_CONNECTIONS):
            slow.enter_context(closing(unfinished_request(server.port, sent)))
        for _ in range(3):
            assert get(server.port) == (200, b"a 1\n")
        give_up_at = time.monotonic() + 20
        while threading.active_count() > before + MAX_CONNECTIONS:  # threads end after their slots are free
            assert time.monotonic() < give_up_at
            time.sleep(0.01)


def test_slow_clients_are_disconnected(server: MetricsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "TIMEOUT", 0.0)
    with closing(unfinished_request(server.port, b"GET /metrics HTTP/1.1\r\n")) as slow:
        while slow.recv(1 << 16):
            pass
