"""A client that measures how long the end of an answer takes, and tells what kind of end it was."""

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
"""Goes on until the context is full."""
SHORT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}


@dataclass
class End:
    status: int = 0
    error: dict[str, Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    failure: str = ""
    """That the connection broke, which no server should let happen."""

    @property
    def good(self) -> bool:
        return self.status == 200 and self.error is None and not self.failure


def ask(
    url: str, body: dict[str, Any], path: str = "/v1/chat/completions", *, key: str = "", timeout: float = 60
) -> End:
    """One request on a connection of its own, read to its end."""
    return Asking(url, body, path, key=key, timeout=timeout).end()


def get(url: str, path: str) -> End:
    return Asking(url, None, path).end()


class Asking:
    """A request under way, in a thread."""

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
        self._end = End()
        self.speaks = threading.Event()
        """The first bytes of the answer have come."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> End:
        self._thread.join()
        return self._end

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def leave(self) -> None:
        """Without an answer."""
        self._connection.sock.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        began = time.monotonic()
        try:
            self._ask()
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._end.failure = repr(error)
        finally:
            self.speaks.set()
            self._connection.close()
            self._end.seconds = time.monotonic() - began

    def _ask(self) -> None:
        method, body = ("GET", None) if self._body is None else ("POST", json.dumps(self._body))
        self._connection.request(method, self._path, body, self._headers)
        response = self._connection.getresponse()
        self._end.status = response.status
        self._end.headers = {name.lower(): value for name, value in response.getheaders()}
        if not self._end.headers.get("content-type", "").startswith("text/event-stream"):
            self._end.error = json.loads(response.read() or b"{}").get("error")
            return
        events = []
        while line := response.readline():
            if line.startswith(b"data: "):
                self.speaks.set()
                events.append(line[len(b"data: ") :].strip())
        if events.pop() != b"[DONE]":
            raise ValueError("a stream without its last event")
        self._end.error = json.loads(events[-1]).get("error")
