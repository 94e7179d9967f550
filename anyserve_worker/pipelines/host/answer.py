"""One request that the pipeline answers."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import replace
from typing import Any

from anyserve_worker.pipelines.core import events, frames
from anyserve_worker.pipelines.core.errors import PipelineError
from anyserve_worker.pipelines.core.events import Arguments, Event, Finish, Reasoning, Refusal, Text, Usage
from anyserve_worker.pipelines.core.frames import WINDOW, WINDOW_BYTES
from anyserve_worker.pipelines.core.pipeline import Pipeline
from anyserve_worker.pipelines.host.error_fields import error_fields
from anyserve_worker.pipelines.host.log_lines import HostLogger
from anyserve_worker.pipelines.host.requests import read_request
from protos import contract

log = HostLogger("anyserve_worker.pipelines.host")

MAX_EVENT_CHARACTERS = 64 << 10
"""Characters of the text in one event; longer texts are split."""
END_SECONDS = 5.0
"""Seconds that a generator has to end after all choices are finished, before it is closed."""
_TEXTS = (Text, Reasoning, Refusal, Arguments)

Send = Callable[[bytes], None]


class Answer:
    """Runs the generator of a request and sends its events. `cancel` closes the generator."""

    def __init__(self, name: str, frame: frames.Frame, pipeline: Pipeline, send: Send) -> None:
        """`name`: that of the pipeline."""
        self._name = name
        self._frame: frames.Frame | None = frame
        self._number: int = frame.header["number"]
        self._pipeline = pipeline
        self._send = send
        self._unacknowledged: deque[int] = deque()
        """Bytes of each event that is sent and not acknowledged."""
        self._n_bytes = 0
        """Sum of these."""
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._finish_reasons: dict[int, str] = {}
        """By choice, in the order in which the choices ended."""
        self._held: list[bytes] = []
        """Finish and Usage events since the last other event. Those before the end are sent with it."""
        self._usage: Usage | None = None
        self._cancelled = False
        self._ended = False
        self.task = asyncio.create_task(self._run())
        self.task.add_done_callback(self._ensure_end)

    def cancel(self) -> None:
        if not self._cancelled:
            self._cancelled = True
            self.task.cancel()

    def acknowledge(self, count: int) -> None:
        for _ in range(min(count, len(self._unacknowledged))):
            self._n_bytes -= self._unacknowledged.popleft()
        if len(self._unacknowledged) < WINDOW and self._n_bytes < WINDOW_BYTES:
            self._has_room.set()

    async def _run(self) -> None:
        try:
            assert self._frame
            request, self._frame = read_request(self._frame), None
            await self._answer(self._pipeline.answer(request), request.n)
            self._end(request.n)
        except PipelineError as error:
            self._fail(error)
        except BaseException as error:
            if self._cancelled:
                if not isinstance(error, asyncio.CancelledError):
                    log.warning("a cancelled request to '%s' raised an error", self._name, exc_info=error)
                self._end(0)
                return
            log.error("a request to '%s' failed", self._name, exc_info=error)
            self._fail(self._failure())

    async def _answer(self, generator: AsyncGenerator[Event, None], n: int) -> None:
        iterator = aiter(generator)
        deadline: float | None = None
        try:
            while not self._cancelled:
                try:
                    async with asyncio.timeout_at(deadline):
                        event = await anext(iterator)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    if deadline is None or len(self._finish_reasons) < n:
                        raise
                    log.warning("an answer of '%s' did not end after its last event", self._name)
                    return
                await self._take(event, n)
                if deadline is None and len(self._finish_reasons) == n:
                    deadline = asyncio.get_running_loop().time() + END_SECONDS
        finally:
            await generator.aclose()

    async def _take(self, event: Event, n: int) -> None:
        if isinstance(event, Usage):
            if not _is_plausible(event):
                log.warning("the token counts of an answer of '%s' are left out: %s", self._name, event)
                return
            self._usage = event
            self._held.append(events.encode(event))
            return
        if not isinstance(event, Event):
            raise TypeError(f"the pipeline yielded a {type(event).__name__}, not an event")
        if not 0 <= event.choice < n:
            raise ValueError(f"the pipeline yielded an event of choice {event.choice}, the request has {n}")
        if event.choice in self._finish_reasons:
            return
        if isinstance(event, Finish):
            self._finish_reasons[event.choice] = event.reason
            self._held.append(events.encode(event))
            return
        for piece in _pieces(event):
            await self._send_events([*self._held, events.encode(piece)])
            self._held.clear()

    async def _send_events(self, parts: list[bytes]) -> None:
        await self._has_room.wait()
        sizes = [len(part) for part in parts]
        self._unacknowledged += sizes
        self._n_bytes += sum(sizes)
        if len(self._unacknowledged) >= WINDOW or self._n_bytes >= WINDOW_BYTES:
            self._has_room.clear()
        self._send(frames.encode("events", parts, number=self._number))

    def _end(self, n: int) -> None:
        """Ends the answer, and its choices without an end. 0 choices: the request is cancelled."""
        self._ended = True
        for choice in range(n):
            if choice not in self._finish_reasons:
                self._finish_reasons[choice] = contract.FINISH_STOP
                self._held.append(events.encode(Finish(choice=choice)))
        usage = self._usage
        fields: dict[str, Any] = {
            "number": self._number,
            "finish_reasons": list(self._finish_reasons.values()),
            "usage": usage and {name: getattr(usage, name) for name in usage.__slots__},
        }
        self._send(frames.encode("end", self._held if n else (), **fields))

    def _ensure_end(self, _: "asyncio.Task[None]") -> None:
        """Ends a request that was cancelled before it began."""
        if not self._ended:
            self._end(0)

    def _fail(self, error: PipelineError) -> None:
        self._ended = True
        try:
            fields = error_fields(error)
        except Exception:
            log.exception("the error of a request to '%s' can't be sent", self._name)
            fields = error_fields(self._failure())
        self._send(frames.encode("error", number=self._number, **fields))

    def _failure(self) -> PipelineError:
        return PipelineError(f"The pipeline '{self._name}' failed.")


def _is_plausible(usage: Usage) -> bool:
    """Whether all counts are numbers that the contract has room for."""
    counts = [usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens or 0, usage.reasoning_tokens or 0]
    return all(type(count) is int and 0 <= count <= contract.INT32_MAX for count in counts)


def _pieces(event: Event) -> Iterator[Event]:
    """The event, or several with parts of its text if that is long."""
    if not isinstance(event, _TEXTS) or len(event.text) <= MAX_EVENT_CHARACTERS:
        yield event
        return
    for start in range(0, len(event.text), MAX_EVENT_CHARACTERS):
        yield replace(event, text=event.text[start : start + MAX_EVENT_CHARACTERS])
