"""A KServe v2 server of another project that follows a script, over real gRPC."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc import aio

from protos import tensors
from protos.grpc_predict_v2_pb2 import (
    ModelConfigRequest,
    ModelConfigResponse,
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ModelStatisticsRequest,
    ModelStatisticsResponse,
    ModelStreamInferResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    ServerLiveRequest,
    ServerLiveResponse,
    ServerMetadataRequest,
    ServerMetadataResponse,
    ServerReadyRequest,
    ServerReadyResponse,
)
from protos.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceServicer, add_GRPCInferenceServiceServicer_to_server

Context = aio.ServicerContext[Any, Any]


def answer(final: bool | None = None, **outputs: Any) -> ModelInferResponse:
    """A response in the raw form. Each output is a text, or its datatype and its elements."""
    message = ModelInferResponse()
    for name, value in outputs.items():
        datatype, elements = value if isinstance(value, tuple) else ("BYTES", [value.encode()])
        message.outputs.add(name=name, datatype=datatype, shape=[len(elements)])
        message.raw_output_contents.append(tensors.to_raw(datatype, elements))
    if final is not None:
        message.parameters["triton_final_response"].bool_param = final
    return message


@dataclass
class ForeignModel:
    """`inputs` and `outputs` are `NAME:DATATYPE` words. `answers` are the responses to each request: messages, texts of
    errors in the stream, or a status that the call ends with."""

    inputs: str = "text_input:BYTES max_tokens:INT32"
    outputs: str = "text_output:BYTES"
    answers: Sequence[ModelInferResponse | str | grpc.StatusCode] = ()
    backend: str = ""
    platform: str = ""
    decoupled: bool | None = None
    """None: the server has no ModelConfig."""
    states: Sequence[str] = ("READY",)
    """The state of each version, from version 1 on."""
    parameters: dict[str, str] = field(default_factory=dict)


class ForeignServer(GRPCInferenceServiceServicer):
    """`lacks`: names of calls that the server doesn't implement. `is_bare`: its streams have ModelInferResponses."""

    def __init__(
        self, name: str, *, lacks: Iterable[str] = (), ready: bool = True, is_bare: bool = False, **models: ForeignModel
    ) -> None:
        self.name = name
        self.lacks = frozenset(lacks)
        self.ready = ready
        self.is_bare = is_bare
        self.models = dict(models)
        self.requests: list[ModelInferRequest] = []

    async def _model(self, call: str, name: str, context: Context) -> ForeignModel:
        await self._check(call, context)
        if name not in self.models:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no model '{name}'")
        return self.models[name]

    async def _check(self, call: str, context: Context) -> None:
        if call in self.lacks:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")

    async def ServerMetadata(self, request: ServerMetadataRequest, context: Context) -> ServerMetadataResponse:
        await self._check("ServerMetadata", context)
        return ServerMetadataResponse(name=self.name)

    async def ServerLive(self, request: ServerLiveRequest, context: Context) -> ServerLiveResponse:
        return ServerLiveResponse(live=True)

    async def ModelStatistics(self, request: ModelStatisticsRequest, context: Context) -> ModelStatisticsResponse:
        return ModelStatisticsResponse()

    async def ServerReady(self, request: ServerReadyRequest, context: Context) -> ServerReadyResponse:
        return ServerReadyResponse(ready=self.ready)

    async def ModelReady(self, request: ModelReadyRequest, context: Context) -> ModelReadyResponse:
        model = await self._model("ModelReady", request.name, context)
        return ModelReadyResponse(ready=any(state.endswith("READY") for state in model.states))

    async def RepositoryIndex(self, request: RepositoryIndexRequest, context: Context) -> RepositoryIndexResponse:
        await self._check("RepositoryIndex", context)
        index = RepositoryIndexResponse()
        for name, model in self.models.items():
            for version, state in enumerate(model.states, 1):
                index.models.add(name=name, version=str(version), state=state)
        return index

    async def ModelMetadata(self, request: ModelMetadataRequest, context: Context) -> ModelMetadataResponse:
        model = await self._model("ModelMetadata", request.name, context)
        metadata = ModelMetadataResponse(name=request.name, platform=model.platform)
        for words, reported in ((model.inputs, metadata.inputs), (model.outputs, metadata.outputs)):
            for word in words.split():
                name, _, datatype = word.partition(":")
                reported.add(name=name, datatype=datatype, shape=[1])
        return metadata

    async def ModelConfig(self, request: ModelConfigRequest, context: Context) -> ModelConfigResponse:
        model = await self._model("ModelConfig", request.name, context)
        if model.decoupled is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        response = ModelConfigResponse()
        response.config.backend = model.backend
        response.config.model_transaction_policy.decoupled = bool(model.decoupled)
        for name, value in model.parameters.items():
            response.config.parameters[name].string_value = value
        return response

    async def ModelInfer(self, request: ModelInferRequest, context: Context) -> ModelInferResponse:
        model = await self._model("ModelInfer", request.model_name, context)
        self.requests.append(request)
        if model.decoupled:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "ModelInfer RPC doesn't support decoupled models")
        [response] = model.answers
        assert isinstance(response, ModelInferResponse)
        return response

    async def ModelStreamInfer(
        self, request_iterator: AsyncIterator[ModelInferRequest], context: Context
    ) -> AsyncIterator[ModelStreamInferResponse]:
        await self._check("ModelStreamInfer", context)
        async for request in request_iterator:
            model = await self._model("ModelStreamInfer", request.model_name, context)
            self.requests.append(request)
            for response in model.answers:
                if isinstance(response, grpc.StatusCode):
                    await context.abort(response, "it broke")
                elif isinstance(response, str):
                    yield ModelStreamInferResponse(error_message=response)
                elif self.is_bare:  # the fields that the type lacks are kept as unknown ones
                    yield ModelStreamInferResponse.FromString(response.SerializeToString())
                else:
                    yield ModelStreamInferResponse(infer_response=response)


@asynccontextmanager
async def serving(foreign: ForeignServer) -> AsyncIterator[int]:
    """Serves on 127.0.0.1 and yields the port."""
    server = aio.server()
    add_GRPCInferenceServiceServicer_to_server(foreign, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)
