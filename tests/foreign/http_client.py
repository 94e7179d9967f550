"""HTTP requests to a sidecar in a network of its own."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.networks import Network

SECONDS = 30.0
"""Longest time to wait for a part of a response."""


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The content of the error's envelope."""
        return envelope(self.json)


def envelope(body: Any) -> dict[str, Any]:
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}, error
    return dict(error)


@dataclass(frozen=True)
class Events:
    """The answer to a streamed request: events as JSON, and whether `[DONE]` ended them. A request that failed before
    its stream began has one event, the error."""

    status: int
    events: tuple[Any, ...]
    is_done: bool

    @property
    def errors(self) -> list[dict[str, Any]]:
        return [envelope(event) for event in self.events if "error" in event]

    @property
    def choices(self) -> list[dict[str, Any]]:
        return [choice for event in self.events for choice in event.get("choices", ())]

    @property
    def deltas(self) -> list[str]:
        """The texts of the choices' parts that have any."""
        texts = [choice.get("text") or choice.get("delta", {}).get("content") for choice in self.choices]
        return [text for text in texts if text]

    @property
    def reasons(self) -> list[str]:
        return [reason for choice in self.choices if (reason := choice.get("finish_reason"))]

    @property
    def usages(self) -> list[Any]:
        return [usage for event in self.events if (usage := event.get("usage"))]


class Client:
    def __init__(self, network: Network, port: int) -> None:
        self._network = network
        self._port = port
        self._lock = threading.Lock()  # the network opens one connection at a time

    def get(self, path: str) -> Reply:
        return self._send("GET", path, None)

    def post(self, path: str, body: object) -> Reply:
        return self._send("POST", path, body)

    def stream(self, path: str, body: dict[str, Any]) -> Events:
        with self.streaming(path, {**body, "stream": True}) as response:
            if response.status != 200:
                return Events(response.status, (json.loads(response.read()),), False)
            found = list(_payloads(response))
        is_done = bool(found) and found[-1] == "[DONE]"
        events = tuple(json.loads(payload) for payload in found[: len(found) - is_done])
        return Events(200, events, is_done)

    @contextmanager
    def streaming(self, path: str, body: object) -> Iterator[http.client.HTTPResponse]:
        """Yields a response that is not read yet; the block's end closes the connection."""
        connection = self._connection()
        try:
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            response = connection.getresponse()
            yield response
            response.close()
        finally:
            connection.close()

    @contextmanager
    def sending(self, path: str, body: object) -> Iterator[None]:
        """Sends a request; the block's end closes the connection without reading the response."""
        connection = self._connection()
        try:
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            yield
        finally:
            connection.close()

    def _send(self, method: str, path: str, body: object) -> Reply:
        connection = self._connection()
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"content-type": "application/json"} if content else {})
            response = connection.getresponse()
            return Reply(response.status, response.read())
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("localhost", self._port)
        with self._lock:
            connection.sock = self._network.connect("127.0.0.1", self._port)
        connection.sock.settimeout(SECONDS)
        return connection


def _payloads(response: http.client.HTTPResponse) -> Iterator[str]:
    """Yields the data of each event, without pings."""
    for line in response:
        text = line.decode().rstrip("\n")
        if text.startswith("data: "):
            yield text.removeprefix("data: ")
