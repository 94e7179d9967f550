"""A KServe v2 server with models that take chats, over real gRPC. Each follows its script."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from protos import contract
from protos.grpc_predict_v2_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
    ServerMetadataRequest,
    ServerMetadataResponse,
)
from tests.wire.foreign_server import Context, ForeignModel, ForeignServer, answer, serving
from tests.wire.sidecar import Sidecar, app_for


def events(*items: dict[str, Any] | bytes, final: bool | None = None) -> ModelInferResponse:
    """A response with events."""
    elements = [item if isinstance(item, bytes) else json.dumps(item).encode() for item in items]
    return answer(final, events=("BYTES", elements))


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def finish(reason: str = "stop") -> dict[str, Any]:
    return {"type": "finish", "reason": reason}


@dataclass
class Failure:
    """An error of a call, with its details. One without details is that of a Triton, which reports the status of an
    error in a stream only to clients that request it, and never details."""

    status: grpc.StatusCode
    message: str
    details: dict[str, str]


class Hang:
    """Waits until the call is cancelled."""


Step = ModelInferResponse | Failure | Hang


@dataclass
class ChatModel(ForeignModel):
    """`script`: what a stream does, step after step. A whole answer is the first step."""

    inputs: str = "messages:BYTES body:BYTES"
    outputs: str = "events:BYTES text:BYTES token:BYTES"
    decoupled: bool | None = False
    script: Sequence[Step] = ()


class ChatServer(ForeignServer):
    """`is_own`: whether it reports this project's extensions."""

    def __init__(self, name: str = "triton", *, is_own: bool = False, **options: Any) -> None:
        super().__init__(name, **options)
        self.is_own = is_own
        self.cancelled: asyncio.Queue[str] = asyncio.Queue()
        """Ids of the requests whose call was cancelled while it hung."""
        self.hanging = asyncio.Event()

    @property
    def last(self) -> ModelInferRequest:
        return self.requests[-1]

    def sent(self, name: str) -> Any:
        """The JSON of an input of the last request; None: it has none."""
        inputs = {tensor.name: tensor.contents.bytes_contents for tensor in self.last.inputs}
        return json.loads(inputs[name][0]) if name in inputs else None

    async def ServerMetadata(self, request: ServerMetadataRequest, context: Context) -> ServerMetadataResponse:
        extensions = contract.EXTENSIONS if self.is_own else ()
        return ServerMetadataResponse(name=self.name, extensions=extensions)

    async def _hang(self, id: str) -> None:
        self.hanging.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.put_nowait(id)
            raise

    async def ModelInfer(self, request: ModelInferRequest, context: Context) -> ModelInferResponse:
        await self._check("ModelInfer", context)
        model = await self._model("ModelInfer", request.model_name, context)
        if not isinstance(model, ChatModel):
            return await super().ModelInfer(request, context)
        self.requests.append(request)
        if model.decoupled:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "ModelInfer RPC doesn't support decoupled models")
        step = model.script[0]
        if isinstance(step, Hang):
            await self._hang(request.id)
        elif isinstance(step, Failure):
            await context.abort(step.status, step.message, tuple(step.details.items()))
        assert isinstance(step, ModelInferResponse)
        return step

    async def ModelStreamInfer(
        self, request_iterator: AsyncIterator[ModelInferRequest], context: Context
    ) -> AsyncIterator[ModelStreamInferResponse]:
        await self._check("ModelStreamInfer", context)
        async for request in request_iterator:
            model = await self._model("ModelStreamInfer", request.model_name, context)
            assert isinstance(model, ChatModel)
            self.requests.append(request)
            for step in model.script:
                if isinstance(step, Hang):
                    await self._hang(request.id)
                elif isinstance(step, Failure):
                    if ("triton_grpc_error", "true") in (context.invocation_metadata() or ()) and not step.details:
                        await context.abort(step.status, step.message)
                    yield _failed(step)
                else:
                    yield ModelStreamInferResponse(infer_response=step)


def _failed(failure: Failure) -> ModelStreamInferResponse:
    response = ModelStreamInferResponse(error_message=failure.message)
    details = {contract.ERROR_STATUS: failure.status.name, **failure.details} if failure.details else {}
    for name, value in details.items():
        response.infer_response.parameters[name].string_param = value
    return response


# ---- Answers, and servers that give them

USAGE = {"type": "usage", "prompt_tokens": 7, "completion_tokens": 5, "cached_tokens": 2, "reasoning_tokens": 1}
ANSWER = [
    {"type": "reasoning", "text": "Hm."},
    text("one"),
    {"type": "of tomorrow", "text": 1},
    text(" two"),
    USAGE,
    finish(),
]
CALL = [
    {"type": "tool_call", "name": "find", "id": "call_7"},
    {"type": "arguments", "text": '{"x":'},
    {"type": "arguments", "text": "1}"},
    finish("tool_calls"),
]


@asynccontextmanager
async def running(server: ChatServer, **config: Any) -> AsyncIterator[Sidecar]:
    async with serving(server) as port, app_for(port, **config) as sidecar:
        yield sidecar


def split(items: list[dict[str, Any]]) -> list[Any]:
    """A response for each event, and a last one with the final flag alone."""
    return [*(events(item, final=False) for item in items), events(final=True)]


def server_of(kind: str, items: list[dict[str, Any]]) -> ChatServer:
    if kind == "own":
        model = ChatModel(script=[events(*items)], parameters={"tasks": "chat"})
        return ChatServer("anyserve", is_own=True, m=model)
    if kind == "decoupled":
        return ChatServer(m=ChatModel(decoupled=True, script=split(items)))
    lacks = ["ModelStreamInfer"] if kind == "mlserver" else []
    return ChatServer("mlserver" if lacks else "triton", lacks=lacks, m=ChatModel(script=[events(*items)]))


ALL_KINDS = ("own", "decoupled", "triton", "mlserver")
