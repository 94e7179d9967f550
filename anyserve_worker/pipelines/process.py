"""The process of a pipeline, as the worker sees it."""

import asyncio
import itertools
import logging
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, cast

from anyserve_worker.core.errors import ModelNotReady
from anyserve_worker.pipelines.core import frames
from anyserve_worker.pipelines.core.frames import Frame, Frames
from anyserve_worker.pipelines.errors import reported_error
from anyserve_worker.pipelines.folder import Definition
from anyserve_worker.pipelines.process_output import ProcessOutput
from anyserve_worker.pipelines.running_answer import RunningAnswer
from anyserve_worker.pipelines.spawn import Child, spawn
from anyserve_worker.pipelines.tracebacks import Tracebacks
from anyserve_worker.pipelines.vital_signs import VitalSigns

log = logging.getLogger(__name__)

STUCK_SECONDS = 10.0
"""Seconds that a cancelled request has to end. Then it counts as stuck."""
STOP_SECONDS = 6.0
"""Seconds that a process has to end after its last request."""
DUMP_SECONDS = 0.5
"""Seconds that a process has to write the stacks of its threads."""
LAST_OUTPUT_SECONDS = 1.0
"""Seconds in which the output of an ended process is read. Its own children may keep the pipe open."""


class StartFailed(Exception):
    """The message is one line for the log."""


