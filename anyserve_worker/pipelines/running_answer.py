"""One request to a pipeline, from its arrival to its end."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anyserve_worker.core.errors import DeadlineExceeded, WorkerError
from anyserve_worker.core.origin import UNKNOWN_ORIGIN, Origin


@dataclass(frozen=True, slots=True)
class PipelineRequest:
    model: str
    messages: Sequence[bytes]
    """One JSON array, or an object each. Not parsed, like the two below."""
    body: bytes | None = None
    input_items: bytes | None = None
    """None: the request has the task `chat`."""
    streams: bool = False
    timeout: float | None = None
    """Seconds from the arrival; None: only the pipeline's own limits."""
    caller: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    origin: Origin = UNKNOWN_ORIGIN


@dataclass(frozen=True, slots=True)
class Batch:
    """Events that arrived together. `last`: whether the answer is complete."""

    events: list[bytes]
    last: bool


class RunningAnswer:
    """Iteration yields the events of the answer in batches, and raises WorkerError if the request failed. Call `cancel`
    in the end."""

    kind = "chat"

    def __init__(
        self,
        request: PipelineRequest,
        *,
        timeout: float,
        idle_timeout: float | None,
        on_end: Callable[["RunningAnswer"], None] = lambda _: None,
    ) -> None:
        """`timeout`, `idle_timeout`: seconds, the pipeline's; None: no limit. `on_end` is called when the request has
        ended."""
        self._on_end = on_end
        self.request = request
        self._timeout = min(timeout, request.timeout or timeout)
        self._idle_timeout = idle_timeout
        self._events: list[bytes] = []
        self._arrived = asyncio.Event()
        self._complete = False
        self.ended = asyncio.Event()
        self._acknowledge: Callable[[int], None] = lambda _: None
        self._cancel: Callable[[], None] = lambda: None
        self.error: WorkerError | None = None
        self.cancelled = False
        self.finish_reasons: list[str] = []
        self._usage: dict[str, Any] = {}
        # Times are from time.monotonic_ns(), 0 if not reached yet.
        self.submitted_ns = time.monotonic_ns()
        # A timer, since the total time also passes while the client doesn't read.
        self._timer = asyncio.get_running_loop().call_later(self._timeout, self._expire)
        self.started_ns = 0
        """When the process got the request."""
        self.first_ns = 0
        """Time of the first event."""
        self.ended_ns = 0

    # ---- The consumer

    async def __aiter__(self) -> AsyncIterator[Batch]:
        while True:
            await self._wait()
            events, self._events = self._events, []
            # An error after the events of this batch is raised by the next turn.
            last = self._complete
            if events or last:
                if not last:
                    self._acknowledge(len(events))
                yield Batch(events, last)
                if last:
                    return
            elif self.error:
                raise self.error
            elif self.cancelled:
                return

    def cancel(self) -> None:
        """Ends the request early. No effect if it has ended."""
        if not self.done:
            self.cancelled = True
            self._cancel()
            self._end()

    @property
    def done(self) -> bool:
        return self._complete or self.error is not None or self.cancelled

    async def _wait(self) -> None:
        """Waits for events, the end or an error."""
        while not (self._events or self.done):
            self._arrived.clear()
            try:
                async with asyncio.timeout(self._idle_timeout if self.started_ns else None):
                    await self._arrived.wait()
            except TimeoutError:
                if not self._arrived.is_set():
                    self._fail_late(f"the model '{self.request.model}' sent nothing for {self._idle_timeout:g} s")

    def _expire(self) -> None:
        if self.request.timeout == self._timeout:
            self._fail_late("the request's timeout has passed")
        else:
            self._fail_late(f"the model '{self.request.model}' took longer than {self._timeout:g} s")

    def _fail_late(self, problem: str) -> None:
        if not self.done:
            self._cancel()
            self.fail(DeadlineExceeded(problem))

    # ---- The process

    def begin(self, acknowledge: Callable[[int], None]) -> None:
        """The process has the request. `acknowledge` is called with a number of events that the client has taken."""
        self.started_ns = time.monotonic_ns()
        self._acknowledge = acknowledge
        self._arrived.set()

    def when_cancelled(self, cancel: Callable[[], None]) -> None:
        """`cancel` is called if the request ends early."""
        self._cancel = cancel

    def put(self, events: Sequence[bytes]) -> None:
        if events and not self.done:
            self.first_ns = self.first_ns or time.monotonic_ns()
            self._events += events
            self._arrived.set()

    def complete(self, events: Sequence[bytes], finish_reasons: list[str], usage: dict[str, Any] | None) -> None:
        if not self.done:
            self.put(events)
            self.finish_reasons, self._usage = finish_reasons, usage or {}
            self._complete = True
            self._end()

    def fail(self, error: WorkerError) -> None:
        if not self.done:
            self.error = error
            self._end()

    def _end(self) -> None:
        self._timer.cancel()
        self.ended_ns = time.monotonic_ns()
        self._arrived.set()
        self.ended.set()
        self._on_end(self)

    # ---- Telemetry

    @property
    def origin(self) -> Origin:
        return self.request.origin

    @property
    def outcome(self) -> str:
        """The last finish reason, `cancelled`, or the status of the error in lower case."""
        if self.error:
            return self.error.status.name.lower()
        return self.finish_reasons[-1] if self._complete and self.finish_reasons else "cancelled"

    @property
    def n_prompt(self) -> int | None:
        """Prompt tokens; None: not reported."""
        return self._usage.get("prompt_tokens")

    @property
    def n_cached(self) -> int | None:
        return self._usage.get("cached_tokens")

    @property
    def n_generated(self) -> int | None:
        return self._usage.get("completion_tokens")
