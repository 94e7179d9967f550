"""Runs a wrapper's blocking functions and iterators in threads of their own.

A thread ends before the function here returns, raises or is cancelled, so that a request holds its slot for as long as
its thread computes.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextvars import Context
from threading import Semaphore
from typing import Any, Generic, TypeVar

from anyserve_worker.pipelines.wrappers.request_threads import RequestThreads, start_thread

T = TypeVar("T")

WINDOW = 64
"""Chunks that an iterator may be ahead of the client. Long texts count as several."""
CHUNK_CHARACTERS = 16 << 10
"""Characters of a text that counts as a single chunk."""


async def call(threads: RequestThreads, context: Context, function: Callable[[], T]) -> T:
    """The function's result, from a thread in this context. Stops the thread when cancelled."""
    handover: Handover[T] = Handover(asyncio.get_running_loop())
    start_thread(context, handover.work, lambda: handover.put(threads.run(function)))
    try:
        await handover.ended.wait()
    except asyncio.CancelledError:
        threads.stop()
        await handover.ended.wait()
        raise
    return handover.result()


async def iterate(threads: RequestThreads, context: Context, iterator: Iterator[T]) -> AsyncGenerator[T, None]:
    """The iterator's elements, from a thread in a copy of this context. The thread closes a generator, also when this
    is closed early; if the generator computes at that time, it is stopped."""
    handover: Handover[T] = Handover(asyncio.get_running_loop())
    end: Any = object()

    def produce() -> None:
        try:
            while (chunk := threads.run(next, iterator, end)) is not end and handover.put(chunk):
                pass
        finally:
            if close := getattr(iterator, "close", None):
                close()

    # A copy, since a context can't be entered while the thread of `call` is still leaving it.
    start_thread(context.copy(), handover.work, produce)
    try:
        async for chunk in handover.chunks():
            yield chunk
    finally:
        if not handover.ended.is_set():
            handover.close()
            threads.stop()
            await handover.ended.wait()


class Handover(Generic[T]):
    """Passes values from a thread to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.ended = asyncio.Event()
        """Set when the thread puts nothing more."""
        self._loop = loop
        self._values: deque[tuple[T, int]] = deque()
        """Each with the room that it takes."""
        self._room = Semaphore(WINDOW)
        self._changed = asyncio.Event()
        self._closed = False
        self._error: BaseException | None = None

    # ---- In the thread

    def work(self, produce: Callable[[], object]) -> None:
        try:
            produce()
        except BaseException as error:
            self._error = error
        self._notify(self.ended.set)
        self._notify(self._changed.set)

    def put(self, value: T) -> bool:
        """Waits while the loop has WINDOW values to take. False: nothing takes values any more."""
        size = _size(value)
        for _ in range(size):
            self._room.acquire()
            if self._closed:
                return False
        self._values.append((value, size))
        if not self._changed.is_set():
            self._notify(self._changed.set)
        return True

    def _notify(self, callback: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(callback)

    # ---- On the event loop

    def result(self) -> T:
        """The only value, once the thread has ended."""
        self._raise_error()
        return self._values[0][0]

    async def chunks(self) -> AsyncGenerator[T, None]:
        while True:
            await self._changed.wait()
            self._changed.clear()  # before the values are taken, so that one that comes now isn't missed
            ended = self.ended.is_set()
            while self._values:
                value, size = self._values.popleft()
                yield value
                del value
                self._room.release(size)
            if ended:
                self._raise_error()
                return

    def close(self) -> None:
        self._closed = True
        self._room.release()

    def _raise_error(self) -> None:
        if isinstance(self._error, Exception) or self._error is None:
            if self._error:
                raise self._error
            return
        # SystemExit would end the event loop, and GeneratorExit an answer without an error.
        raise RuntimeError(f"the wrapper raised {type(self._error).__name__}") from self._error


def _size(value: object) -> int:
    """The room that a chunk takes, from 1 to WINDOW."""
    text = value if isinstance(value, str) else getattr(value, "content", None)
    return min(WINDOW, 1 + len(text) // CHUNK_CHARACTERS) if isinstance(text, str) else 1
