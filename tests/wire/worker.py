"""The worker's real servicer, with engines that follow a script, over real gRPC."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from grpc import aio

from anyserve_worker.core.options import ModelOptions
from anyserve_worker.engine.engine import Engine
from anyserve_worker.service.gguf_model import GGUFModel
from anyserve_worker.service.repository import Repository
from anyserve_worker.service.served_model import State
from anyserve_worker.service.servicer import InferenceServicer
from anyserve_worker.telemetry.observer import Observer
from anyserve_worker.threads.chooser import ThreadChooser
from protos.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub, add_GRPCInferenceServiceServicer_to_server
from tests.anyserve_worker.fakes import ByteVocabulary, FakeRunner, FakeVectorRunner

PINGS = (("grpc.http2.min_ping_interval_without_data_ms", 500), ("grpc.keepalive_permit_without_calls", 1))
"""As in the worker's own server: clients may ping as often as contract.EXTENSION_PINGS allows."""
OPTIONS = ModelOptions(parallel=16, max_queue=48, prefill_chunk=16)


class Worker:
    def __init__(
        self,
        servicer: InferenceServicer,
        engines: dict[str, Engine],
        server: aio.Server,
        port: int,
        repository: Repository,
    ) -> None:
        self.servicer, self.engines, self.server, self.port = servicer, engines, server, port
        self.repository = repository

    @property
    def n_requests(self) -> int:
        return sum(engine.n_requests for engine in self.engines.values())


@asynccontextmanager
async def worker(
    runners: Mapping[str, FakeRunner] | None = None,
    options: ModelOptions = OPTIONS,
    port: int = 0,
    vector_runners: Mapping[str, FakeVectorRunner] | None = None,
    observer: Observer | None = None,
) -> AsyncIterator[Worker]:
    """Serves a model for each runner, and checks at the end that no request is left and all KV cells are free.

    A model with a vector runner embeds as well; if that runner is a reranker, the model ranks and doesn't generate.
    """
    runners = {"tiny": FakeRunner()} if runners is None else runners
    vector_runners = vector_runners or {}
    engines = {
        name: Engine(
            ByteVocabulary(),
            runner,
            options,
            ThreadChooser((1,), (1,)),
            vector_runner=vector_runners.get(name),
            on_end=partial((observer or Observer()).record, name),
        )
        for name, runner in runners.items()
    }
    models = [GGUFModel(name, Path(), State.READY) for name in runners]
    for model in models:
        model._engine = engines[model.name]
        if vector_runner := vector_runners.get(model.name):
            own_tasks = ("rank",) if vector_runner.ranks else ("generate", "embed")
            model.tasks = (*own_tasks, "tokenize", "detokenize")
            model.config["tasks"] = ",".join(model.tasks)
        engines[model.name].start()
    repository = Repository(models)
    servicer = InferenceServicer(repository)
    server = aio.server(options=PINGS)
    add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    async with AsyncExitStack() as cleanup:
        for name, engine in engines.items():
            cleanup.push_async_callback(engine.close)
            for gate in (runners[name].gate, name in vector_runners and vector_runners[name].gate):
                if gate:
                    cleanup.callback(gate.open)
        cleanup.push_async_callback(server.stop, None)
        yield Worker(servicer, engines, server, port, repository)
    for name, runner in runners.items():
        assert engines[name].n_requests == 0
        assert engines[name].n_free_cells == runner.n_cells


@asynccontextmanager
async def stub(port: int) -> AsyncIterator[GRPCInferenceServiceStub]:
    async with aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        yield GRPCInferenceServiceStub(channel)
