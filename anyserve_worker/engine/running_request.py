"""Requests that the engine works on, as their callers on the event loop see them."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable

from anyserve_worker.core.delta import Delta
from anyserve_worker.core.errors import WorkerError
from anyserve_worker.core.origin import UNKNOWN_ORIGIN, Origin
from anyserve_worker.scheduling.embedding_queue import EmbeddingJob
from anyserve_worker.scheduling.sequence import Sequence


class RunningGeneration:
    """A request for texts.

    Iterate to get what has come since the last time: a list of deltas, in order. Raises WorkerError where the request
    failed. Or have it all sent on, with `forward`. Leaving the iteration early is not enough to stop the engine:
    `cancel()`.
    """

    def __init__(
        self,
        sequences: list[Sequence],
        deadline: float | None,
        on_cancel: Callable[["RunningGeneration"], None],
        origin: Origin = UNKNOWN_ORIGIN,
    ) -> None:
        """`deadline` is on the engine's clock; `on_cancel` gives the engine its order to drop the request."""
        self._on_cancel = on_cancel
        self._mailbox: deque[Delta | WorkerError] = deque()
        self._arrived = asyncio.Event()
        self._sink: Callable[[Delta | WorkerError], None] | None = None
        self._open_choices = len(sequences)
        self._failed = False
        self.sequences = sequences
        self.deadline = deadline
        self.origin = origin
        # Times are those of time.monotonic_ns(), 0 before they come. The engine's thread sets them, and what follows.
        self.submitted_ns = time.monotonic_ns()
        self.started_ns = 0
        """Its first step began."""
        self.first_ns = 0
        """Its first text came."""
        self.ended_ns = 0
        self.reasons: list[str] = []
        """finish_reasons of its choices, in the order in which they ended."""
        self.error: WorkerError | None = None

    @property
    def done(self) -> bool:
        """Nothing more will come than what is in the mailbox, which may end with an error."""
        return self._open_choices == 0

    @property
    def complete(self) -> bool:
        """Every choice has come to its end, none with an error."""
        return self.done and not self._failed

    @property
    def started(self) -> bool:
        return self.started_ns > 0

    @property
    def n_generated(self) -> int:
        return sum(sequence.n_generated for sequence in self.sequences)

    @property
    def outcome(self) -> str:
        """How it has ended, in a word of which there are few."""
        if self.error:
            return self.error.status.name.lower()
        return self.reasons[-1] if len(self.reasons) == len(self.sequences) else "cancelled"

    def cancel(self) -> None:
        """The caller is gone; the engine drops the request before its next step."""
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
        """Instead of iterating: `sink` is called on the event loop for all that comes. Before anything has come."""
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
    """A request for a vector or score. Await `result()`; a caller that goes away calls `cancel()`."""

    def __init__(
        self, job: EmbeddingJob, deadline: float | None, on_cancel: Callable[["RunningEmbedding"], None]
    ) -> None:
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

    async def result(self) -> EmbeddingJob:
        """Returns the job when it is done. Raises WorkerError."""
        await self._arrived.wait()
        if self._error:
            raise self._error
        return self.job
