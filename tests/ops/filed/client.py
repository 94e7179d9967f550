"""A client of several sidecars that sends and reads files, besides JSON."""

import http.client
import json
import random
import threading
from collections.abc import Iterator, Mapping, Sequence

from tests.ops.stored.client import Cut, Reply, StoreClient

BOUNDARY = "between-the-parts"
PIECE_BYTES = 16 << 10
STORE_AWAY = 503
"""Status after which it is open whether a request took effect."""


def form(fields: Mapping[str, str], name: str, filename: str, content: bytes) -> bytes:
    """The body of a form with these fields, and the file as the last one."""
    head = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
        for field, value in fields.items()
    ]
    head.append(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return "".join(head).encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


class FileClient(StoreClient):
    """`slowness`: longest pause in seconds between two pieces of a form, so that kills hit bodies."""

    def __init__(self, ports: Sequence[int], key: str, rng: random.Random, *, slowness: float = 0.0) -> None:
        super().__init__(ports, key, rng)
        self._key = key
        self._slowness = slowness

    def call(self, method: str, path: str, body: object = None) -> Reply:
        """Like `send`. Raises Cut also if the store was away."""
        return _known(self.send(method, path, body))

    def send_file(
        self, path: str, fields: Mapping[str, str], content: bytes, *, name: str = "file", filename: str = "data"
    ) -> Reply:
        """Sends a form, piece by piece. Raises Cut."""
        body = form(fields, name, filename, content)
        connection = self._connected()
        headers = {
            "authorization": f"Bearer {self._key}",
            "content-type": f"multipart/form-data; boundary={BOUNDARY}",
            "content-length": str(len(body)),
        }
        try:
            connection.request("POST", path, self._pieces(body), headers)
            response = connection.getresponse()
            return _known(Reply(response.status, json.loads(response.read())))
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Cut(repr(error)) from error

    def content(self, path: str, first: int | None = None, last: int | None = None) -> tuple[int, bytes]:
        """The status and the bytes of a file, from `first` to `last` inclusive. Raises Cut."""
        connection = self._connected()
        headers = {"authorization": f"Bearer {self._key}"}
        if first is not None:
            headers["range"] = f"bytes={first}-{'' if last is None else last}"
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Cut(repr(error)) from error
        if response.status == STORE_AWAY:
            raise Cut("the store is away")
        return response.status, content

    def until_answered(self, method: str, path: str, body: object = None) -> tuple[Reply, bool]:
        """Repeats a request that has the same effect twice until it is answered. Returns the reply, and whether an
        attempt was cut off."""
        is_cut = False
        while True:
            try:
                return self.call(method, path, body), is_cut
            except Cut:
                is_cut = True

    def _pieces(self, body: bytes) -> Iterator[bytes]:
        for start in range(0, len(body), PIECE_BYTES):
            if start and self._slowness:
                threading.Event().wait(self._rng.uniform(0, self._slowness))
            yield body[start : start + PIECE_BYTES]


def _known(reply: Reply) -> Reply:
    if reply.status == STORE_AWAY:
        raise Cut("the store is away")
    return reply
