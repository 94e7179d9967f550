"""A KServe v2 server that answers at once and costs almost nothing: the backend of a sidecar that is measured.

    python -m benchmarks.fake_worker PORT [step-batches]

Messages are serialised once and sent as bytes. The prompt sets the number of tokens and their pace (pace.py).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
import uvloop
from grpc import aio

from benchmarks import pace
from protos import contract, tensors
from protos.contract import TensorSpec
from protos.grpc_predict_v2_pb2 import (
    ModelConfigResponse,
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataResponse,
    ModelReadyResponse,
    ModelStreamInferResponse,
    RepositoryIndexResponse,
    ServerLiveResponse,
    ServerMetadataResponse,
    ServerReadyResponse,
)

SERVICE = "inference.GRPCInferenceService"
MODEL = "bench"
PROMPT_TOKENS = 10
TOKEN = pace.TEXT.encode()
Context = aio.ServicerContext[Any, Any]


class FakeWorker:
    def __init__(self, *, step_batches: bool) -> None:
        self._beat = pace.Beat()
        self._constants: dict[str, bytes] = {
            name: message.SerializeToString() for name, message in _constants(step_batches).items()
        }

    def handler(self) -> grpc.GenericRpcHandler:
        handlers: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(_constantly(message)) for name, message in self._constants.items()
        }
        handlers["ModelInfer"] = grpc.unary_unary_rpc_method_handler(self._infer)
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    async def _infer(self, message: bytes, _: Context) -> bytes:
        request = ModelInferRequest.FromString(message)
        return self._answers(bool(request.raw_input_contents))

    def _answers(self, raw: bool) -> bytes:
        name = f"answer, raw={raw}"
        if name not in self._constants:
            self._constants[name] = _whole(raw).SerializeToString()
        return self._constants[name]

    async def _stream(self, messages: AsyncIterator[bytes], context: Context) -> None:
        steps = Steps(self._beat, context)
        tasks: set[asyncio.Task[None]] = set()
        try:
            async for message in messages:
                for request in _requests(message):
                    if contract.PARAM_CANCEL in request.parameters:
                        steps.cancel(request.parameters[contract.PARAM_CANCEL].int64_param)
                    elif request.parameters[contract.PARAM_WHOLE].bool_param:
                        steps.answer(request.parameters[contract.PARAM_REQUEST].int64_param)
                    elif contract.PARAM_REQUEST in request.parameters:
                        steps.add(request.parameters[contract.PARAM_REQUEST].int64_param, *_wish(request))
                    else:
                        tasks.add(asyncio.create_task(self._alone(request, context)))
            if tasks:
                await asyncio.wait(tasks)
        finally:
            steps.stop()
            for task in tasks:
                task.cancel()

    async def _alone(self, request: ModelInferRequest, context: Context) -> None:
        """Answers with one message per token."""
        tokens, seconds = _wish(request)
        raw = bool(request.raw_input_contents)
        token = _streamed(request.id, raw, end=False)
        for _ in range(tokens - 1):
            if seconds:
                await self._beat.step(seconds)
            await context.write(token)
        if seconds:
            await self._beat.step(seconds)
        await context.write(_streamed(request.id, raw, end=True, tokens=tokens))


class Steps:
    """Requests of one stream with step batches: one message per step."""

    def __init__(self, beat: pace.Beat, context: Context) -> None:
        self._beat = beat
        self._context = context
        self._left: dict[int, int] = {}
        self._all: dict[int, int] = {}
        self._beginning: set[int] = set()
        """Requests without a first row so far."""
        self._seconds = 0.0
        self._message = b""  # of a step in which no request ends, for the running ones; empty: build it
        self._task: asyncio.Task[None] | None = None
        self._whole: list[int] = []
        """Requests that get their whole answer with the next message."""
        self._answering: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()

    def add(self, number: int, tokens: int, seconds: float) -> None:
        self._seconds = max(self._seconds, seconds) if self._left else seconds  # requests without a pace hurry no other
        self._left[number] = self._all[number] = tokens
        self._beginning.add(number)
        self._message = b""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    def answer(self, number: int) -> None:
        """Answers the request whole, with one token."""
        self._whole.append(number)
        if self._answering is None or self._answering.done():
            self._answering = asyncio.create_task(self._answer())

    async def _answer(self) -> None:
        """As the worker does: all that is there once the transport has accepted the last message is one message."""
        while self._whole:
            async with self._writing:
                numbers, self._whole = self._whole, []
                await self._context.write(_step(numbers, set(numbers), dict.fromkeys(numbers, 1)))

    def cancel(self, number: int) -> None:
        self._left.pop(number, None)
        self._message = b""

    def stop(self) -> None:
        for task in (self._task, self._answering):
            if task:
                task.cancel()

    async def _run(self) -> None:
        while self._left:
            if self._seconds:
                await self._beat.step(self._seconds)
            ending = {number for number, left in self._left.items() if left == 1}
            if ending or self._beginning or not self._message:
                message = _step(list(self._left), ending, self._all, begins=bool(self._beginning))
                self._message = b"" if ending or self._beginning else message
                self._beginning.clear()
            else:
                message = self._message
            self._left = {number: left - 1 for number, left in self._left.items() if number not in ending}
            if message:
                await self.write(message)

    async def write(self, message: bytes) -> None:
        """Writes one message at a time: gRPC loses one of two concurrent writes."""
        async with self._writing:
            await self._context.write(message)


def _wish(request: ModelInferRequest) -> tuple[int, float]:
    inputs = tensors.read_inputs(request)
    return pace.parse(inputs[contract.PROMPT.name].elements[0].decode() if contract.PROMPT.name in inputs else "")


def _requests(message: bytes) -> list[ModelInferRequest]:
    """Requests in a message, which may be a bundle."""
    request = ModelInferRequest.FromString(message)
    if contract.PARAM_BUNDLE not in request.parameters:
        return [request]
    return [ModelInferRequest.FromString(part) for part in request.raw_input_contents]


def _constantly(message: bytes) -> Callable[[bytes, Context], Awaitable[bytes]]:
    async def answer(_: bytes, __: Context) -> bytes:
        return message

    return answer


def _constants(step_batches: bool) -> dict[str, Any]:
    metadata = ModelMetadataResponse(name=MODEL, versions=["1"])
    for spec in contract.INPUTS:
        metadata.inputs.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
    config = ModelConfigResponse()
    config.config.name = MODEL
    index = RepositoryIndexResponse()
    index.models.add(name=MODEL, version="1", state="READY")
    # Without step batches, support for bundles has no effect but that chats get ChatML, as with the bundled worker.
    own = set(contract.EXTENSIONS) - {contract.EXTENSION_LOAD}
    extensions = own if step_batches else {contract.EXTENSION_BUNDLES}
    return {
        "ServerLive": ServerLiveResponse(live=True),
        "ServerReady": ServerReadyResponse(ready=True),
        "ServerMetadata": ServerMetadataResponse(name="fake", version="1", extensions=extensions),
        "ModelReady": ModelReadyResponse(ready=True),
        "ModelMetadata": metadata,
        "ModelConfig": config,
        "RepositoryIndex": index,
    }


def _message(raw: bool, *outputs: tuple[TensorSpec, Sequence[Any]]) -> ModelInferResponse:
    response = ModelInferResponse(model_name=MODEL, model_version="1")
    for spec, elements in outputs:
        tensors.add_output(response, spec, elements, raw=raw)
    return response


def _whole(raw: bool) -> ModelInferResponse:
    return _message(
        raw,
        (contract.TEXT, [TOKEN]),
        (contract.FINISH_REASON, [contract.FINISH_STOP.encode()]),
        (contract.PROMPT_TOKENS, [PROMPT_TOKENS]),
        (contract.CACHED_TOKENS, [0]),
        (contract.COMPLETION_TOKENS, [1]),
    )


def _streamed(request_id: str, raw: bool, *, end: bool, tokens: int = 0) -> bytes:
    reason = contract.FINISH_LENGTH if end else contract.NOT_FINISHED
    outputs: list[tuple[TensorSpec, Sequence[Any]]] = [
        (contract.TOKEN, [TOKEN]),
        (contract.INDEX, [0]),
        (contract.FINISH_REASON, [reason.encode()]),
    ]
    if end:
        outputs += [(contract.PROMPT_TOKENS, [PROMPT_TOKENS]), (contract.CACHED_TOKENS, [0])]
        outputs += [(contract.COMPLETION_TOKENS, [tokens])]
    response = _message(raw, *outputs)
    response.id = request_id
    response.parameters[contract.PARAM_FINAL].bool_param = end
    return ModelStreamInferResponse(infer_response=response).SerializeToString()


def _step(numbers: list[int], ending: set[int], tokens: dict[int, int], *, begins: bool = False) -> bytes:
    """`begins`: a request gets its first row, with the token counts of its prompt."""
    k = len(numbers)
    outputs: list[tuple[TensorSpec, Sequence[Any]]] = [
        (contract.REQUEST, numbers),
        (contract.ROW_TOKEN, [TOKEN] * k),
        (contract.ROW_INDEX, [0] * k),
    ]
    if ending or begins:
        outputs += [(contract.ROW_PROMPT_TOKENS, [PROMPT_TOKENS] * k), (contract.ROW_CACHED_TOKENS, [0] * k)]
    if ending:
        reasons = [contract.FINISH_LENGTH if number in ending else contract.NOT_FINISHED for number in numbers]
        outputs += [
            (contract.ROW_FINISH_REASON, [reason.encode() for reason in reasons]),
            (contract.ROW_COMPLETION_TOKENS, [tokens[number] for number in numbers]),
        ]
    return ModelStreamInferResponse(infer_response=_message(False, *outputs)).SerializeToString()


async def main(port: int, *, step_batches: bool) -> None:
    server = aio.server()
    server.add_generic_rpc_handlers((FakeWorker(step_batches=step_batches).handler(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), step_batches="step-batches" in sys.argv))
