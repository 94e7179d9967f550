"""Discards the bytes that a client still sends after the last response: the last stage of RFC 9112, 9.6.

Closing the socket before these bytes have arrived would reset the connection, and the client would lose the response.
"""

from asyncio import AbstractEventLoop, TimerHandle, Transport
from collections.abc import Callable

MAX_DISCARDED_BYTES = 128 << 20
LINGER_SECONDS = 30.0
"""Maximum time to wait for the end of the client's bytes."""
IDLE_SECONDS = 2.0
"""Seconds without a byte after which the client has presumably stopped sending."""


class Linger:
    """Calls `close` when the client has stopped sending. Aborts the connection if that takes too long."""

    def __init__(self, transport: Transport, loop: AbstractEventLoop, close: Callable[[], None]) -> None:
        self._transport = transport
        self._loop = loop
        self.close = close
        self._timer: TimerHandle | None = None
        self._ends_at = 0.0
        self._heard_at = 0.0
        self.discarded = 0
        """Discarded bytes since the last completely read request."""
        self.has_begun = False

    def begin(self, max_seconds: float) -> None:
        """Must be called after the last response has been written. Signals its end to the client, except with TLS."""
        self.has_begun = True
        self._heard_at = self._loop.time()
        self._ends_at = self._heard_at + min(max_seconds, LINGER_SECONDS)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._wait()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def discard(self, n_bytes: int) -> None:
        """Counts discarded bytes. May be called before `begin`, while a response is pending or the connection stays
        open."""
        self._heard_at = self._loop.time()
        self.discarded += n_bytes
        if self.discarded > MAX_DISCARDED_BYTES:
            self._transport.abort()  # With TLS, `close` would go on reading.

    def _wait(self) -> None:
        now, idle_at = self._loop.time(), self._heard_at + IDLE_SECONDS
        if now >= idle_at:
            self.close()
        elif now >= self._ends_at:
            self._transport.abort()
        else:
            self._timer = self._loop.call_at(min(idle_at, self._ends_at), self._wait)
