"""HTTP/1.1 on a raw socket: sends bytes, and parses the responses as strictly as a proxy does."""

import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

TIMEOUT = 30.0
"""Seconds for each read."""


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """Returns the content of OpenAI's error envelope, which must be complete."""
        assert self.headers["content-type"] == "application/json", self
        error: dict[str, Any] = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        return error


class Raw:
    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._socket.settimeout(TIMEOUT)
        self._received = b""

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def send_bytewise(self, data: bytes) -> None:
        """Sends a segment for each byte. The server may end the connection midway."""
        for k in range(len(data)):
            try:
                self._socket.sendall(data[k : k + 1])
            except OSError:
                return

    def response(self, method: str = "GET") -> Response:
        """Returns the next final response. Raises EOFError if the connection ends before it."""
        while True:
            head, _, self._received = self._until(b"\r\n\r\n").partition(b"\r\n\r\n")
            line, *fields = head.decode("latin-1").split("\r\n")
            version, status = line.split(" ")[:2]
            assert version == "HTTP/1.1", line
            headers: dict[str, str] = {}
            for field in fields:
                name, _, value = field.partition(":")
                assert name.lower() not in headers, f"{name} twice"
                headers[name.lower()] = value.strip()
            if int(status) >= 200:
                return Response(int(status), headers, self._body(method, int(status), headers))

    def until_closed(self) -> bytes:
        """Returns everything until the server ends the connection. Raises ConnectionResetError."""
        while part := self._socket.recv(1 << 16):
            self._received += part
        received, self._received = self._received, b""
        return received

    def _body(self, method: str, status: int, headers: dict[str, str]) -> bytes:
        if method == "HEAD" or status in (204, 304):
            return b""
        if "transfer-encoding" in headers:
            assert headers["transfer-encoding"] == "chunked"
            assert "content-length" not in headers
            return b"".join(self._chunks())
        if "content-length" in headers:
            return self._take(int(headers["content-length"]))
        return self.until_closed()

    def _chunks(self) -> Iterator[bytes]:
        while True:
            line, _, self._received = self._until(b"\r\n").partition(b"\r\n")
            size = int(line, 16)
            chunk = self._take(size + 2)
            assert chunk.endswith(b"\r\n")
            if not size:
                return
            yield chunk[:-2]

    def _take(self, n: int) -> bytes:
        while len(self._received) < n:
            self._receive()
        data, self._received = self._received[:n], self._received[n:]
        return data

    def _until(self, end: bytes) -> bytes:
        while end not in self._received:
            self._receive()
        return self._received

    def _receive(self) -> None:
        if not (part := self._socket.recv(1 << 16)):
            raise EOFError(self._received)
        self._received += part


@contextmanager
def connected(port: int, tls: ssl.SSLContext | None = None) -> Iterator[Raw]:
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is None:
            yield Raw(plain)
        else:
            with tls.wrap_socket(plain, server_hostname="localhost") as secured:
                yield Raw(secured)
