"""The steps of embeddings and scores on the engine's thread, one batch at a time.

A request ends when its job is done, or by `abort`.
"""

import logging
import time
from collections.abc import Callable

from anyserve_worker.core.errors import DeadlineExceeded, EngineFailure, WorkerError
from anyserve_worker.engine.running_request import RunningEmbedding
from anyserve_worker.engine.stats import EngineStats
from anyserve_worker.scheduling.background import MIN_PROMPT_TOKENS, SHORT_STEP_SECONDS, BackgroundPolicy
from anyserve_worker.scheduling.embedding_queue import EmbeddingJob, EmbeddingPart, EmbeddingQueue, VectorRunner
from anyserve_worker.scheduling.step_pace import StepPace
from anyserve_worker.threads.chooser import ThreadChooser

log = logging.getLogger(__name__)


class EmbeddingSteps:
    """The embedding and rank requests in the engine. Used on the engine's thread only."""

    def __init__(
        self,
        vector_runner: VectorRunner,
        threads: ThreadChooser,
        stats: EngineStats,
        policy: BackgroundPolicy,
        deliver: Callable[[RunningEmbedding, WorkerError | None], None],
    ) -> None:
        """`threads` adapts to these batches alone. `deliver` is called when a request ends, unless it was aborted
        without an error."""
        self._queue = EmbeddingQueue(vector_runner)
        self._n_batch = vector_runner.n_batch
        self._pace = StepPace()
        self._threads = threads
        self._stats = stats
        self._policy = policy
        self._deliver = deliver
        self._by_job: dict[EmbeddingJob, RunningEmbedding] = {}

    @property
    def idle(self) -> bool:
        return not self._by_job

    @property
    def busy(self) -> bool:
        """Whether ordinary jobs are not done."""
        return not self._queue.is_idle(background=False)

    @property
    def background_waits(self) -> bool:
        """Whether background jobs are not done."""
        return not self._queue.is_idle(background=True)

    @property
    def n_running(self) -> int:
        """Prompts that are partly read or in the current batch. May be read on any thread."""
        return self._queue.n_begun

    @property
    def n_waiting(self) -> int:
        """Prompts of which nothing has been read. May be read on any thread."""
        return max(0, len(self._by_job) - self._queue.n_begun)

    def add(self, embedding: RunningEmbedding) -> None:
        self._stats.last_request_ms = time.time_ns() // 1_000_000
        self._by_job[embedding.job] = embedding
        self._queue.add(embedding.job)

    def abort(self, embedding: RunningEmbedding, error: WorkerError | None = None) -> None:
        if self._by_job.pop(embedding.job, None) is None:
            return
        self._queue.remove(embedding.job)
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

    def step(self, now: float, *, busy: bool = False, waits: bool = False) -> None:
        """Computes one batch. If it fails, only the requests in it fail.

        `busy`: whether there is ordinary work besides embeddings. `waits`: whether there is other background work.
        """
        if self.busy:
            self._policy.last_ordinary = now
            seconds = self._run(self._queue.schedule(self._pace.bound(self._n_batch)))
            if waits or self.background_waits:
                self._policy.record_beside(seconds, n_added=0, held_back=True)
            busy = True
        if not self.background_waits or (busy and not self._policy.share_is_due):
            return
        short = SHORT_STEP_SECONDS if busy else self._policy.batch_seconds(now)
        n_tokens = self._pace.bound(self._n_batch)
        if short is not None:
            n_tokens = min(n_tokens, max(MIN_PROMPT_TOKENS, self._pace.tokens_within(short)))
        seconds = self._run(self._queue.schedule(n_tokens, background=True))
        if busy:
            self._policy.record_share(seconds)

    def _run(self, parts: list[EmbeddingPart]) -> float:
        """Computes a batch, and returns its seconds."""
        if not parts:
            return 0.0
        started, cpu_started = time.monotonic_ns(), time.thread_time()
        for part in parts:
            self._record_start(self._by_job[part.job], started)
        n_tokens = sum(part.count for part in parts)
        try:
            finished_jobs = self._queue.run(parts, self._threads.choose(n_tokens, prompts=True, now=started / 1e9))
        except Exception as error:
            log.exception("a batch of embeddings failed")
            for part in parts:
                self.abort(self._by_job[part.job], EngineFailure(f"the model could not compute the batch: {error}"))
            self._queue.clear()
            return (time.monotonic_ns() - started) / 1e9
        now = time.monotonic_ns()
        self._pace.record(n_tokens, (now - started) / 1e9)
        self._threads.record((now - started) / 1e9, now / 1e9, time.thread_time() - cpu_started)
        self._stats.steps.add(now - started)
        for job in finished_jobs:
            embedding = self._by_job.pop(job)
            self._stats.success.add(now - embedding.submitted_ns)
            self._stats.outcomes["embedded"] += 1
            self._deliver(embedding, None)
        return (now - started) / 1e9

    def _record_start(self, embedding: RunningEmbedding, now_ns: int) -> None:
        if not embedding.started:
            embedding.started = True
            self._stats.queue.add(now_ns - embedding.submitted_ns)
            self._stats.prompt_tokens += len(embedding.job.tokens)
