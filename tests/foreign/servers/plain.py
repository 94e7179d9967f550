"""`python -m tests.foreign.servers.plain PORT`: a server with the fewest calls, and names that many backends share."""

from __future__ import annotations

import asyncio
import sys

import grpc

from protos.grpc_predict_v2_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ServerLiveRequest,
    ServerLiveResponse,
    ServerReadyRequest,
    ServerReadyResponse,
)
from tests.foreign import engine
from tests.foreign.servers.grpcio_base import Context, Minimal, add_texts, inputs_of, serve, until_cancelled

MODEL = "plain"


class Plain(Minimal):
    async def ServerLive(self, request: ServerLiveRequest, context: Context) -> ServerLiveResponse:
        return ServerLiveResponse(live=True)

    async def ServerReady(self, request: ServerReadyRequest, context: Context) -> ServerReadyResponse:
        return ServerReadyResponse(ready=True)

    async def ModelReady(self, request: ModelReadyRequest, context: Context) -> ModelReadyResponse:
        return ModelReadyResponse(ready=request.name == MODEL)

    async def ModelMetadata(self, request: ModelMetadataRequest, context: Context) -> ModelMetadataResponse:
        await self._check(request.name, context)
        tensor = ModelMetadataResponse.TensorMetadata
        return ModelMetadataResponse(
            name=MODEL,
            inputs=[
                tensor(name="text_input", datatype="BYTES", shape=[1]),
                tensor(name="max_tokens", datatype="INT32", shape=[1]),
            ],
            outputs=[tensor(name="text_output", datatype="BYTES", shape=[1])],
        )

    async def ModelInfer(self, request: ModelInferRequest, context: Context) -> ModelInferResponse:
        await self._check(request.model_name, context)
        inputs = inputs_of(request)
        if unknown := sorted(inputs.keys() - {"text_input", "max_tokens"}):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"unexpected input: {unknown[0]}")
        prompt = inputs["text_input"][0]
        engine.note("request", model=MODEL, version=request.model_version, prompt=prompt, inputs=inputs)
        limit = inputs["max_tokens"][0] if "max_tokens" in inputs else None
        try:
            parts = [delta.text async for delta in until_cancelled(engine.generate(prompt, limit))]
        except engine.EngineError as error:
            await context.abort(grpc.StatusCode.INTERNAL, str(error))
        response = ModelInferResponse(model_name=MODEL, id=request.id)
        add_texts(response, "text_output", ["".join(parts)])
        return response

    async def _check(self, name: str, context: Context) -> None:
        if name != MODEL:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no model {name}")


if __name__ == "__main__":
    asyncio.run(serve(Plain(), int(sys.argv[1])))
