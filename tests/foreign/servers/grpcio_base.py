"""Common parts of the backends written with grpcio. Unlike the other servers, they run in this project's
environment."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import grpc
from grpc import aio

from protos import tensors
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from protos.grpc_predict_v2_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)
from tests.foreign import engine

Context = aio.ServicerContext[Any, Any]


class Minimal(GRPCInferenceServiceServicer):
    """Implements no optional call. A subclass replaces those that its server has."""

    async def ServerMetadata(self, request: Any, context: Context) -> Any:
        await _unimplemented(context)

    async def ModelConfig(self, request: Any, context: Context) -> Any:
        await _unimplemented(context)

    async def ModelStatistics(self, request: Any, context: Context) -> Any:
        await _unimplemented(context)

    async def RepositoryIndex(self, request: Any, context: Context) -> Any:
        await _unimplemented(context)

    async def ModelStreamInfer(self, requests: Any, context: Context) -> Any:  # type: ignore[override]  # no iterator
        await _unimplemented(context)


async def _unimplemented(context: Context) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


async def serve(servicer: GRPCInferenceServiceServicer, port: int) -> None:
    server = aio.server()
    add_GRPCInferenceServiceServicer_to_server(servicer, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def inputs_of(request: ModelInferRequest) -> dict[str, list[Any]]:
    """Returns the elements of each input, texts decoded."""
    return {
        name: [element.decode() if isinstance(element, bytes) else element for element in tensor.elements]
        for name, tensor in tensors.read_inputs(request).items()
    }


def add_texts(response: ModelInferResponse, name: str, values: Sequence[str]) -> None:
    output = response.outputs.add(name=name, datatype="BYTES", shape=[len(values)])
    output.contents.bytes_contents.extend(value.encode() for value in values)


async def until_cancelled(deltas: Iterator[engine.Delta]) -> AsyncIterator[engine.Delta]:
    """Yields the deltas, which another thread computes, until gRPC cancels the call."""
    n_tokens = 0
    try:
        while (delta := await asyncio.to_thread(functools.partial(next, deltas, None))) is not None:
            n_tokens += delta.n_tokens
            yield delta
    except (asyncio.CancelledError, GeneratorExit):
        engine.note("cancelled", after=n_tokens)
        raise
    engine.note("ended", tokens=n_tokens)
