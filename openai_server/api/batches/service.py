"""The part of batches that all requests of one process share."""

import asyncio
import time
from collections.abc import Sequence

from openai_server.api.batches.results import Results
from openai_server.api.batches.steward import Steward
from openai_server.api.batches.work import LineWork
from openai_server.api.lines import Lines
from openai_server.api.lone_request import Enter
from openai_server.api.services import Services
from openai_server.jobs.runner import Runner
from openai_server.store.batch_records import LineResult, StoredBatch
from openai_server.store.batch_store import BatchStore
from openai_server.store.records import Recovered
from openai_server.store.store import Store

FLUSH_SECONDS = 2.0
"""Time for results to be stored when the lines of a process that ends are given back."""


class Batches:
    """`enter` returns the access of a line of a caller. `limit` is the maximum number of lines that run here at a time,
    `drain_seconds` is how long they may go on after `drain`."""

    def __init__(self, services: Services, store: Store, enter: Enter, *, limit: int, drain_seconds: float) -> None:
        metrics = services.observer.metrics.store
        self.store = store.batches
        self._files = store.files
        self._metrics = metrics
        self._results = Results(store.batches.add_results, self._ended)
        self.runner = Runner(
            _LineRuns(store.batches, self._results),
            LineWork(store.files, Lines(services, enter), self._results),
            limit=limit,
            name="lines of batches",
            meter=metrics.lines,
        )
        self.steward = Steward(
            store.batches,
            store.files,
            max_line_bytes=services.bodies.max_bytes,
            begun=self.runner.wake,
            metrics=metrics,
            clock=services.clock,
        )
        self._drain_seconds = drain_seconds
        self._ends_at: float | None = None
        """Time at which the lines are given back, by the monotonic clock; None: the server isn't shutting down."""

    async def run(self) -> None:
        """Runs batches until cancelled, if this server has a place for files."""
        if not self._files.has_blobs:
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.runner.run())
            tasks.create_task(self.steward.run())

    def stop(self, batch: StoredBatch, *, has_ended: bool) -> None:
        """Ends what this process does for a batch that was cancelled. `has_ended`: whether that has ended the batch."""
        if has_ended:
            self._metrics.batch_ended(batch.status)
        self.runner.stop_where(lambda id: id.startswith(f"{batch.id}/"))
        self.steward.wake()

    def drain(self) -> None:
        """Takes no further lines. When called again, doesn't wait for those that go on."""
        now = time.monotonic()
        self._ends_at = now + self._drain_seconds if self._ends_at is None else now
        self.runner.drain()
        self.steward.drain()

    async def close(self) -> None:
        """Waits for the lines as long as they may go on, and gives the others back."""
        if not self._files.has_blobs:
            return
        await self.steward.close()
        await self.runner.close(lambda: 0.0 if self._ends_at is None else self._ends_at - time.monotonic())
        await self._results.close()

    def _ended(self, results: Sequence[LineResult]) -> None:
        n_failed = sum(result.is_error for result in results)
        self._metrics.lines_ended(completed=len(results) - n_failed, failed=n_failed)
        if self.runner.n_running <= len(results):  # these may have been the last lines of a batch
            self.steward.wake()


class _LineRuns:
    """A `jobs.runner.RunStore`."""

    def __init__(self, batches: BatchStore, results: Results) -> None:
        self._results = results
        self.claim, self.beat, self.recover = batches.claim, batches.beat, batches.recover
        self.requeue, self.abandon = batches.requeue, batches.abandon
        self._end_runner = batches.end_runner

    async def end_runner(self) -> Recovered:
        await self._results.flush(FLUSH_SECONDS)
        return await self._end_runner()
