"""Decides when to deliver the rows of a shared stream: at once, or together with the rows of messages that have already
arrived.

A write to a client costs more than all other work for a token. Rows never wait for a message that may not come: they
are held back only while gRPC reads a message that has probably arrived before the last delivery ended.
"""

from collections.abc import Callable
from math import inf
from time import perf_counter
from typing import Protocol

MAX_MESSAGES = 8
"""Maximum number of messages that are delivered together."""
BACKLOG_SECONDS = 0.0002
"""A message that is read within this time after a delivery has waited to be read, and so may the next one."""
READING_PASSES = 5
"""Passes of the event loop in which gRPC hands over a message that has arrived. With two, messages to 256 streams and
more came too late: 1,024 streams got 0.53 of the rate of 64, each relative to a bare app."""


class Receiver(Protocol):
    def deliver(self) -> None:
        """Passes on the rows that were put into it."""


class Delivery:
    """Delivers the rows of one stream. `call_soon` is the event loop's; `clock` returns seconds."""

    def __init__(self, call_soon: Callable[[Callable[[], None]], object], clock: Callable[[], float] = perf_counter):
        self._call_soon = call_soon
        self._clock = clock
        self.receivers: dict[Receiver, None] = {}
        """Receivers with undelivered rows. Each that gets rows must be added; after a delivery, this is a new one."""
        self.is_behind = False
        """Whether the last message has waited to be read."""
        self._backlog_until = -inf
        """A message that is read before this time has waited."""
        self._n_messages = 0
        """Messages in the next delivery, if it is held back."""
        self._passes_left = 0
        """Passes of the event loop until the next delivery; 0: no delivery is held back."""

    def note_arrival(self) -> None:
        """Must be called when a message has been read."""
        self.is_behind = self._clock() < self._backlog_until

    def end_message(self) -> None:
        """Must be called when all rows of a message have been put into their receivers."""
        if self._passes_left:
            self._n_messages += 1
            if self._n_messages < MAX_MESSAGES:
                self._passes_left = READING_PASSES
        elif self.is_behind:
            self._n_messages, self._passes_left = 1, READING_PASSES
            self._call_soon(self._end_pass)
        else:
            self.deliver()

    def deliver(self) -> None:
        """Delivers all rows now."""
        receivers, self.receivers = self.receivers, {}
        for receiver in receivers:
            receiver.deliver()
        self._backlog_until = inf
        self._call_soon(self._note_written)

    def _note_written(self) -> None:
        """Called once the event loop has sent what the last delivery wrote: that takes longer than the delivery."""
        self._backlog_until = self._clock() + BACKLOG_SECONDS

    def _end_pass(self) -> None:
        self._passes_left -= 1
        if self._passes_left:
            self._call_soon(self._end_pass)
        else:
            self.deliver()
