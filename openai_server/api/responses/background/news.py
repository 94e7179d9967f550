"""Wakes those in this process that wait for news of a background response."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class News:
    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    @contextmanager
    def of(self, id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever there is news of this response."""
        event = asyncio.Event()
        events = self._waiting.setdefault(id, set())
        events.add(event)
        try:
            yield event
        finally:
            events.discard(event)
            if not events:
                self._waiting.pop(id, None)

    def announce(self, ids: Iterable[str]) -> None:
        """There is news of these responses in the store."""
        for id in ids:
            for event in self._waiting.get(id, ()):
                event.set()
