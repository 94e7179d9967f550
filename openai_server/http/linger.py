"""Reads what a client still sends after its last answer, and discards it: the last stage of RFC 9112, 9.6.

A socket that is closed before such bytes have come resets the connection, and the client loses the answer.
"""

from asyncio import AbstractEventLoop, TimerHandle, Transport
from collections.abc import Callable

MAX_DISCARDED_BYTES = 128 << 20
LINGER_SECONDS = 30.0
IDLE_SECONDS = 2.0
"""Seconds without a byte after which the client is expected to have stopped sending."""


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
        """Bytes since the last request that was read to its end."""
        self.has_begun = False

    def begin(self, most_seconds: float) -> None:
        """After the last answer is written. With TLS the client can't see yet that nothing more comes."""
        self.has_begun = True
        self._heard_at = self._loop.time()
        self._ends_at = self._heard_at + min(most_seconds, LINGER_SECONDS)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._wait()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def discard(self, n_bytes: int) -> None:
        """Also before `begin`, where an answer has not been sent yet or the connection stays open."""
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
