"""A wrapper as a pipeline of the worker."""

import asyncio
import inspect
from collections.abc import AsyncGenerator
from contextlib import aclosing
from contextvars import copy_context

from anyserve_worker.pipelines.core.errors import InvalidInput
from anyserve_worker.pipelines.core.events import Event
from anyserve_worker.pipelines.core.pipeline import Folder, ModelState, Pipeline, Report
from anyserve_worker.pipelines.core.request import ChatRequest
from anyserve_worker.pipelines.wrappers import threaded
from anyserve_worker.pipelines.wrappers.answer_reader import AnswerReader
from anyserve_worker.pipelines.wrappers.arguments import arguments, task_of
from anyserve_worker.pipelines.wrappers.client_errors import client_error
from anyserve_worker.pipelines.wrappers.entry_points import HEADERS, Wrapper, find_wrapper
from anyserve_worker.pipelines.wrappers.headers import request_headers
from anyserve_worker.pipelines.wrappers.importing import import_wrapper, setup_error
from anyserve_worker.pipelines.wrappers.request_threads import RequestThreads, follow_threads, set_current
from anyserve_worker.pipelines.wrappers.results import results


def load(folder: Folder) -> Pipeline:
    """The pipeline of a folder with a `pipeline_wrapper.py`. Nothing is imported before it starts."""
    return WrapperPipeline(folder)


class WrapperPipeline:
    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._wrapper: Wrapper

    async def start(self, report: Report) -> None:
        follow_threads()
        try:
            # In threads, since importing and setting up a pipeline takes seconds.
            self._wrapper = await threaded.call(RequestThreads(), copy_context(), self._load)
            if self._wrapper.setup:
                done = await threaded.call(RequestThreads(), copy_context(), self._wrapper.setup)
                if inspect.isawaitable(done):
                    await done
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            raise setup_error(self._folder, error) from None
        wrapper = self._wrapper
        report([ModelState(self._folder.name, tuple(wrapper.entry_points), description=wrapper.description)])

    def _load(self) -> Wrapper:
        return find_wrapper(import_wrapper(self._folder))

    async def answer(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        if request.n > 1:
            raise InvalidInput("n must be 1, since this model returns one choice.", field="n")
        entry_point = self._wrapper.entry_points[task_of(request, self._wrapper.entry_points)]
        values = arguments(request)
        if HEADERS in entry_point.parameters:
            values[HEADERS] = request_headers(request.headers)
        keywords = {name: value for name, value in values.items() if name in entry_point.parameters}
        threads = RequestThreads()
        set_current(threads)
        reader = AnswerReader(request.tools)
        try:
            async with aclosing(results(entry_point, keywords, threads)) as pieces:
                async for piece in pieces:
                    for event in reader.read(piece):
                        yield event
        except (asyncio.CancelledError, GeneratorExit):
            threads.stop()
            await threads.ended()
            raise
        except BaseException as error:
            if (shown := client_error(error)) and shown is not error:
                raise shown from error
            if isinstance(error, Exception):
                raise
            # SystemExit would end the process.
            raise RuntimeError(f"the wrapper raised {type(error).__name__}") from error
        for event in reader.end():
            yield event

    async def close(self) -> None:
        """A wrapper has no end of its own."""
