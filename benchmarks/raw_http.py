"""A blocking HTTP client that costs almost nothing, and measures when parts of an answer arrive."""

from __future__ import annotations

import json
import socket
import sys
import time
from typing import Any, NamedTuple

FIRST_TEXT = b'"response.output_text.delta"'
"""Part of the first event with text of a Responses stream."""
LAST_CHUNK = b"0\r\n\r\n"


class Timing(NamedTuple):
    """Seconds since the request was sent. `first_text` is 0 for an answer that isn't such a stream."""

    first_text: float
    whole: float


def message(method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


class Connection:
    """A connection that stays open. It exits the process if an answer is no success."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.body = b""
        """The last answer's body, which for a stream includes the frames of its chunks."""

    def call(self, request: bytes) -> Timing:
        began = time.perf_counter()
        self._socket.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._receive()
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            sys.exit(answer.decode(errors="replace"))
        headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        first_text = 0.0
        if b"content-length" in headers:
            length = int(headers[b"content-length"])
            while len(body) < length:
                body += self._receive()
        else:
            while True:
                if not first_text and FIRST_TEXT in body:
                    first_text = time.perf_counter() - began
                if body.endswith(LAST_CHUNK):
                    break
                body += self._receive()
        self.body = body
        return Timing(first_text, time.perf_counter() - began)

    def _receive(self) -> bytes:
        if piece := self._socket.recv(1 << 16):
            return piece
        sys.exit("the sidecar closed the connection")
