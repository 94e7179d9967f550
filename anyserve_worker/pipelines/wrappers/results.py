"""Calls a wrapper and yields what it returns, whatever kind of result that is."""

import inspect
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

from anyserve_worker.pipelines.wrappers import threaded
from anyserve_worker.pipelines.wrappers.entry_points import EntryPoint
from anyserve_worker.pipelines.wrappers.request_threads import RequestThreads


async def results(
    entry_point: EntryPoint, values: Mapping[str, Any], threads: RequestThreads
) -> AsyncGenerator[Any, None]:
    """Yields the chunks of a generator, or the only result. Closes the generator when this is closed."""
    context = threads.context()
    call: Callable[[], Any] = partial(entry_point.function, **values)
    result = await threaded.call(threads, context, call) if entry_point.blocks else call()
    while inspect.isawaitable(result):
        result = await result
    if isinstance(result, AsyncGenerator):
        async with aclosing(result):
            async for chunk in result:
                yield chunk
    elif hasattr(result, "__aiter__"):
        async for chunk in result:
            yield chunk
    elif isinstance(result, Iterator):
        async with aclosing(threaded.iterate(threads, context, result)) as chunks:
            async for chunk in chunks:
                yield chunk
    else:
        yield result
