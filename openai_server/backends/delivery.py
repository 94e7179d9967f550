"""When the rows of a shared stream are delivered: at once, or together with those of messages that have come already.

A write to a client costs more than all else that is done for a token. Nothing waits for a message that may not come:
rows are held back only while gRPC reads one that had probably arrived before the last delivery was over.
"""

from collections.abc import Callable
from math import inf
from time import perf_counter
from typing import Protocol

MAX_MESSAGES = 8
"""Messages that are delivered together at most."""
BACKLOG_SECONDS = 0.0002
"""A message that is read so soon after a delivery had waited, and so may the next one."""
WRITE_SECONDS = 1e-5
"""Roughly, of a write to one receiver's client: the event loop sends all of them after the delivery."""
READING_PASSES = 2
"""Passes of the event loop in which gRPC hands over a message that has come."""


class Receiver(Protocol):
    def deliver(self) -> None:
        """Passes on what was put into it."""


class Delivery:
    """Made for one stream. `call_soon` is the event loop's; `clock` returns seconds."""

    def __init__(self, call_soon: Callable[[Callable[[], None]], object], clock: Callable[[], float] = perf_counter):
        self._call_soon = call_soon
        self._clock = clock
        self._receivers: dict[Receiver, None] = {}
        """Those with rows that are not delivered."""
        self.is_behind = False
        """The last message had waited to be read."""
        self._backlog_until = -inf
        """A message that is read before had waited."""
        self._n_messages = 0
        """Messages that the coming delivery has."""
        self._passes_left = 0
        """Passes of the event loop until the coming delivery; 0: none is held back."""

    def note_arrival(self) -> None:
        """Called when a message has been read."""
        self.is_behind = self._clock() < self._backlog_until

    def add(self, receiver: Receiver) -> None:
        """The message has rows for it."""
        self._receivers[receiver] = None

    def end_message(self) -> None:
        """Called when all rows of a message have been put into their receivers."""
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
        """Delivers what has been added, whatever may come."""
        receivers, self._receivers = self._receivers, {}
        for receiver in receivers:
            receiver.deliver()
        self._backlog_until = self._clock() + BACKLOG_SECONDS + WRITE_SECONDS * len(receivers)

    def _end_pass(self) -> None:
        self._passes_left -= 1
        if self._passes_left:
            self._call_soon(self._end_pass)
        else:
            self.deliver()
