"""A KServe v2 server that follows a script, over real gRPC: the backend in the sidecar's tests."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc import aio

from protos import contract, tensors
from protos.contract import TensorSpec
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

SPECS = {spec.name: spec for spec in contract.INPUTS}
ALL_INPUTS = tuple(SPECS)
Context = aio.ServicerContext[Any, Any]


class Refusal(Exception):
    """Raised by a script: the request fails as the contract specifies. Without a status, only a message is sent.

    `details` are further details of the contract, by name.
    """

    def __init__(self, status: str, message: str, *, reason: str = "", tensor: str = "", **details: str) -> None:
        super().__init__(message)
        self.status, self.message, self.reason, self.tensor = status, message, reason, tensor
        self.details = details

    def facts(self) -> dict[str, str]:
        return {contract.ERROR_REASON: self.reason, contract.ERROR_TENSOR: self.tensor, **self.details}


Infer = Callable[[ModelInferRequest], Awaitable[ModelInferResponse]]
Responses = asyncio.Queue[ModelStreamInferResponse | None]
Stream = Callable[[ModelInferRequest], AsyncIterator[ModelInferResponse]]


# ---- Scripts


def inputs_of(request: ModelInferRequest) -> dict[str, list[Any]]:
    """Returns the elements of a request's tensors, by name."""
    return {name: list(tensor.elements) for name, tensor in tensors.read_inputs(request).items()}


def message(*outputs: tuple[TensorSpec, Sequence[Any]], raw: bool = False, final: bool = False) -> ModelInferResponse:
    response = ModelInferResponse()
    for spec, elements in outputs:
        tensors.add_output(response, spec, elements, raw=raw)
    if final:
        response.parameters[contract.PARAM_FINAL].bool_param = True
    return response


def whole(*texts: str, reason: str = "stop", prompt: int = 3, cached: int = 1) -> ModelInferResponse:
    return message(
        (contract.TEXT, [text.encode() for text in texts]),
        (contract.FINISH_REASON, [reason.encode()] * len(texts)),
        (contract.PROMPT_TOKENS, [prompt]),
        (contract.CACHED_TOKENS, [cached]),
        (contract.COMPLETION_TOKENS, [2] * len(texts)),
    )


def token(text: str, index: int = 0) -> ModelInferResponse:
    return message((contract.TOKEN, [text.encode()]), (contract.INDEX, [index]), (contract.FINISH_REASON, [b"null"]))


def first_token(text: str, index: int = 0) -> ModelInferResponse:
    """With the counts of the prompt, as the bundled worker sends them."""
    return message(
        (contract.TOKEN, [text.encode()]),
        (contract.INDEX, [index]),
        (contract.FINISH_REASON, [b"null"]),
        (contract.PROMPT_TOKENS, [3]),
        (contract.CACHED_TOKENS, [1]),
    )


def last_token(text: str = "", index: int = 0, *, reason: str = "stop", final: bool = True) -> ModelInferResponse:
    return message(
        (contract.TOKEN, [text.encode()]),
        (contract.INDEX, [index]),
        (contract.FINISH_REASON, [reason.encode()]),
        (contract.PROMPT_TOKENS, [3]),
        (contract.CACHED_TOKENS, [1]),
        (contract.COMPLETION_TOKENS, [2]),
        final=final,
    )


def as_step_batch(response: ModelInferResponse, number: int) -> ModelInferResponse:
    """Converts one request's response, which must contain every column of a step batch."""
    columns = {name: list(tensor.elements) for name, tensor in tensors.read_outputs(response).items()}
    k = len(columns["token"])
    rows: list[tuple[TensorSpec, Sequence[Any]]] = [
        (contract.REQUEST, [number] * k),
        (contract.ROW_TOKEN, columns["token"]),
        (contract.ROW_INDEX, columns["index"]),
    ]
    has_end = any(reason != contract.NOT_FINISHED.encode() for reason in columns["finish_reason"])
    if has_end:
        rows.append((contract.ROW_FINISH_REASON, columns["finish_reason"]))
    if "prompt_tokens" in columns:
        rows += [
            (contract.ROW_PROMPT_TOKENS, columns["prompt_tokens"] * k),
            (contract.ROW_CACHED_TOKENS, columns.get("cached_tokens", [0]) * k),
        ]
    if has_end:
        rows.append((contract.ROW_COMPLETION_TOKENS, columns["completion_tokens"]))
    return message(*rows)


def _number(request: ModelInferRequest, parameter: str) -> int | None:
    return request.parameters[parameter].int64_param if parameter in request.parameters else None


def answers(*responses: ModelInferResponse) -> Infer:
    """Returns a script that sends one response for each call, and the last one for all further calls."""
    remaining = list(responses)

    async def infer(_: ModelInferRequest) -> ModelInferResponse:
        return remaining.pop(0) if len(remaining) > 1 else remaining[0]

    return infer


