"""Keeps one pipeline served: starts its process, replaces it, and gives it requests."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from anyserve_worker.core.errors import ModelNotReady, QueueFull
from anyserve_worker.pipelines.folder import Definition
from anyserve_worker.pipelines.process import PipelineProcess, StartFailed
from anyserve_worker.pipelines.running_answer import PipelineRequest, RunningAnswer
from anyserve_worker.pipelines.tracebacks import Tracebacks
from anyserve_worker.pipelines.waiting_line import WaitingLine

log = logging.getLogger(__name__)

MIN_DELAY, MAX_DELAY = 1.0, 60.0
"""Seconds before a process is started again. Each further start doubles them."""
STABLE_SECONDS = 60.0
"""Seconds that a process must have run for the next delay to be MIN_DELAY again."""


@dataclass(frozen=True, slots=True)
class ModelStatus:
    name: str
    tasks: tuple[str, ...] = ("chat",)
    ready: bool = False
    loading: bool = False
    """Whether the pipeline has not been tried yet."""
    reason: str = ""
    """Why the model is not ready, for clients: without secrets and exceptions' texts."""
    description: str = ""


class ServedPipeline:
    """Runs from `run` to `retire` or `close`."""

    def __init__(self, definition: Definition, on_change: Callable[[], None]) -> None:
        """`on_change` is called when `models` has changed."""
        self.definition = definition
        self.models: Sequence[ModelStatus] = (ModelStatus(definition.name, loading=True),)
        self.tried = asyncio.Event()
        """Set when the pipeline has started for the first time, or has failed to."""
        self.start_seconds = 0.0
        """Time that the last start took."""
        self.n_restarts = 0
        """Processes that were started after the first one."""
        self._on_change = on_change
        self._process: PipelineProcess | None = None
        """Gets the requests; None: there is none."""
        self._starting: PipelineProcess | None = None
        self._retiring: dict[PipelineProcess, asyncio.Task[None]] = {}
        """Former processes, which finish their requests."""
        self._tracebacks = Tracebacks()
        self._waiting: WaitingLine[RunningAnswer] = WaitingLine()
        self._supervision: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self.definition.name

    @property
    def started(self) -> bool:
        """Whether there is a process for requests."""
        return self._process is not None

    @property
    def n_running(self) -> int:
        return self._process.n_running if self._process else 0

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    @property
    def memory(self) -> int:
        """Bytes of resident memory of the process for requests; 0: there is none, or it is unknown."""
        return self._process.memory if self._process else 0

    # ---- Life

    def run(self) -> None:
        """Starts the pipeline, and keeps it served from now on."""
        self._supervision = asyncio.create_task(self._supervise())

    async def retire(self) -> None:
        """Ends the pipeline after its requests."""
        await self._end_supervision()
        for answer in self._waiting:
            await answer.ended.wait()
        if self._process:
            await self._process.retire()
        await self.close()

    async def close(self) -> None:
        """Ends the pipeline. Its requests fail."""
        await self._end_supervision()
        for task in self._retiring.values():
            task.cancel()
        processes = [*self._retiring, *([self._process] if self._process else [])]
        await asyncio.gather(*(process.stop() for process in processes))
        self._process = None
        self._fail_waiting()

    async def _end_supervision(self) -> None:
        if self._supervision:
            self._supervision.cancel()
            await asyncio.wait((self._supervision,))
            self._supervision = None
        if self._starting:
            await self._starting.stop()
            self._starting = None

    async def _supervise(self) -> None:
        try:
            delay = MIN_DELAY
            while True:
                started_at = time.monotonic()
                process = await self._start()
                self.tried.set()
                if process:
                    self._adopt(process)
                elif self.definition.problem:
                    return  # only another definition helps
                if process:
                    await process.unfit.wait()
                    if not process.ended.is_set():
                        problem = process.unfit_reason
                        log.warning("pipeline '%s' gets a new process: %s", self.definition.name, problem)
                    if time.monotonic() - started_at > STABLE_SECONDS:
                        delay = MIN_DELAY
                await asyncio.sleep(delay)
                delay = min(delay * 2, MAX_DELAY)
                self.n_restarts += 1
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("pipeline '%s' is not served any more", self.definition.name)
            self._set_unavailable("the pipeline failed")
            self.tried.set()

    async def _start(self) -> PipelineProcess | None:
        """Returns a process that has started, or None if it failed."""
        name, started_at, problem = self.definition.name, time.monotonic(), self.definition.problem
        if not problem:
            process = self._starting = PipelineProcess(
                self.definition,
                tracebacks=self._tracebacks,
                on_models=self._models_changed,
                on_slot=self._slot_freed,
                on_end=self._process_ended,
            )
            try:
                await process.start()
            except StartFailed as error:
                problem, self._starting = str(error), None
            else:
                self.start_seconds = round(time.monotonic() - started_at, 3)
                log.info("pipeline '%s' is ready after %.1f s", name, self.start_seconds)
                return process
        log.error("pipeline '%s' can't be started: %s", name, problem)
        if not self._process:
            self._set_unavailable("the pipeline could not be started")
        return None

    def _adopt(self, process: PipelineProcess) -> None:
        """Makes this the process for requests. The former one finishes its own."""
        former, self._process, self._starting = self._process, process, None
        if former:
            self._retire(former)
        self._models_changed(process)
        self._dispatch()
        if not process.pid:  # it has ended meanwhile
            self._process_ended(process)

    def _process_ended(self, process: PipelineProcess) -> None:
        if process is self._process:
            self._process = None
            self._set_unavailable("its process has ended and is started again")
            self._fail_waiting()

    def _retire(self, process: PipelineProcess) -> None:
        task = self._retiring[process] = asyncio.create_task(process.retire())
        task.add_done_callback(lambda _: self._retiring.pop(process, None))

    # ---- Models

    def _models_changed(self, process: PipelineProcess) -> None:
        if process is self._process:
            self.models = [
                ModelStatus(
                    model["name"],
                    tuple(model["tasks"]),
                    ready=model["ready"],
                    reason=model["reason"],
                    description=model["description"],
                )
                for model in process.models
            ] or [ModelStatus(self.name, reason="it has no models now")]
            self._on_change()

    def _set_unavailable(self, reason: str) -> None:
        self.models = [
            ModelStatus(model.name, model.tasks, reason=reason, description=model.description) for model in self.models
        ]
        self._on_change()

    # ---- Requests

    def submit(self, request: PipelineRequest, on_end: Callable[[RunningAnswer], None]) -> RunningAnswer:
        """Starts a request; the caller iterates over it and cancels it in the end. `on_end` is called when it has
        ended. Raises ModelNotReady or QueueFull."""
        process, limits = self._process, self.definition.limits
        if process is None:
            raise ModelNotReady(f"model '{request.model}' is unavailable")
        if not process.has_slot and len(self._waiting) >= limits.queue:
            raise QueueFull(f"{len(self._waiting)} requests already wait for model '{request.model}'; try again later")
        answer = RunningAnswer(request, timeout=limits.timeout, idle_timeout=limits.idle_timeout, on_end=on_end)
        answer.when_cancelled(lambda: self._waiting.remove(answer))
        self._waiting.add(answer, request.caller)
        self._dispatch()
        return answer

    def _dispatch(self) -> None:
        while self._waiting and self._process and self._process.has_slot:
            answer = self._waiting.pop()
            self._waiting.begin(answer.request.caller)
            self._process.answer(answer)

    def _slot_freed(self, answer: RunningAnswer) -> None:
        self._waiting.end(answer.request.caller)
        self._dispatch()

    def _fail_waiting(self) -> None:
        for answer in self._waiting.clear():
            answer.fail(ModelNotReady(f"the process of model '{answer.request.model}' has ended"))
