"""A fake of the server's interface for one request, in addition to ASGI's messages."""

from collections.abc import Callable
from typing import Any

from openai_server.http.streaming import EXCHANGE


class FakeExchange:
    """A `streaming.Exchange`. `leave` simulates a disconnect of the client."""

    def __init__(self, *, body: bytes | None = None, is_free: bool = True) -> None:
        self.is_free = is_free
        self.is_gone = False
        self.written: list[bytes] = []
        self.n_renewals = 0
        self._body = body
        self._on_gone: Callable[[], None] | None = None

    def write_now(self, part: bytes) -> None:
        self.written.append(part)

    def take_body(self) -> bytes | None:
        return self._body

    def renew_body_time(self) -> None:
        self.n_renewals += 1

    def when_gone(self, callback: Callable[[], None] | None) -> None:
        self._on_gone = callback

    @property
    def is_watched(self) -> bool:
        return self._on_gone is not None

    def leave(self) -> None:
        self.is_gone = True
        if self._on_gone is not None:
            self._on_gone()

    @property
    def scope(self) -> dict[str, Any]:
        return {"type": "http", EXCHANGE: self}
