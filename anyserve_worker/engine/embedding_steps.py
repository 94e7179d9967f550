"""Embeddings and scores in the engine: what its thread does with them, and what their callers on the event loop see.

`Embedding` is what `Generation` is to a text. It ends in one of two ways too: with its job done, or by `abort`.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from anyserve_worker.core.errors import DeadlineExceeded, EngineFailure, WorkerError
from anyserve_worker.engine.stats import EngineStats
from anyserve_worker.scheduling.embedding_queue import Embedder, Job, Pooler
from anyserve_worker.scheduling.step_pace import StepPace
from anyserve_worker.threads.chooser import ThreadChooser

log = logging.getLogger(__name__)


class Embedding:
    """Await `result()`, which gives the job when it is done, or raises WorkerError. Who goes away calls `cancel()`."""

    def __init__(self, job: Job, deadline: float | None, on_cancel: Callable[["Embedding"], None]) -> None:
        """`deadline` is on the engine's clock; `on_cancel` gives the engine its order to drop the request."""
        self._on_cancel = on_cancel
        self._arrived = asyncio.Event()
        self._error: WorkerError | None = None
        self.done = False
        self.job = job
        self.deadline = deadline
        self.submitted_ns = time.monotonic_ns()
        self.started = False

    def cancel(self) -> None:
        """The caller is gone; the engine drops the request before its next step."""
        if not self.done:
            self.done = True
            self._on_cancel(self)

    def put(self, error: WorkerError | None) -> None:
        """The job is done, or has failed. Called on the event loop only."""
        self.done = True
        self._error = error
        self._arrived.set()

    async def result(self) -> Job:
        await self._arrived.wait()
        if self._error:
            raise self._error
        return self.job


class Embeddings:
    """All that are in the engine. On the engine's thread only."""

    def __init__(
        self,
        pooler: Pooler,
        threads: ThreadChooser,
        stats: EngineStats,
        deliver: Callable[[Embedding, WorkerError | None], None],
    ) -> None:
        """`threads` learns from these batches alone. `deliver` is told of each that comes to its end unless it was
        aborted without an error."""
        self._embedder = Embedder(pooler)
        self._n_batch = pooler.n_batch
        self._pace = StepPace()
        self._threads = threads
        self._stats = stats
        self._deliver = deliver
        self._by_job: dict[Job, Embedding] = {}

    @property
    def idle(self) -> bool:
        return not self._by_job

    def add(self, embedding: Embedding) -> None:
        self._stats.last_request_ms = time.time_ns() // 1_000_000
        self._by_job[embedding.job] = embedding
        self._embedder.add(embedding.job)

    def abort(self, embedding: Embedding, error: WorkerError | None = None) -> None:
        if self._by_job.pop(embedding.job, None) is None:
            return
        self._embedder.remove(embedding.job)
        self._stats.failure.add(time.monotonic_ns() - embedding.submitted_ns)
        self._stats.outcomes[error.status.name.lower() if error else "cancelled"] += 1
        if error:
            self._deliver(embedding, error)

    def fail_all(self, error: WorkerError) -> None:
        for embedding in list(self._by_job.values()):
            self.abort(embedding, error)

    def expire(self, now: float) -> None:
        for embedding in list(self._by_job.values()):
            if embedding.deadline is not None and now >= embedding.deadline:
                self.abort(embedding, DeadlineExceeded("the request's timeout has passed"))

    def step(self) -> None:
        """One batch. A batch that fails takes its own requests with it, and nobody else's."""
        parts = self._embedder.schedule(self._pace.bound(self._n_batch))
        if not parts:
            return
        started, cpu_started = time.monotonic_ns(), time.thread_time()
        for part in parts:
            self._count(self._by_job[part.job], started)
        n_tokens = sum(part.count for part in parts)
        try:
            done = self._embedder.run(parts, self._threads.choose(n_tokens, prompts=True, now=started / 1e9))
        except Exception as error:
            log.exception("a batch of embeddings failed")
            for part in parts:
                self.abort(self._by_job[part.job], EngineFailure(f"the model could not compute it: {error}"))
            self._embedder.clear()
            return
        now = time.monotonic_ns()
        self._pace.record(n_tokens, (now - started) / 1e9)
        self._threads.record((now - started) / 1e9, now / 1e9, time.thread_time() - cpu_started)
        self._stats.steps.add(now - started)
        for job in done:
            embedding = self._by_job.pop(job)
            self._stats.success.add(now - embedding.submitted_ns)
            self._stats.outcomes["embedded"] += 1
            self._deliver(embedding, None)

    def _count(self, embedding: Embedding, now_ns: int) -> None:
        if not embedding.started:
            embedding.started = True
            self._stats.queue.add(now_ns - embedding.submitted_ns)
            self._stats.prompt_tokens += len(embedding.job.tokens)