def streams(*responses: ModelInferResponse, fails: Refusal | None = None) -> Stream:
    async def stream(_: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        for response in responses:
            yield response
        if fails is not None:
            raise fails

    return stream


def refuses(refusal: Refusal) -> Infer:
    async def infer(_: ModelInferRequest) -> ModelInferResponse:
        raise refusal

    return infer


async def echo(request: ModelInferRequest) -> ModelInferResponse:
    """Responds with the prompt, once for each choice."""
    inputs = inputs_of(request)
    prompt = inputs["prompt"][0].decode() if "prompt" in inputs else str(inputs["prompt_token_ids"])

    return whole(*[prompt] * inputs.get("n", [1])[0])


async def echo_stream(request: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
    inputs = inputs_of(request)
    for index in range(inputs.get("n", [1])[0]):
        for part in inputs["prompt"][0].decode().split():
            yield token(part, index)
        yield last_token(index=index)


async def hangs(_: ModelInferRequest) -> ModelInferResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def hangs_midway(_: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
    yield token("one")
    await asyncio.Event().wait()


# ---- The server


PROMPT_TASKS = {
    name: task for name, task in contract.TASKS.items() if name not in (contract.TASK_CHAT, contract.TASK_RESPONSES)
}
"""Tasks of a model with prompts. One that lists the others gets chats instead."""


class FakeWorker(GRPCInferenceServiceServicer):
    """A scripted backend. `models` None: it has no RepositoryIndex. `unimplemented` names further calls that it
    lacks. `foreign`: it reports no extension of the contract."""

    STEP_BATCHES = False
    """Whether workers offer step batches if their test doesn't set it; the fixture `both_kinds_of_stream` does."""

    def __init__(
        self,
        infer: Infer = echo,
        stream: Stream = echo_stream,
        *,
        models: Iterable[str] | None = ("tiny",),
        inputs: Iterable[str] = ALL_INPUTS,
        parameters: Mapping[str, str] | None = None,
        unimplemented: Iterable[str] = (),
        ready: bool = True,
        step_batches: bool | None = None,
        load: Sequence[int] | None = None,
        foreign: bool = False,
    ) -> None:
        self.foreign = foreign
        self.step_batches = self.STEP_BATCHES if step_batches is None else step_batches
        self.load = load
        """Values of contract.LOAD_OUTPUTS; None: it doesn't report its load."""
        self.n_load_requests = 0
        self.n_streams = 0
        self.models = None if models is None else tuple(models)
        self.inputs = tuple(inputs)
        self.parameters = dict(parameters or {})
        self.unimplemented = frozenset(unimplemented)
        self.ready = ready
        self.requests: list[ModelInferRequest] = []
        self.metadata: list[list[tuple[str, str | bytes]]] = []
        """The metadata of each inference call."""
        self.lookups: list[str] = []
        """Names of the calls that requested the list of models, a model's metadata or its config."""
        self.held: dict[str, asyncio.Event] = {}
        """Calls by name, or by name and model (`ModelConfig tiny`), that are not answered until their event is set."""
        self.failing: set[str] = set()
        """Calls that fail with UNAVAILABLE."""
        self.unready: set[str] = set()
        """Models that are listed, but that ModelReady reports as not ready."""
        self.looked_up: asyncio.Queue[str] = asyncio.Queue()
        """The same names as in `lookups`, as the calls arrive."""
        self.arrived: asyncio.Queue[str] = asyncio.Queue()
        """Ids of requests, as they arrive."""
        self.cancelled: asyncio.Queue[str] = asyncio.Queue()
        """Ids of requests that the client cancelled."""
        self._infer = infer
        self._stream = stream

    async def ServerLive(self, request: ServerLiveRequest, context: Context) -> ServerLiveResponse:
        return ServerLiveResponse(live=True)

    async def ServerMetadata(self, request: ServerMetadataRequest, context: Context) -> ServerMetadataResponse:
        await self._check("ServerMetadata", "", context)
        # Without step batches, support for bundles marks it as a server of the contract, and changes nothing else.
        extensions = [contract.EXTENSION_STEP_BATCHES if self.step_batches else contract.EXTENSION_BUNDLES]
        if self.load is not None:
            extensions.append(contract.EXTENSION_LOAD)
        return ServerMetadataResponse(name="fake", extensions=[] if self.foreign else extensions)

    async def ModelStatistics(self, request: ModelStatisticsRequest, context: Context) -> ModelStatisticsResponse:
        return ModelStatisticsResponse()

    async def ServerReady(self, request: ServerReadyRequest, context: Context) -> ServerReadyResponse:
        return ServerReadyResponse(ready=self.ready)

    async def ModelReady(self, request: ModelReadyRequest, context: Context) -> ModelReadyResponse:
        known = request.name in (self.models or ()) and request.name not in self.unready
        return ModelReadyResponse(ready=self.ready and known)

    async def RepositoryIndex(self, request: RepositoryIndexRequest, context: Context) -> RepositoryIndexResponse:
        await self._check("RepositoryIndex", "", context)
        if self.models is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no index here")
        index = RepositoryIndexResponse()
        for name in self.models or ():
            index.models.add(name=name, version="1", state="READY")
        index.models.add(name="broken", version="1", state="UNAVAILABLE")
        return index

    async def ModelMetadata(self, request: ModelMetadataRequest, context: Context) -> ModelMetadataResponse:
        await self._check("ModelMetadata", request.name, context)
        metadata = ModelMetadataResponse(name=request.name)
        for name in self.inputs:
            spec = SPECS.get(name)
            metadata.inputs.add(name=name, datatype=spec.datatype if spec else "BYTES", shape=[1])
        return metadata

    async def ModelConfig(self, request: ModelConfigRequest, context: Context) -> ModelConfigResponse:
        await self._check("ModelConfig", request.name, context)
        response = ModelConfigResponse()
        for name, value in self.parameters.items():
            response.config.parameters[name].string_value = value
        return response

    async def ModelInfer(self, request: ModelInferRequest, context: Context) -> ModelInferResponse:
        if self.load is not None and request.model_name == contract.ANYSERVE_MODEL_INFO:
            self.n_load_requests += 1
            await self._check("model_info", "", context)
            return message(*((spec, [n]) for spec, n in zip(contract.LOAD_OUTPUTS, self.load, strict=True)))
        self._record(request)
        self.metadata.append(list(context.invocation_metadata() or ()))
        try:
            await self._check("ModelInfer", request.model_name, context)
            return await self._infer(request)
        except Refusal as refusal:
            await context.abort(
                grpc.StatusCode[refusal.status],
                refusal.message,
                trailing_metadata=tuple((key, value) for key, value in refusal.facts().items() if value),
            )
        except asyncio.CancelledError:
            self.cancelled.put_nowait(request.id)
            raise

    async def ModelStreamInfer(
        self, request_iterator: AsyncIterator[ModelInferRequest], context: Context
    ) -> AsyncIterator[ModelStreamInferResponse]:
        responses: Responses = asyncio.Queue()
        self.n_streams += 1
        self.metadata.append(list(context.invocation_metadata() or ()))

        async def read_requests() -> None:
            numbered: dict[int, asyncio.Task[None]] = {}
            async with asyncio.TaskGroup() as tasks:
                async for request in request_iterator:
                    if (cancelled := _number(request, contract.PARAM_CANCEL)) is not None:
                        numbered[cancelled].cancel()
                        continue
                    number = _number(request, contract.PARAM_REQUEST)
                    assert (number is not None) == self.step_batches
                    self._record(request)
                    task = tasks.create_task(self._answer(request, number, responses))
                    if number is not None:
                        numbered[number] = task
            responses.put_nowait(None)

        reader = asyncio.create_task(read_requests())
        try:
            while (response := await responses.get()) is not None:
                yield response
        finally:
            reader.cancel()

    async def _answer(
        self,
        request: ModelInferRequest,
        number: int | None,
        responses: "asyncio.Queue[ModelStreamInferResponse | None]",
    ) -> None:
        try:
            async for response in self._stream(request):
                converted = response if number is None else as_step_batch(response, number)
                responses.put_nowait(ModelStreamInferResponse(infer_response=converted))
        except Refusal as refusal:
            failed = ModelStreamInferResponse(error_message=refusal.message)
            for key, value in {contract.ERROR_STATUS: refusal.status, **refusal.facts()}.items():
                if value:
                    failed.infer_response.parameters[key].string_param = value
            if number is not None:
                failed.infer_response.parameters[contract.PARAM_REQUEST].int64_param = number
            responses.put_nowait(failed)
        except asyncio.CancelledError:
            self.cancelled.put_nowait(request.id)
            raise

    def _record(self, request: ModelInferRequest) -> None:
        self.requests.append(request)
        self.arrived.put_nowait(request.id)

    async def _check(self, call: str, model: str, context: Context) -> None:
        if call not in ("ModelInfer", "model_info"):
            self.lookups.append(call)
            self.looked_up.put_nowait(call)
        for key in (call, f"{call} {model}"):
            if key in self.held:
                await self.held[key].wait()
        if call in self.failing:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"no {call} now")
        if call in self.unimplemented:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"no {call} here")
        if model and self.models is not None and model not in self.models:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no model '{model}'")


@asynccontextmanager
async def serving(worker: FakeWorker, port: int = 0) -> AsyncIterator[int]:
    """Serves the worker on 127.0.0.1 and yields the port. All calls end on exit."""
    server = aio.server()
    add_GRPCInferenceServiceServicer_to_server(worker, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)
