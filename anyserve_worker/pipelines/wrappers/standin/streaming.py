"""Runs a pipeline or an Agent in a thread, and yields its chunks.

A pipeline waits while its consumer is WINDOW chunks behind, and ends at its next chunk once the consumer has gone.
"""

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextvars import ContextVar, copy_context
from queue import Empty, Queue
from typing import Any

from anyserve_worker.pipelines.wrappers.request_threads import ClientLeft
from anyserve_worker.pipelines.wrappers.standin.chunk_callbacks import ChunkCallbacks
from anyserve_worker.pipelines.wrappers.standin.components import is_pipeline, with_callbacks

WINDOW = 64
"""Chunks that a pipeline may be ahead of its consumer."""
POLL_S = 0.01
"""Seconds between two looks into a wrapper's own queue of events."""

_stream: ContextVar["_Stream"] = ContextVar("anyserve_stream")


def streaming_generator(
    pipeline: Any,
    *,
    pipeline_run_args: dict[str, Any] | None = None,
    on_tool_call_start: Callable[..., Any] | None = None,
    on_tool_call_end: Callable[..., Any] | None = None,
    on_reasoning: Callable[..., Any] | None = None,
    on_pipeline_end: Callable[[Any], str | None] | None = None,
    streaming_components: str | Sequence[str] | None = None,
    include_outputs_from: set[str] | None = None,
    external_event_queue: "Queue[Any] | None" = None,
) -> Generator[Any, None, None]:
    """Yields the results of the callbacks and the chunks of the components that stream: by default the last one,
    `"all"`, or those named. Raises what the pipeline raises, and at once ValueError or TypeError for what can't be
    streamed."""
    callbacks = ChunkCallbacks(on_tool_call_start, on_tool_call_end, on_reasoning, on_pipeline_end)
    arguments = with_callbacks(pipeline, pipeline_run_args, streaming_components, lambda component: _put_chunk)
    stream = _Stream(external_event_queue)

    def items() -> Generator[Any, None, None]:
        run = run_arguments(pipeline, arguments, include_outputs_from)
        threading.Thread(target=copy_context().run, args=(stream.run, pipeline.run, run), name="stream").start()
        try:
            for own, item in stream.items():
                yield from callbacks.items(item) if own else (item,)
            yield from callbacks.end_items(stream.result)
        finally:
            stream.close()

    return items()


def run_arguments(pipeline: Any, arguments: dict[str, Any], include_outputs_from: set[str] | None) -> dict[str, Any]:
    """The keywords for `run` of a pipeline or an Agent."""
    if not is_pipeline(pipeline):
        return arguments
    included = {} if include_outputs_from is None else {"include_outputs_from": include_outputs_from}
    return {"data": arguments, **included}


def _put_chunk(chunk: Any) -> None:
    # A function of a module, since Haystack saves the inputs of a pipeline that fails, with the names of functions.
    _stream.get().put(chunk)


class _Stream:
    def __init__(self, events: "Queue[Any] | None") -> None:
        self.result: Any = None
        self._events = events
        self._chunks: Queue[Any] = Queue(WINDOW)
        self._end = object()
        self._closed = False
        self._error: BaseException | None = None

    # ---- In the pipeline's thread

    def run(self, function: Callable[..., Any], arguments: dict[str, Any]) -> None:
        _stream.set(self)
        try:
            self.result = function(**arguments)
        except BaseException as error:  # ClientLeft too, since the consumer may be waiting for a chunk
            self._error = error
        if not self._closed:
            self._chunks.put(self._end)

    def put(self, chunk: Any) -> None:
        """Raises ClientLeft if the consumer has gone."""
        if not self._closed:
            self._chunks.put(chunk)
        if self._closed:
            raise ClientLeft

    # ---- In the consumer's thread

    def items(self) -> Iterator[tuple[bool, Any]]:
        """Chunks with True, and events of the wrapper's own queue with False."""
        item = None
        while item is not self._end:
            for event in self._waiting_events():
                yield False, event
            try:
                item = self._chunks.get(timeout=None if self._events is None else POLL_S)
            except Empty:
                continue
            if item is not self._end:
                yield True, item
        for event in self._waiting_events():
            yield False, event
        if self._error:
            raise self._error

    def _waiting_events(self) -> Iterator[Any]:
        while self._events is not None:
            try:
                yield self._events.get_nowait()
            except Empty:
                return

    def close(self) -> None:
        self._closed = True
        while not self._chunks.empty():  # so that a thread that waits for room goes on, and ends
            try:
                self._chunks.get_nowait()
            except Empty:
                return
