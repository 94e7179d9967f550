"""Running requests: their state, and how callers on the event loop receive their results."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable

from anyserve_worker.core.delta import Delta
from anyserve_worker.core.errors import WorkerError
from anyserve_worker.core.origin import UNKNOWN_ORIGIN, Origin
from anyserve_worker.scheduling.embedding_queue import EmbeddingJob
from anyserve_worker.scheduling.sequence import Sequence
from protos import contract


class RunningGeneration:
    """A running request for text.

    Iteration yields lists of deltas, in order: all that have arrived since the last list. It raises WorkerError if the
    request failed. `forward` passes them to a function instead. Leaving the iteration early does not stop the engine;
    `cancel()` does.
    """

    kind = "generation"

    def __init__(
        self,
        sequences: list[Sequence],
        deadline: float | None,
        on_cancel: Callable[["RunningGeneration"], None],
        origin: Origin = UNKNOWN_ORIGIN,
    ) -> None:
        """`deadline`: seconds on the engine's clock; None: no limit. `on_cancel` makes the engine drop the request."""
        self._on_cancel = on_cancel
        self._mailbox: deque[Delta | WorkerError] = deque()
        self._arrived = asyncio.Event()
        self._sink: Callable[[Delta | WorkerError], None] | None = None
        self._open_choices = len(sequences)
        self._failed = False
        self.sequences = sequences
        self.deadline = deadline
        self.origin = origin
        # Times are from time.monotonic_ns(), 0 if not reached yet. The engine's thread sets them and the fields below.
        self.submitted_ns = time.monotonic_ns()
        self.started_ns = 0
        """Start of the first step."""
        self.first_ns = 0
        """Time of the first text."""
        self.ended_ns = 0
        self.finish_reasons: list[str] = []
        """Finish reasons of the choices, in the order in which they ended."""
        self.error: WorkerError | None = None

    @property
    def background(self) -> bool:
        """Whether the request is background work."""
        return self.sequences[0].priority >= contract.BACKGROUND_PRIORITY

    @property
    def done(self) -> bool:
        """Whether the request has ended. The mailbox may still hold its last deltas and its error."""
        return self._open_choices == 0

    @property
    def complete(self) -> bool:
        """Whether every choice has ended, none with an error."""
        return self.done and not self._failed

    @property
    def started(self) -> bool:
        return self.started_ns > 0

    @property
    def n_prompt(self) -> int:
        return self.sequences[0].n_prompt

    @property
    def n_cached(self) -> int:
        return max(0, self.sequences[0].n_cached)

    @property
    def n_generated(self) -> int:
        return sum(sequence.n_generated for sequence in self.sequences)

    @property
    def outcome(self) -> str:
        """How the request ended: the last finish reason, `cancelled`, or the status of its error in lower case."""
        if self.error:
            return self.error.status.name.lower()
        return self.finish_reasons[-1] if len(self.finish_reasons) == len(self.sequences) else "cancelled"

    def cancel(self) -> None:
        """Makes the engine drop the request before its next step. No effect if the request has ended."""
        if not self.done:
            self._open_choices = 0
            self._on_cancel(self)

    def put(self, item: Delta | WorkerError) -> None:
        """Called on the event loop only."""
        if self.done:
            return
        if isinstance(item, WorkerError):
            self._open_choices, self._failed = 0, True
        elif item.finish_reason:
            self._open_choices -= 1
        if self._sink:
            self._sink(item)
            return
        self._mailbox.append(item)
        self._arrived.set()

    def forward(self, sink: Callable[[Delta | WorkerError], None]) -> None:
        """Makes `put` call `sink` with each item, instead of iteration. Call it before the first item has arrived."""
        assert not self._mailbox
        self._sink = sink

    async def __aiter__(self) -> AsyncIterator[list[Delta]]:
        while self._mailbox or not self.done:
            await self._arrived.wait()
            self._arrived.clear()
            deltas: list[Delta] = []
            while self._mailbox:
                item = self._mailbox.popleft()
                if isinstance(item, WorkerError):
                    if deltas:
                        yield deltas
                    raise item
                deltas.append(item)
            yield deltas


class RunningEmbedding:
    """A running request for a vector or score. Await `result()`, or call `cancel()` to drop it."""

    def __init__(
        self, job: EmbeddingJob, deadline: float | None, on_cancel: Callable[["RunningEmbedding"], None]
    ) -> None:
        """`deadline`: seconds on the engine's clock; None: no limit. `on_cancel` makes the engine drop the request."""
        self._on_cancel = on_cancel
        self._arrived = asyncio.Event()
        self._error: WorkerError | None = None
        self.done = False
        self.job = job
        self.deadline = deadline
        self.submitted_ns = time.monotonic_ns()
        self.started = False

    @property
    def background(self) -> bool:
        """Whether the request is background work."""
        return self.job.priority >= contract.BACKGROUND_PRIORITY

    def cancel(self) -> None:
        """Makes the engine drop the request before its next step. No effect if the request has ended."""
        if not self.done:
            self.done = True
            self._on_cancel(self)

    def put(self, error: WorkerError | None) -> None:
        """Ends the request; `error` is None if its job is done. Called on the event loop only."""
        self.done = True
        self._error = error
        self._arrived.set()

    async def result(self) -> EmbeddingJob:
        """Waits for the job and returns it. Raises WorkerError."""
        await self._arrived.wait()
        if self._error:
            raise self._error
        return self.job
