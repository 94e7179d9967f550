"""The gRPC service: maps KServe's methods to the served models, and errors to gRPC.

ModelStreamInfer is in `stream.py`.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, NoReturn

import grpc

from anyserve_common.text import shortened
from anyserve_worker import __version__
from anyserve_worker.core.errors import Draining, InvalidRequest, WorkerError
from anyserve_worker.service.repository import Repository
from anyserve_worker.service.request import names_capability
from anyserve_worker.service.responder import Outputs, Responder
from anyserve_worker.service.served_model import MODEL_VERSION, ServedModel
from anyserve_worker.service.stream import Stream
from anyserve_worker.service.tasks import task_of
from protos import contract, grpc_predict_v2_pb2_grpc
from protos import grpc_predict_v2_pb2 as pb

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

EXTENSIONS = ("model_repository", "model_configuration", "statistics", *contract.EXTENSIONS)
"""Extensions that ServerMetadata lists: Triton's and our own."""
MAX_ID_LENGTH = 1000
"""Characters. Each response of a stream repeats the id."""
_DATA_TYPES = {"BOOL": pb.TYPE_BOOL, "BYTES": pb.TYPE_STRING, "INT32": pb.TYPE_INT32, "FP32": pb.TYPE_FP32}


class InferenceServicer(grpc_predict_v2_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._draining = asyncio.Event()
        self._n_calls = 0
        """Running inference calls."""
        self._drained = asyncio.Event()
        """Set when the worker drains and its last inference call has ended."""
        self.reports_ready = True
        """Set to False when the worker is about to drain."""

    def drain(self) -> None:
        """Refuses new requests. Running ones continue; a stream ends when its requests have."""
        self.reports_ready = False
        self._draining.set()
        if not self._n_calls:
            self._drained.set()

    async def wait_until_drained(self) -> None:
        """Waits until the last inference call has ended, after `drain`."""
        await self._drained.wait()

    @contextmanager
    def _inference(self) -> Iterator[None]:
        self._n_calls += 1
        try:
            yield
        finally:
            self._n_calls -= 1
            if self._draining.is_set() and not self._n_calls:
                self._drained.set()

    # ---- Health and metadata

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._repository.ready and self.reports_ready)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        model = await self._model(request.name, request.version, context)
        return pb.ModelReadyResponse(ready=model.ready and self.reports_ready)

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="anyserve_worker", version=__version__, extensions=EXTENSIONS)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        model = await self._model(request.name, request.version, context)

        def metadata(specs: Iterable[contract.TensorSpec]) -> list[pb.ModelMetadataResponse.TensorMetadata]:
            return [
                pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)
                for spec in specs
            ]

        return pb.ModelMetadataResponse(
            name=model.name,
            versions=[MODEL_VERSION],
            platform=model.platform,
            inputs=metadata(model.inputs),
            outputs=metadata(model.outputs),
        )

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        model = await self._model(request.name, request.version, context)
        config = pb.ModelConfig(
            name=model.name,
            platform=model.platform,
            backend=model.platform,
            input=[
                pb.ModelInput(name=s.name, data_type=_DATA_TYPES[s.datatype], dims=s.shape, optional=True)
                for s in model.inputs
            ],
            output=[
                pb.ModelOutput(name=s.name, data_type=_DATA_TYPES[s.datatype], dims=s.shape) for s in model.outputs
            ],
            parameters={name: pb.ModelParameter(string_value=value) for name, value in model.config.items()},
            model_transaction_policy=pb.ModelTransactionPolicy(decoupled=True),
        )
        return pb.ModelConfigResponse(config=config)

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, context: Context) -> pb.RepositoryIndexResponse:
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(
                    name=model.name, version=MODEL_VERSION, state=model.state.value, reason=model.reason
                )
                for model in self._repository
                if model.ready or not request.ready
            ]
        )

    async def ModelStatistics(self, request: pb.ModelStatisticsRequest, context: Context) -> pb.ModelStatisticsResponse:
        models = self._repository if not request.name else [await self._model(request.name, request.version, context)]
        return pb.ModelStatisticsResponse(model_stats=[_statistics(model) for model in models if model.ready])

    # ---- Inference

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        with self._inference():
            return await self._infer(request, context)

    async def _infer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        try:
            if names_capability(request, contract.ANYSERVE_MODEL_INFO):
                return self._model_info(request)
            task = task_of(request)
            model = self._admit(request)
            return await model.infer(request, model.task(task), context.invocation_metadata() or ())
        except WorkerError as error:
            await _abort(context, error)
        except Exception:
            log.exception("request %r failed", shortened(request.id))
            await _abort(context, WorkerError("internal error"))

    async def ModelStreamInfer(
        self, request_iterator: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        with self._inference():
            try:
                stream = Stream(self._admit_to_stream, self._draining, context.invocation_metadata() or ())
                async with aclosing(stream.responses(request_iterator)) as responses:
                    async for response in responses:
                        yield response
            except WorkerError as error:
                await _abort(context, error)

    def _admit(self, request: pb.ModelInferRequest) -> ServedModel:
        """Returns the model that the request names. Raises WorkerError."""
        if self._draining.is_set():
            raise Draining("the worker is shutting down")
        if len(request.id) > MAX_ID_LENGTH:
            raise InvalidRequest(f"the id is longer than {MAX_ID_LENGTH} characters")
        if names_capability(request, *contract.TASKS, contract.ANYSERVE_GENERATE_STREAM):
            return self._repository.default
        return self._repository.get(request.model_name, request.model_version)

    def _admit_to_stream(self, request: pb.ModelInferRequest) -> ServedModel:
        model = self._admit(request)
        task = task_of(request)
        if task not in (None, *contract.STREAMED_TASKS):
            raise InvalidRequest(
                f"parameter '{contract.PARAM_TASK}': '{task}' cannot be streamed, only called with ModelInfer"
            )
        model.task(task)
        return model

    def _model_info(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        model = self._repository.default
        responder = Responder(request, model.name, contract.MODEL_INFO_OUTPUTS)
        return responder.build([*model.info(), *_load(self._repository)])

    async def _model(self, name: str, version: str, context: Context) -> ServedModel:
        try:
            return self._repository.get(name, version)
        except WorkerError as error:
            await _abort(context, error)


def _load(models: Iterable[ServedModel]) -> Outputs:
    """The values of contract.LOAD_OUTPUTS."""
    loads = [model.load for model in models if model.ready]
    return [
        (contract.SEQUENCES_WAITING, [sum(load.n_waiting for load in loads)]),
        (contract.SEQUENCES_RUNNING, [sum(load.n_running for load in loads)]),
        (contract.KV_CELLS, [sum(load.n_cells for load in loads)]),
        (contract.KV_CELLS_RUNNING, [sum(load.n_running_cells for load in loads)]),
    ]


def _statistics(model: ServedModel) -> pb.ModelStatistics:
    stats = model.stats

    def duration(count: int, ns: int) -> pb.StatisticDuration:
        return pb.StatisticDuration(count=count, ns=ns)

    return pb.ModelStatistics(
        name=model.name,
        version=MODEL_VERSION,
        last_inference=stats.last_request_ms,
        inference_count=stats.success.count,
        execution_count=stats.executions.count,
        inference_stats=pb.InferStatistics(
            success=duration(stats.success.count, stats.success.ns),
            fail=duration(stats.failure.count, stats.failure.ns),
            queue=duration(stats.queue.count, stats.queue.ns),
            compute_infer=duration(stats.executions.count, stats.executions.ns),
        ),
    )


# ---- Errors


async def _abort(context: Context, error: WorkerError) -> NoReturn:
    await context.abort(error.status, str(error), tuple(error.details.items()))
    raise AssertionError("abort raises")
