"""Runs a pipeline or an Agent as a task, and yields its chunks.

A pipeline waits while its consumer is WINDOW chunks behind, and is cancelled once the consumer has gone.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextvars import ContextVar
from typing import Any

from anyserve_worker.pipelines.wrappers.request_threads import ClientLeft
from anyserve_worker.pipelines.wrappers.standin.chunk_callbacks import ChunkCallbacks
from anyserve_worker.pipelines.wrappers.standin.components import is_pipeline, with_callbacks
from anyserve_worker.pipelines.wrappers.standin.log import log
from anyserve_worker.pipelines.wrappers.standin.streaming import WINDOW, run_arguments

_stream: ContextVar["_AsyncStream"] = ContextVar("anyserve_async_stream")
_detached: set["asyncio.Task[None]"] = set()
"""Tasks of pipelines that go on without a consumer. The event loop alone wouldn't keep them."""


def async_streaming_generator(
    pipeline: Any,
    *,
    pipeline_run_args: dict[str, Any] | None = None,
    on_tool_call_start: Callable[..., Any] | None = None,
    on_tool_call_end: Callable[..., Any] | None = None,
    on_reasoning: Callable[..., Any] | None = None,
    on_pipeline_end: Callable[[Any], str | None] | None = None,
    streaming_components: str | Sequence[str] | None = None,
    include_outputs_from: set[str] | None = None,
    allow_sync_streaming_callbacks: bool = False,
    external_event_queue: "asyncio.Queue[Any] | None" = None,
    shield_pipeline_task: bool = False,
) -> AsyncGenerator[Any, None]:
    """Like streaming_generator. `allow_sync_streaming_callbacks`: components without `run_async` may stream, from
    threads. `shield_pipeline_task`: the pipeline goes on when the consumer has gone."""
    hybrid = allow_sync_streaming_callbacks or not is_pipeline(pipeline)

    def callback(component: Any) -> Callable[..., Any]:
        if hasattr(component, "run_async"):
            return _put_chunk
        if not hybrid:
            raise ValueError(
                f"{type(component).__qualname__} has no run_async: use streaming_generator, or set "
                "allow_sync_streaming_callbacks=True"
            )
        return _put_chunk_from_thread

    callbacks = ChunkCallbacks(on_tool_call_start, on_tool_call_end, on_reasoning, on_pipeline_end)
    arguments = with_callbacks(pipeline, pipeline_run_args, streaming_components, callback)
    run = run_arguments(pipeline, arguments, include_outputs_from)
    return _items(pipeline, run, callbacks, external_event_queue, shield_pipeline_task)


async def _items(
    pipeline: Any,
    run: dict[str, Any],
    callbacks: ChunkCallbacks,
    events: "asyncio.Queue[Any] | None",
    shields: bool,
) -> AsyncGenerator[Any, None]:
    stream = _AsyncStream(shields)
    task = asyncio.create_task(stream.run(pipeline, run))
    forwarding = asyncio.create_task(stream.forward(events)) if events else None
    try:
        while (item := await stream.queue.get()) is not stream:
            own, value = item
            for result in callbacks.items(value) if own else (value,):
                yield result
        while events and not events.empty():
            yield events.get_nowait()
        await task
        for result in callbacks.end_items(stream.result):
            yield result
    finally:
        if forwarding:
            forwarding.cancel()
        stream.close()
        if shields and not task.done():
            _detach(task)
        else:
            task.cancel()
            await asyncio.wait([task])


def _detach(task: "asyncio.Task[None]") -> None:
    _detached.add(task)
    task.add_done_callback(_forget)


def _forget(task: "asyncio.Task[None]") -> None:
    _detached.discard(task)
    if not task.cancelled() and (error := task.exception()):
        log.opt(exception=error).error("a pipeline failed after its client had left")


async def _put_chunk(chunk: Any) -> None:
    await _stream.get().put(chunk)


def _put_chunk_from_thread(chunk: Any) -> None:
    _stream.get().put_from_thread(chunk)


class _AsyncStream:
    def __init__(self, shields: bool) -> None:
        self.result: Any = None
        self.queue: asyncio.Queue[Any] = asyncio.Queue(WINDOW)
        """Chunks with True, events of the wrapper's own queue with False, and in the end this object."""
        self._shields = shields
        self._closed = False
        self._loop = asyncio.get_running_loop()

    async def run(self, pipeline: Any, arguments: dict[str, Any]) -> None:
        _stream.set(self)
        try:
            if hasattr(pipeline, "run_async"):
                self.result = await pipeline.run_async(**arguments)
            else:
                self.result = await asyncio.to_thread(pipeline.run, **arguments)
        finally:
            if not self._closed:
                await self.queue.put(self)

    async def forward(self, events: "asyncio.Queue[Any]") -> None:
        while True:
            await self.queue.put((False, await events.get()))

    async def put(self, chunk: Any) -> None:
        if not self._closed:
            await self.queue.put((True, chunk))

    def put_from_thread(self, chunk: Any) -> None:
        """Raises ClientLeft if the consumer has gone, unless the pipeline goes on without it."""
        if not self._closed:
            asyncio.run_coroutine_threadsafe(self.put(chunk), self._loop).result()
        if self._closed and not self._shields:
            raise ClientLeft

    def close(self) -> None:
        self._closed = True
        while not self.queue.empty():  # so that what waits for room goes on
            self.queue.get_nowait()
