"""Served models that are pipelines."""

import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping

from anyserve_worker.core.errors import AnswerTooLarge, InvalidRequest, QueueFull
from anyserve_worker.core.origin import Metadata
from anyserve_worker.engine.running_request import RunningGeneration
from anyserve_worker.engine.stats import EngineLoad, RequestStats
from anyserve_worker.pipelines.options import PipelineOptions
from anyserve_worker.pipelines.pipelines import Pipelines
from anyserve_worker.pipelines.running_answer import RunningAnswer
from anyserve_worker.pipelines.served_pipeline import ModelStatus, ServedPipeline
from anyserve_worker.service.pipeline_request import parse
from anyserve_worker.service.pipeline_responses import PipelineResponder
from anyserve_worker.service.responder import Outputs
from anyserve_worker.service.served_model import ServedModel, State
from anyserve_worker.service.stream import MAX_WHOLE_BYTES
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse

PLATFORM = "pipeline"
MAX_RESPONSE_BYTES = 1 << 20
"""Bytes of the events in one response of a stream, unless a single event has more."""


class PipelineModel(ServedModel):
    platform = PLATFORM

    def __init__(self, name: str, on_end: Callable[[str, RunningAnswer], None]) -> None:
        super().__init__(name, State.LOADING, (contract.TASK_CHAT,))
        self._pipeline: ServedPipeline
        self._on_end = on_end
        self._stats = RequestStats()
        self._running: set[RunningAnswer] = set()

    def update(self, pipeline: ServedPipeline, status: ModelStatus) -> None:
        """Sets the pipeline that answers from now on, and the model's state."""
        self._pipeline = pipeline
        self.tasks = status.tasks
        self.load_seconds = pipeline.start_seconds
        state = State.READY if status.ready else State.LOADING if status.loading else State.UNAVAILABLE
        if state is State.READY and self.state is not state:
            self.config["loaded_at"] = str(int(time.time()))
        self.state, self.reason = state, status.reason
        self.config["tasks"] = ",".join(status.tasks)
        self.config["description"] = status.description
        self.config = {name: value for name, value in self.config.items() if value}

    @property
    def default_task(self) -> str:
        return self.tasks[0]

    @property
    def load(self) -> EngineLoad:
        n_waiting = sum(not answer.started_ns for answer in self._running)
        return EngineLoad(n_waiting, len(self._running) - n_waiting, 0, 0)

    @property
    def stats(self) -> RequestStats:
        return self._stats

    def info(self) -> Outputs:
        return [(contract.MODEL_NAME, [self.name.encode()])]

    async def infer(self, request: ModelInferRequest, task: str, metadata: Metadata) -> ModelInferResponse:
        responder = PipelineResponder(request, self.name, streams=False)
        answer = self._submit(request, task, metadata, streams=False)
        events: list[bytes] = []
        size = 0
        try:
            async for batch in answer:
                events += batch.events
                size += sum(map(len, batch.events))
                if size > MAX_WHOLE_BYTES:
                    raise AnswerTooLarge(f"The response has more than {MAX_WHOLE_BYTES} bytes, which is the limit.")
            return responder.whole(events)
        finally:
            answer.cancel()

    async def stream(
        self, request: ModelInferRequest, task: str, metadata: Metadata
    ) -> AsyncGenerator[tuple[ModelInferResponse, bool], None]:
        responder = PipelineResponder(request, self.name, streams=True)
        answer = self._submit(request, task, metadata, streams=True)
        try:
            async for batch in answer:
                parts = _parts(batch.events)
                for part in parts:
                    is_last = batch.last and part is parts[-1] and not responder.empty_final
                    if response := responder.stream(part, final=is_last):
                        yield response, is_last
                if batch.last and (responder.empty_final or not parts):
                    response = responder.stream((), final=True)
                    assert response
                    yield response, True
        finally:
            answer.cancel()

    async def submit(self, request: ModelInferRequest) -> RunningGeneration:
        raise InvalidRequest(
            f"parameter '{contract.PARAM_REQUEST}': model '{self.name}' does not support step batches; send the "
            "request without a number"
        )

    def _submit(self, request: ModelInferRequest, task: str, metadata: Metadata, *, streams: bool) -> RunningAnswer:
        pipeline_request = parse(request, self.name, task, metadata, streams=streams)
        self._stats.last_request_ms = int(time.time() * 1000)
        try:
            answer = self._pipeline.submit(pipeline_request, self._record)
        except QueueFull:
            self._stats.requests_refused += 1
            raise
        self._running.add(answer)
        return answer

    def _record(self, answer: RunningAnswer) -> None:
        self._running.discard(answer)
        stats = self._stats
        stats.outcomes[answer.outcome] += 1
        duration = answer.ended_ns - answer.submitted_ns
        (stats.failure if answer.error or answer.cancelled else stats.success).add(duration)
        stats.request_seconds.add(duration / 1e9)
        if answer.started_ns:
            stats.queue.add(answer.started_ns - answer.submitted_ns)
            stats.queue_seconds.add((answer.started_ns - answer.submitted_ns) / 1e9)
        if answer.first_ns:
            stats.prefill_seconds.add((answer.first_ns - answer.started_ns) / 1e9)
        self._on_end(self.name, answer)


def _parts(events: list[bytes]) -> list[list[bytes]]:
    """Splits events into parts of at most MAX_RESPONSE_BYTES."""
    parts: list[list[bytes]] = []
    size = MAX_RESPONSE_BYTES
    for event in events:
        size += len(event)
        if size > MAX_RESPONSE_BYTES:
            parts.append([])
            size = len(event)
        parts[-1].append(event)
    return parts


class PipelineModels:
    """The models of all pipelines in a folder. Implements `repository.ModelSource`."""

    def __init__(
        self,
        options: PipelineOptions,
        on_end: Callable[[str, RunningAnswer], None] = lambda _, __: None,
        other_names: Collection[str] = (),
    ) -> None:
        """`on_end` is called with the model's name and each request that has ended. `other_names`: models that are no
        pipelines."""
        self.pipelines = Pipelines(options, self._update, other_names)
        self._on_end = on_end
        self._models: dict[str, PipelineModel] = {}

    @property
    def models(self) -> Mapping[str, ServedModel]:
        return self._models

    @property
    def tried(self) -> bool:
        return self.pipelines.tried

    def _update(self) -> None:
        models: dict[str, PipelineModel] = {}
        for name, (pipeline, status) in self.pipelines.models().items():
            # The same object as long as the name exists, since it counts the requests.
            models[name] = self._models.get(name) or PipelineModel(name, self._on_end)
            models[name].update(pipeline, status)
        self._models = models
