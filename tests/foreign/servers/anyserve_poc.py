"""`python -m tests.foreign.servers.anyserve_poc PORT`: AnyServe's proof of concept, with its manners.

It reads typed contents only, drops tensors that it doesn't use, never notices that a client has left, and reports
`stop` whatever ended the answer. A failed unary call is an answer without outputs, a failed stream has a traceback.
"""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import AsyncIterator

from protos.grpc_predict_v2_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ModelStreamInferResponse,
    ServerLiveRequest,
    ServerLiveResponse,
    ServerMetadataRequest,
    ServerMetadataResponse,
    ServerReadyRequest,
    ServerReadyResponse,
)
from tests.foreign import engine
from tests.foreign.servers.grpcio_base import Context, Minimal, add_texts, serve

VERSION = "llamacpp"
MODEL = "tiny-llama"
CONTEXT_LENGTH = 2048
MAX_TOKENS = 256


class Poc(Minimal):
    async def ServerLive(self, request: ServerLiveRequest, context: Context) -> ServerLiveResponse:
        return ServerLiveResponse(live=True)

    async def ServerReady(self, request: ServerReadyRequest, context: Context) -> ServerReadyResponse:
        return ServerReadyResponse(ready=True)

    async def ServerMetadata(self, request: ServerMetadataRequest, context: Context) -> ServerMetadataResponse:
        return ServerMetadataResponse(name="anyserve", version="0.1.0")

    async def ModelReady(self, request: ModelReadyRequest, context: Context) -> ModelReadyResponse:
        return ModelReadyResponse(ready=True)

    async def ModelMetadata(self, request: ModelMetadataRequest, context: Context) -> ModelMetadataResponse:
        return ModelMetadataResponse(name=request.name, platform="anyserve")

    async def ModelInfer(self, request: ModelInferRequest, context: Context) -> ModelInferResponse:
        response = ModelInferResponse()
        if request.model_version == VERSION and request.model_name == "model_info":
            add_texts(response, "model_name", [MODEL])
            output = response.outputs.add(name="n_ctx", datatype="INT32", shape=[1])
            output.contents.int_contents.append(CONTEXT_LENGTH)
        elif request.model_version == VERSION and request.model_name == "generate":
            try:
                text = "".join([delta.text async for delta in _deltas(request)])
            except engine.EngineError:
                return ModelInferResponse()
            add_texts(response, "text", [text])
            add_texts(response, "model", [MODEL])
        return response

    async def ModelStreamInfer(  # type: ignore[override]  # an iterator, unlike that of Minimal
        self, requests: AsyncIterator[ModelInferRequest], context: Context
    ) -> AsyncIterator[ModelStreamInferResponse]:
        async for request in requests:
            if request.model_version != VERSION or request.model_name != "generate_stream":
                kind = {"type": request.model_name}
                yield ModelStreamInferResponse(error_message=f"No streaming handler for capability: {kind}")
                return
            try:
                async for delta in _deltas(request):
                    yield _part(delta.text, "null")
                yield _part("", "stop")
            except engine.EngineError:
                yield ModelStreamInferResponse(error_message=traceback.format_exc())


async def _deltas(request: ModelInferRequest) -> AsyncIterator[engine.Delta]:
    inputs = {tensor.name: tensor.contents for tensor in request.inputs}
    prompt = inputs["prompt"].bytes_contents[0].decode() if "prompt" in inputs else ""
    limit = next(iter(inputs["max_tokens"].int_contents), MAX_TOKENS) if "max_tokens" in inputs else MAX_TOKENS
    engine.note("request", model=request.model_name, version=VERSION, prompt=prompt, inputs=sorted(inputs))
    deltas = engine.generate(prompt, limit)
    while (delta := await asyncio.to_thread(next, deltas, None)) is not None:
        yield delta


def _part(text: str, reason: str) -> ModelStreamInferResponse:
    response = ModelStreamInferResponse()
    add_texts(response.infer_response, "token", [text])
    add_texts(response.infer_response, "finish_reason", [reason])
    return response


if __name__ == "__main__":
    asyncio.run(serve(Poc(), int(sys.argv[1])))
