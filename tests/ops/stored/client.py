"""An HTTP client of several sidecars with one store, any of which may be killed during a request."""

import http.client
import json
import random
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

TIMEOUT = 30.0
"""Seconds for each read, and for a stream with its pings."""
RETRY_SECONDS = 0.02
"""Seconds until a client connects again if no sidecar listens."""
ENDS = frozenset(f"response.{status}" for status in ("completed", "incomplete", "failed", "cancelled"))
"""Types of a stream's last event."""


class Cut(Exception):
    """The connection broke before the whole answer: the request took effect or not."""


@dataclass(frozen=True)
class Reply:
    status: int
    body: Any
    """The JSON of the answer, or the response of a stream's last event."""

    def __str__(self) -> str:
        return f"{self.status} {json.dumps(self.body)[:500]}"


class StoreClient:
    """Sends each request to one of the sidecars that listen, chosen at random."""

    def __init__(self, ports: Sequence[int], key: str, rng: random.Random) -> None:
        self._ports = list(ports)
        self._rng = rng
        self._headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        self._connections: dict[int, http.client.HTTPConnection] = {}

    def send(self, method: str, path: str, body: object = None) -> Reply:
        """Raises Cut."""
        connection = self._connected()
        try:
            response = self._request(connection, method, path, body)
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Cut(repr(error)) from error
        return Reply(response.status, json.loads(content))

    def events(self, method: str, path: str, body: object = None) -> Generator[Reply, None, None]:
        """Yields the events of a stream up to its last one, which a cancelled response doesn't have; or an error as the
        only reply. A caller that stops early leaves. Raises Cut."""
        connection = self._connected()
        is_over = False
        deadline = time.monotonic() + TIMEOUT
        try:
            response = self._request(connection, method, path, body)
            if response.status != 200:
                yield Reply(response.status, json.loads(response.read()))
                is_over = True
                return
            while line := response.readline():
                if time.monotonic() > deadline:
                    raise Cut("the stream doesn't end")
                if line == b"data: [DONE]\n":
                    response.read()
                    is_over = True
                    return
                if line.startswith(b"data: {"):
                    event = json.loads(line.removeprefix(b"data: "))
                    yield Reply(200, event)
                    if event["type"] in ENDS:
                        response.read()
                        is_over = True
                        return
            raise Cut("the stream ended early")
        except (OSError, http.client.HTTPException) as error:
            raise Cut(repr(error)) from error
        finally:
            if not is_over:
                connection.close()

    def pages(self, path: str, limit: int = 50) -> list[Any]:
        """The items of a list, oldest first. Raises Cut, and LookupError if the list doesn't exist."""
        found: list[Any] = []
        after = ""
        while True:
            reply = self.send("GET", f"{path}?order=asc&limit={limit}{after}")
            if reply.status != 200:
                raise LookupError(str(reply))
            found += reply.body["data"]
            if not reply.body["has_more"]:
                return found
            after = f"&after={reply.body['last_id']}"

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()

    def _connected(self) -> http.client.HTTPConnection:
        pause = threading.Event()
        while True:
            for port in self._rng.sample(self._ports, len(self._ports)):
                if port not in self._connections:
                    self._connections[port] = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
                connection = self._connections[port]
                try:
                    if connection.sock is None:
                        connection.connect()  # with TCP_NODELAY
                    return connection
                except OSError:
                    connection.close()
            pause.wait(RETRY_SECONDS)

    def _request(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: object
    ) -> http.client.HTTPResponse:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, self._headers)
        return connection.getresponse()
