"""The part of background responses that all requests of one process share."""

import time
from collections.abc import Callable
from typing import Any

from openai_server.access.keys import Caller
from openai_server.api.responses.background.news import News
from openai_server.api.responses.background.work import BackgroundWork
from openai_server.api.services import Services
from openai_server.jobs.runner import Runner
from openai_server.store.store import Store


class Background:
    """`enter` returns the access of a caller whose request has been counted. `limit` is the maximum number of responses
    that run here at a time, `drain_seconds` is how long they may go on after `drain`."""

    def __init__(
        self, services: Services, store: Store, enter: Callable[[Caller], Any], *, limit: int, drain_seconds: float
    ) -> None:
        self.news = News()
        work = BackgroundWork(services, store, enter, lambda id: self.news.announce((id,)))
        meter = services.observer.metrics.store.background
        self.runner = Runner(
            store, work, limit=limit, name="background responses", changed=self.news.announce, meter=meter
        )
        self._drain_seconds = drain_seconds
        self._ends_at: float | None = None
        """Time at which the runs are given back, by the monotonic clock; None: the server isn't shutting down."""

    def stop(self, id: str) -> None:
        """Stops the run of a response that was cancelled or deleted, if it is here, and wakes its followers."""
        self.runner.stop(id)
        self.news.announce((id,))

    def drain(self) -> None:
        """Takes no further runs. When called again, doesn't wait for those that go on."""
        now = time.monotonic()
        self._ends_at = now + self._drain_seconds if self._ends_at is None else now
        self.runner.drain()

    async def close(self) -> None:
        """Waits for the runs as long as they may go on, and gives the others back."""
        await self.runner.close(lambda: 0.0 if self._ends_at is None else self._ends_at - time.monotonic())