class PipelineProcess(asyncio.Protocol):
    """Runs from `start` to `stop`, `kill`, or its own end."""

    def __init__(
        self,
        definition: Definition,
        *,
        tracebacks: Tracebacks,
        on_models: Callable[["PipelineProcess"], None],
        on_slot: Callable[[RunningAnswer], None],
        on_end: Callable[["PipelineProcess"], None],
    ) -> None:
        """`tracebacks`: those of the pipeline that the log has. `on_models` is called when `models` has changed,
        `on_slot` with each request whose slot is free again, `on_end` when the process has ended, before its requests
        fail."""
        self.definition = definition
        self.models: list[dict[str, Any]] = []
        """Fields of each ModelState; empty until the pipeline has started."""
        self.unfit = asyncio.Event()
        """Set when another process must replace this one: it has ended, or should."""
        self.unfit_reason = ""
        self.ended = asyncio.Event()
        self.memory = 0
        """Bytes of resident memory."""
        self._on_models = on_models
        self._on_slot = on_slot
        self._on_end = on_end
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._frames = Frames()
        self._numbers = itertools.count()
        self._answers: dict[int, RunningAnswer] = {}
        """Requests that the process has not ended yet."""
        self._stuck: set[int] = set()
        """Cancelled requests that have not ended within STUCK_SECONDS."""
        self._stopping = False
        self._is_gone = False
        self._disconnected = asyncio.Event()
        """Set when all frames of the process have been read."""
        self._has_problem = False
        """Whether its output may explain why it is killed."""
        self._transport: asyncio.Transport | None = None
        self._process: Child | None = None
        self._output = ProcessOutput(definition.name, tracebacks)
        self._vital_signs: VitalSigns | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def pid(self) -> int:
        """0: there is no process."""
        return self._process.pid if self._process and not self._is_gone else 0

    @property
    def n_running(self) -> int:
        """Requests that the process has not ended, cancelled ones included."""
        return len(self._answers)

    @property
    def has_slot(self) -> bool:
        return not self._stopping and not self._is_gone and self.n_running < self.definition.limits.concurrency

    @property
    def _has_started(self) -> bool:
        return self._started.done() and not self._started.cancelled() and self._started.exception() is None

    # ---- Life

    async def start(self) -> None:
        """Starts the process and waits until the pipeline has started. Raises StartFailed."""
        try:
            await self._spawn()
        except (OSError, ValueError) as error:  # a ValueError: its name, paths or variables can't be passed on
            self._end()
            problem = error.strerror if isinstance(error, OSError) else type(error).__name__
            raise StartFailed(f"{self.definition.python}: {problem}") from error
        try:
            await asyncio.wait_for(self._started, self.definition.limits.timeout)
        except TimeoutError:
            await self._dump_stacks()
            self.kill()
            await self.ended.wait()
            raise StartFailed(f"it has not started within {self.definition.limits.timeout:g} s") from None
        except asyncio.CancelledError:
            self.kill()
            raise
        except StartFailed:
            self.kill()
            await self.ended.wait()
            raise
        assert self._vital_signs
        self._vital_signs.started = True
        self._output.starting = False

    async def _spawn(self) -> None:
        definition = self.definition
        self._process = await spawn(definition, lambda: self, lambda: self._output)
        self._send(
            "start",
            name=definition.name,
            path=str(definition.path.absolute()),
            pipeline=definition.kind,
            settings=definition.settings,
            python_path=definition.python_path,
            concurrency=definition.limits.concurrency,
            log_level=definition.log_level,
        )
        self._vital_signs = VitalSigns(
            self._process.pid,
            definition.limits,
            ping=partial(self._send, "ping"),
            on_memory=self._measured,
            replace=self._become_unfit,
            kill=self._kill_for,
        )
        self._tasks = [asyncio.create_task(self._wait()), asyncio.create_task(self._vital_signs.watch())]

    async def _wait(self) -> None:
        """Waits for the end of the process, and cleans up after it."""
        assert self._process
        status = await self._process.wait()
        is_expected = self._stopping or not self._has_started
        if self._has_started:
            self._fail_requests()  # at once: reading the output may take a while
        self._process.signal(signal.SIGKILL, group=True)  # processes that it left
        with suppress(TimeoutError):
            # The connection as well: the reason of a failed start may not have been read yet.
            async with asyncio.timeout(LAST_OUTPUT_SECONDS):
                await self._output.ended.wait()
                await self._disconnected.wait()
        if not is_expected or self._has_problem:
            self._output.log_tail()
        if not is_expected:
            log.error("the process of pipeline '%s' has ended: %s", self.definition.name, _exit(status))
        self._end(_exit(status))

    def _end(self, status: str = "") -> None:
        self.ended.set()
        if not self._started.done():
            self._started.set_exception(StartFailed(f"its process has ended: {status}"))
            self._started.exception()  # it may not be awaited any more
        self._become_unfit("its process has ended")
        if self._transport:
            self._transport.abort()
        if self._vital_signs:
            self._vital_signs.stop()
        self._output.close()
        self._fail_requests()

    def _fail_requests(self) -> None:
        """The process has ended. No effect if this was called before."""
        if self._is_gone:
            return
        self._is_gone = True
        self._on_end(self)
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            answer.fail(ModelNotReady(f"the process of model '{answer.request.model}' has ended"))
            self._on_slot(answer)

    async def retire(self) -> None:
        """Waits until all requests that are not cancelled have ended, then ends the process."""
        for answer in list(self._answers.values()):
            await answer.ended.wait()
        await self.stop()

    async def stop(self) -> None:
        """Ends the process. Requests that still run fail."""
        self._stopping = True
        if not self._process:
            return
        if not self.ended.is_set() and self._transport and self._started.done():
            self._send("stop")
            with suppress(TimeoutError):
                await asyncio.wait_for(self.ended.wait(), STOP_SECONDS)
        self.kill()
        await self.ended.wait()

    def kill(self) -> None:
        """Ends the process and its children at once."""
        self._stopping = True
        if self._process and not self.ended.is_set():
            self._process.signal(signal.SIGKILL, group=True)

    async def _kill_for(self, problem: str, dump: bool) -> None:
        """Kills the process because of a problem. `dump`: logs the stacks of its threads before."""
        log.error("the process of pipeline '%s' is killed: %s", self.definition.name, problem)
        if dump:
            await self._dump_stacks()
        self._become_unfit(problem)
        self.kill()

    async def _dump_stacks(self) -> None:
        """Makes the process write the stacks of its threads, which become lines of the log."""
        self._has_problem = True
        if self._process and not self.ended.is_set():
            self._process.signal(signal.SIGUSR1)
            await asyncio.sleep(DUMP_SECONDS)

    def _become_unfit(self, reason: str) -> None:
        if not self.unfit.is_set():
            self.unfit_reason = reason
            self.unfit.set()

    def _measured(self, memory: int) -> None:
        self.memory = memory

    # ---- Requests

    def answer(self, answer: RunningAnswer) -> None:
        """Sends the request to the process, which must have a slot."""
        number, request = next(self._numbers), answer.request
        parts = [*request.messages, *(part for part in (request.body, request.input_items) if part is not None)]
        self._answers[number] = answer
        answer.begin(lambda count: self._send("ack", number=number, count=count))
        answer.when_cancelled(lambda: self._cancel(number))
        self._send(
            "request",
            parts,
            number=number,
            model=request.model,
            caller=request.caller,
            headers=dict(request.headers),
            streams=request.streams,
            messages=len(request.messages),
            has_body=request.body is not None,
            has_items=request.input_items is not None,
        )

    def _cancel(self, number: int) -> None:
        if number in self._answers:
            self._send("cancel", number=number)
            asyncio.get_running_loop().call_later(STUCK_SECONDS, self._check_stuck, number)

    def _check_stuck(self, number: int) -> None:
        if number not in self._answers or self.ended.is_set():
            return
        self._stuck.add(number)
        log.warning(
            "a cancelled request to pipeline '%s' has not ended within %g s", self.definition.name, STUCK_SECONDS
        )
        if len(self._stuck) >= self.definition.limits.concurrency:
            self._become_unfit("all of its slots have cancelled requests that don't end")

    def _release(self, number: int) -> RunningAnswer | None:
        self._stuck.discard(number)
        return self._answers.pop(number, None)

    # ---- Frames

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._frames.push(data):
                self._receive(frame)
        except Exception as error:  # whatever a pipeline has written to this socket
            log.error("pipeline '%s' sent a broken frame: %s: %s", self.definition.name, type(error).__name__, error)
            self._become_unfit("it sent a broken frame")
            self.kill()

    def connection_lost(self, error: Exception | None) -> None:
        """The process ends, or has closed the socket and is of no use any more."""
        self._disconnected.set()
        if not self._stopping and not self.ended.is_set() and self._process:
            asyncio.get_running_loop().call_later(LAST_OUTPUT_SECONDS, self._kill_useless)

    def _kill_useless(self) -> None:
        if self._process and self._process.status is None and not self._stopping:
            log.error("the process of pipeline '%s' is killed: it has closed its connection", self.definition.name)
            self.kill()

    def _send(self, kind: str, parts: Sequence[bytes] = (), **fields: Any) -> None:
        if self._transport and not self._transport.is_closing():
            self._transport.write(frames.encode(kind, parts, **fields))

    def _receive(self, frame: Frame) -> None:
        header = frame.header
        match header["kind"]:
            case "events":
                if answer := self._answers.get(header["number"]):
                    answer.put(frame.parts)
            case "end":
                if answer := self._release(header["number"]):
                    answer.complete(frame.parts, header["finish_reasons"], header["usage"])
                    self._on_slot(answer)
            case "error":
                error = reported_error(header)
                if answer := self._release(header["number"]):
                    answer.fail(error)
                    self._on_slot(answer)
            case "pong":
                if self._vital_signs:
                    self._vital_signs.pong()
            case "models":
                self.models = header["models"]
                if not self._started.done():
                    self._started.set_result(None)
                self._on_models(self)
            case "failed":
                if not self._started.done():
                    self._started.set_exception(StartFailed(header["problem"]))


def _exit(status: int) -> str:
    if status < 0:
        return f"{signal.Signals(-status).name}" if -status in set(signal.Signals) else f"signal {-status}"
    return f"exit status {status}"
