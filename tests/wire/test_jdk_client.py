"""Requests of `java.net.http.HttpClient` of OpenJDK 17, byte for byte, as `tests.ops.jdk_client --record` printed them.

That client requests an upgrade to HTTP/2 with every request of a connection. LangChain4j and Spring AI use it.
"""

import time
from collections.abc import Iterator

import pytest

from tests.e2e import servers
from tests.ops import able_worker
from tests.wire.raw_http import connected

pytestmark = pytest.mark.slow

POST = (
    b"POST /v1/chat/completions HTTP/1.1\r\n"
    b"Connection: Upgrade, HTTP2-Settings\r\n"
    b"Content-Length: %d\r\n"
    b"Host: 127.0.0.1:8080\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\r\n"
    b"Upgrade: h2c\r\n"
    b"User-Agent: Java-http-client/17.0.15\r\n"
    b"Content-Type: application/json\r\n"
    b"\r\n"
)
GET = (
    b"GET /v1/models HTTP/1.1\r\n"
    b"Connection: Upgrade, HTTP2-Settings\r\n"
    b"Content-Length: 0\r\n"
    b"Host: 127.0.0.1:8080\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\r\n"
    b"Upgrade: h2c\r\n"
    b"User-Agent: Java-http-client/17.0.15\r\n"
    b"\r\n"
)
WHOLE = b'{"messages": [{"role": "user", "content": "GET / HTTP/1.1"}]}'
STREAM = b'{"messages": [{"role": "user", "content": "GET / HTTP/1.1"}], "stream": true}'
WRONG = b'{"messages": [{"role": "user", "content": "GET / HTTP/1.1"}], "n": "x"}'


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with able_worker.listening() as address, servers.sidecar(address) as (process, url):
        yield int(url.rpartition(":")[2])
        assert process.end() == 0
        assert "Traceback" not in process.output, process.output


@pytest.mark.parametrize("pause", [None, 0, 0.2], ids=["in one piece", "in two pieces", "the body later"])
def test_every_request_of_a_connection_is_answered_once(port: int, pause: float | None) -> None:
    with connected(port) as raw:
        for body, status, expected in [
            (WHOLE, 200, b'"chat.completion"'),
            (STREAM, 200, b"data: [DONE]\n\n"),
            (b"", 200, b'"object":"list"'),
            (WRONG, 400, b'"param":"n"'),
            (STREAM, 200, b"data: [DONE]\n\n"),
            (WHOLE, 200, b'"chat.completion"'),
        ]:
            head = POST % len(body) if body else GET
            if pause is None:
                raw.send(head + body)
            else:
                raw.send(head)
                time.sleep(pause)
                raw.send(body)
            response = raw.response()
            assert response.status == status
            assert expected in response.body
            assert "connection" not in response.headers
