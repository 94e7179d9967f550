import http.client
import socket
from collections.abc import Iterator

import pytest

from anyserve_worker.telemetry.metrics_server import MOST_CONNECTIONS, MetricsServer


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


def test_silent_clients_take_a_bounded_number_of_threads(server: MetricsServer) -> None:
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(MOST_CONNECTIONS)]
    try:
        with pytest.raises((http.client.HTTPException, OSError)):
            get(server.port)
    finally:
        for connection in silent:
            connection.close()
    for _ in range(100):  # their threads notice one after the other
        try:
            assert get(server.port) == (200, b"a 1\n")
        except (http.client.HTTPException, OSError):
            continue
        break
    else:
        raise AssertionError("nobody is served any more")
