"""Interrupts a step of background work when an ordinary request arrives."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Interruptible(Protocol):
    def interrupt(self, value: bool) -> None:
        """True: ends the step in progress and any later one. False: lets steps run. May be called from any thread."""


class Interruption:
    """Used by the thread on which requests arrive, and by the engine's thread, which runs the steps.

    The first puts a request into the inbox, sets `_requested` and then looks at `_allowed`. The second sets `_allowed`
    and then looks at `_requested`. So one of them sees the other, and no request waits for a whole step.
    """

    def __init__(self, runner: Interruptible) -> None:
        self._runner = runner
        self._lock = threading.Lock()
        self._requested = False
        """Whether a request may be in the inbox that the engine's thread hasn't seen."""
        self._allowed = False
        """Whether the step in progress may be interrupted."""

    def request(self) -> None:
        """Interrupts the step in progress if it may be. Call this after the request is in the inbox."""
        self._requested = True
        if self._allowed:
            with self._lock:
                if self._allowed:
                    self._runner.interrupt(True)

    # ---- On the engine's thread

    def forget(self) -> None:
        """Call this before the inbox is read."""
        self._requested = False

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Allows interruptions during the block, which runs one step."""
        with self._lock:
            self._allowed = True
        try:
            if self._requested:
                self._runner.interrupt(True)
            yield
        finally:
            with self._lock:
                self._allowed = False
                self._runner.interrupt(False)
