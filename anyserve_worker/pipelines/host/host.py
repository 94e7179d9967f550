"""Runs a pipeline on one event loop for the life of the process, and exchanges frames with the worker."""

import asyncio
import importlib
import os
import socket
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

from anyserve_worker.pipelines.core import frames
from anyserve_worker.pipelines.core.errors import SetupError
from anyserve_worker.pipelines.core.frames import BrokenFrame, Frame, Frames
from anyserve_worker.pipelines.core.pipeline import Folder, ModelState, Pipeline
from anyserve_worker.pipelines.host import log_lines
from anyserve_worker.pipelines.host.answer import Answer
from anyserve_worker.pipelines.host.log_lines import HostLogger

log = HostLogger("anyserve_worker.pipelines.host")

MODULES = {
    "wrapper": "anyserve_worker.pipelines.wrappers",
    "openai": "anyserve_worker.pipelines.openai_api",
    "http": "anyserve_worker.pipelines.http_api",
}
"""The module of each kind of pipeline. Its function `load` returns the Pipeline of a Folder."""
CLOSE_SECONDS = 2.5
"""Seconds that answers get to end when the worker is gone, and the pipeline to close."""


async def serve(connection: socket.socket) -> int:
    """Serves until the worker ends the pipeline or is gone. Returns the exit status of the process."""
    loop = asyncio.get_running_loop()
    host = _Host()
    await loop.create_connection(lambda: host, sock=connection)
    os.register_at_fork(after_in_child=partial(_leave_to_parent, loop, connection))
    first = await host.received.get()
    if first is None or first.header["kind"] != "start":
        return 1
    return await _run(host, first.header)


def _leave_to_parent(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
    """In a process that the pipeline has forked: only the parent talks with the worker, and only it runs this loop,
    whose files both share."""
    connection.close()
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon(os._exit, 1)


async def _run(host: "_Host", start: dict[str, Any]) -> int:
    log_lines.set_up(start["log_level"])
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(start["concurrency"] + 4, thread_name_prefix="pipeline"))
    sys.path += [entry for entry in start["python_path"] if entry not in sys.path]
    folder = Folder(start["name"], Path(start["path"]), start["settings"])
    starting = asyncio.create_task(_start(folder, start["pipeline"], host.report))
    await asyncio.wait((starting, asyncio.ensure_future(host.closed.wait())), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        return 1
    pipeline = starting.result()
    problem = pipeline if isinstance(pipeline, str) else ""
    if isinstance(pipeline, str) or not host.serve(folder.name, pipeline):
        host.send(frames.encode("failed", problem=problem or "it has reported no models"))
        await host.flush()
        return 1
    await host.closed.wait()
    await host.end_answers()
    try:
        await asyncio.wait_for(pipeline.close(), CLOSE_SECONDS)
    except Exception as error:
        log.error("the pipeline '%s' was not closed", folder.name, exc_info=error)
    return 0


async def _start(folder: Folder, kind: str, report: Callable[[Sequence[ModelState]], None]) -> Pipeline | str:
    """Returns the pipeline, or the problem in one line if it can't be served."""
    try:
        pipeline: Pipeline = importlib.import_module(MODULES[kind]).load(folder)
        await pipeline.start(report)
    except SetupError as error:
        return " ".join(str(error).split())
    except BaseException as error:
        log.error("the pipeline '%s' can't be started", folder.name, exc_info=error)
        return f"{type(error).__name__} at its start"
    return pipeline


class _Host(asyncio.Protocol):
    """The connection to the worker, and the answers that run."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[Frame | None] = asyncio.Queue()
        """The first frame; None: the worker is gone."""
        self.closed = asyncio.Event()
        """Set when the process should end."""
        self._models: Sequence[ModelState] | None = None
        """The last models that the pipeline reported; None: it has reported none yet."""
        self._transport: asyncio.Transport
        self._frames = Frames()
        self._name = ""
        self._pipeline: Pipeline | None = None
        self._answers: dict[int, Answer] = {}
        self._is_writable = asyncio.Event()
        self._is_writable.set()

    # ---- The pipeline

    def report(self, models: Sequence[ModelState]) -> None:
        self._models = models
        if self._pipeline:
            self.send(frames.encode("models", models=[asdict(model) for model in models]))

    def serve(self, name: str, pipeline: Pipeline) -> bool:
        """Reports the models, after which the worker sends requests. Returns False if there is no report."""
        self._name, self._pipeline = name, pipeline
        if self._models is not None:
            self.report(self._models)
        return self._models is not None

    async def end_answers(self) -> None:
        tasks = [answer.task for answer in self._answers.values()]
        for answer in list(self._answers.values()):
            answer.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_SECONDS)

    # ---- The worker

    def send(self, frame: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(frame)

    async def flush(self) -> None:
        """Waits until the worker has read everything."""
        self._transport.set_write_buffer_limits(0)
        await self._is_writable.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def pause_writing(self) -> None:
        self._is_writable.clear()

    def resume_writing(self) -> None:
        self._is_writable.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.received.put_nowait(None)
        self._is_writable.set()
        self.closed.set()

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._frames.push(data):
                self._receive(frame)
        except BrokenFrame as error:
            log.error("the worker sent a broken frame: %s", error)
            self._transport.abort()

    def _receive(self, frame: Frame) -> None:
        header = frame.header
        match header["kind"]:
            case "start":
                self.received.put_nowait(frame)
            case "ping":
                self.send(frames.encode("pong"))
            case "request":
                self._answer(frame)
            case "cancel":
                if answer := self._answers.get(header["number"]):
                    answer.cancel()
            case "ack":
                if answer := self._answers.get(header["number"]):
                    answer.acknowledge(header["count"])
            case "stop":
                self.closed.set()

    def _answer(self, frame: Frame) -> None:
        assert self._pipeline
        number = frame.header["number"]
        answer = Answer(self._name, frame, self._pipeline, self.send)
        self._answers[number] = answer
        answer.task.add_done_callback(lambda _: self._answers.pop(number))
