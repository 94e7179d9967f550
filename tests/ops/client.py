"""A client that measures how long a response takes, and records how it ended."""

import http.client
import json
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

LONG: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Tell me a long story."}],
    "temperature": 2.0,
    "ignore_eos": True,
}
"""Runs until the context is full."""
SHORT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}


@dataclass
class Result:
    status: int = 0
    error: dict[str, Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    failure: str = ""
    """Why the connection broke, which no server should let happen; "" if it didn't."""

    @property
    def good(self) -> bool:
        return self.status == 200 and self.error is None and not self.failure


def post(
    url: str, body: dict[str, Any], path: str = "/v1/chat/completions", *, key: str = "", timeout: float = 60
) -> Result:
    """Sends one request on a new connection, and reads the response to its end."""
    return PendingRequest(url, body, path, key=key, timeout=timeout).result()


def get(url: str, path: str) -> Result:
    return PendingRequest(url, None, path).result()


class PendingRequest:
    """A request in progress, in its own thread."""

    def __init__(
        self,
        url: str,
        body: dict[str, Any] | None,
        path: str = "/v1/chat/completions",
        *,
        key: str = "",
        timeout: float = 60,
    ) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout)
        self._body, self._path = body, path
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._result = Result()
        self.first_bytes = threading.Event()
        """Set when the first bytes of the response have arrived."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def result(self) -> Result:
        self._thread.join()
        return self._result

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def disconnect(self) -> None:
        """Closes the connection without waiting for the response."""
        self._connection.sock.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        began = time.monotonic()
        try:
            self._send()
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._result.failure = repr(error)
        finally:
            self.first_bytes.set()
            self._connection.close()
            self._result.seconds = time.monotonic() - began

    def _send(self) -> None:
        method, body = ("GET", None) if self._body is None else ("POST", json.dumps(self._body))
        self._connection.request(method, self._path, body, self._headers)
        response = self._connection.getresponse()
        self._result.status = response.status
        self._result.headers = {name.lower(): value for name, value in response.getheaders()}
        if not self._result.headers.get("content-type", "").startswith("text/event-stream"):
            self._result.error = json.loads(response.read() or b"{}").get("error")
            return
        events = []
        while line := response.readline():
            if line.startswith(b"data: "):
                self.first_bytes.set()
                events.append(line[len(b"data: ") :].strip())
        if events.pop() != b"[DONE]":
            raise ValueError("a stream without its last event")
        self._result.error = json.loads(events[-1]).get("error")
