"""The threads that compute one answer, and how they are stopped when the client has left.

Python can't end a thread, but it can raise an exception in it: PyThreadState_SetAsyncExc does so before the thread's
next bytecode instruction. A thread inside of a C call, such as a matrix product or a blocking read, gets it when the
call returns.

Wrappers start threads that this module doesn't see otherwise: hayhooks' `streaming_generator` runs its pipeline in one,
Haystack and asyncio.to_thread use pools. While `follow_threads` is in effect, a thread that is started and a function
that is submitted to a pool belong to the request in whose context that happens. Daemon threads, and those of a class of
their own, are left alone: they are services of libraries, such as the workers of anyio, and outlive requests.
"""

import asyncio
import contextlib
import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_current: ContextVar["RequestThreads | None"] = ContextVar("anyserve_request_threads", default=None)


class ClientLeft(BaseException):
    """Raised in threads that compute an answer that nothing reads any more. Not an Exception, so that a pipeline's
    `except Exception` doesn't continue."""


class RequestThreads:
    """The threads that work for one request. Methods may be called from any thread, `ended` from the event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depths: dict[int, int] = {}
        """Identifier of each thread inside of `run`, and how many calls are nested in it."""
        self._shielded: set[int] = set()
        """Identifiers of the threads inside of `shield`."""
        self._left = False
        self._on_idle: Callable[[], object] | None = None

    def context(self) -> Context:
        """A copy of the caller's context in which this is the current request."""
        context = copy_context()
        context.run(_current.set, self)
        return context

    def run(self, function: Callable[P, T], /, *arguments: P.args, **keywords: P.kwargs) -> T:
        """Calls the function such that `stop` interrupts it. Raises ClientLeft if `stop` was called."""
        thread = threading.get_ident()
        depth = self._depths.get(thread, 0) + 1
        token = _current.set(self)
        try:
            try:
                self._enter(thread, depth)
                return function(*arguments, **keywords)
            finally:
                self._leave(thread, depth)
        except ClientLeft:
            self._leave(thread, depth)  # the exception may have interrupted the first call
            raise
        finally:
            _current.reset(token)

    def shield(self, function: Callable[P, T], /, *arguments: P.args, **keywords: P.kwargs) -> T:
        """Calls a function whose interruption would break what other requests use. `stop` takes effect after it."""
        thread = threading.get_ident()
        with self._lock:
            is_running = thread in self._depths
            if is_running and self._left:
                raise ClientLeft
            self._shielded.add(thread)
        try:
            return function(*arguments, **keywords)
        finally:
            with self._lock:
                self._shielded.discard(thread)
                was_stopped = is_running and self._left
            if was_stopped:
                raise ClientLeft

    def stop(self) -> None:
        """Raises ClientLeft in all threads that are inside of `run`, and from now on in all that enter it."""
        with self._lock:
            if not self._left:
                self._left = True
                for thread in self._depths.keys() - self._shielded:
                    _raise_in(thread, ClientLeft)

    async def ended(self) -> None:
        """Returns when no thread is inside of `run`."""
        loop = asyncio.get_running_loop()
        idle = asyncio.Event()
        with self._lock:
            if not self._depths:
                return
            self._on_idle = partial(loop.call_soon_threadsafe, idle.set)
        await idle.wait()

    def _enter(self, thread: int, depth: int) -> None:
        with self._lock:
            if self._left:
                raise ClientLeft
            self._depths[thread] = depth

    def _leave(self, thread: int, depth: int) -> None:
        """May be repeated, as a call that was interrupted has to be."""
        with self._lock:
            if depth > 1:
                self._depths[thread] = depth - 1
                return
            self._depths.pop(thread, None)
            if self._left:
                _raise_in(thread, None)  # the thread goes on with other work, and must not get it there
            if not self._depths and self._on_idle:
                with contextlib.suppress(RuntimeError):  # the loop has been closed
                    self._on_idle()


def _raise_in(thread: int, exception: type[BaseException] | None) -> None:
    """None: takes back an exception that the thread has not raised yet."""
    value = ctypes.py_object(exception) if exception else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), value)


def set_current(threads: RequestThreads) -> None:
    """Makes this the request of the calling task."""
    _current.set(threads)


def start_thread(context: Context, function: Callable[..., object], *arguments: object) -> None:
    """Calls the function in a new thread in this context. The thread belongs to a request only inside of `run`."""
    thread = threading.Thread(target=context.run, args=(function, *arguments), name="wrapper")
    _thread_start(thread)


def follow_threads() -> None:
    """From now on, threads and work in pools belong to the request that starts them. ClientLeft ends a thread without a
    traceback. Has no effect if it was called before."""
    if threading.Thread.start is _start_thread:
        return
    threading.Thread.start = _start_thread  # type: ignore[method-assign,assignment]
    ThreadPoolExecutor.submit = _submit  # type: ignore[method-assign,assignment]
    threading.excepthook = partial(_report, threading.excepthook)


_thread_start = threading.Thread.start
_executor_submit = ThreadPoolExecutor.submit


def _start_thread(thread: threading.Thread) -> None:
    request = _current.get()
    if request is not None and type(thread) is threading.Thread and not thread.daemon:
        thread.run = partial(request.run, thread.run)  # type: ignore[method-assign]
        request.shield(_thread_start, thread)
        return
    _thread_start(thread)


def _submit(
    executor: ThreadPoolExecutor, function: Callable[..., T], /, *arguments: Any, **keywords: Any
) -> "Future[T]":
    request = _current.get()
    if request is None:
        return _executor_submit(executor, function, *arguments, **keywords)
    return request.shield(_submit_for, request, executor, function, *arguments, **keywords)


def _submit_for(
    request: RequestThreads,
    executor: ThreadPoolExecutor,
    function: Callable[..., T],
    /,
    *arguments: Any,
    **keywords: Any,
) -> "Future[T]":
    token = _current.set(None)  # a thread that the pool starts now will also work for other requests
    try:
        return _executor_submit(executor, request.run, function, *arguments, **keywords)
    finally:
        _current.reset(token)


def _report(previous: Callable[[Any], Any], arguments: threading.ExceptHookArgs) -> None:
    if not issubclass(arguments.exc_type, ClientLeft):
        previous(arguments)
