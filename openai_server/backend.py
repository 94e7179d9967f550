"""The only file that speaks gRPC: KServe v2 calls with deadlines, cancellation, and errors as BackendError."""

import asyncio
import ipaddress
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar

import grpc
from grpc import aio

from openai_server.decode import StreamReader
from openai_server.errors import BackendError, stream_error
from openai_server.mailbox import Cancel, Mailbox
from openai_server.multiplex import SharedStream
from openai_server.telemetry import record
from protos import contract
from protos.grpc_predict_v2_pb2 import (
    ModelConfigRequest,
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelReadyRequest,
    ModelStreamInferResponse,
    RepositoryIndexRequest,
    ServerMetadataRequest,
    ServerReadyRequest,
)
from protos.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 64 << 20
MAX_SHARED_BYTES = 1 << 20
"""Of a request on the shared stream. One that the backend finds too large ends its stream, and others would wait."""
T = TypeVar("T")


def channel_options(target: str) -> list[tuple[str, int]]:
    options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        # A worker that comes back is found within a second or so.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", 1000),
        # A peer that vanished is noticed while a call waits for it. Not more often: servers that were told nothing
        # about pings take them for an attack, and by themselves worker and sidecar are on one host.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
    if is_loopback(target):
        options.append(("grpc.enable_http_proxy", 0))
    return options


def is_loopback(target: str) -> bool:
    host = target.removeprefix("dns:").removeprefix("///").rsplit(":", 1)[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or target.startswith(("unix:", "unix-abstract:"))


class Backend:
    """One channel to one KServe v2 server. Made in the event loop that uses it.

    `timeout` bounds an inference call, `lookup_timeout` every other one; both in seconds, None is no bound.
    """

    def __init__(self, target: str, *, timeout: float | None, lookup_timeout: float) -> None:
        self.target = target
        self._timeout = timeout
        self._lookup_timeout = lookup_timeout
        self._channel = aio.insecure_channel(target, options=channel_options(target))
        self._stub = GRPCInferenceServiceStub(self._channel)
        self._opening = asyncio.Lock()
        self._offers_step_batches: bool | None = None
        """None is unknown; kept as long as the connection."""
        self._shared: SharedStream | None = None

    async def close(self) -> None:
        if self._shared is not None:
            await self._shared.close()
        await self._channel.close()

    async def watch(self, lost: Callable[[], None]) -> None:
        """Keeps the channel connected, and calls `lost` whenever it stops being so. Runs until cancelled."""
        state = self._channel.get_state(try_to_connect=True)
        while True:
            await self._channel.wait_for_state_change(state)
            if state is grpc.ChannelConnectivity.READY:
                log.warning("lost the backend %s", self.target)
                self._offers_step_batches = None
                lost()
            state = self._channel.get_state(try_to_connect=True)
            if state is grpc.ChannelConnectivity.READY:
                log.info("connected to the backend %s", self.target)

    # ---- What there is. Each raises BackendError.

    async def ready(self, model: str) -> bool:
        server = await _result(self._stub.ServerReady(ServerReadyRequest(), timeout=self._lookup_timeout))
        if not server.ready:
            return False
        return (await _result(self._stub.ModelReady(ModelReadyRequest(name=model), timeout=self._lookup_timeout))).ready

    async def models(self) -> list[str]:
        """Names of the models that are ready, in the backend's order."""
        index = await _result(
            self._stub.RepositoryIndex(RepositoryIndexRequest(ready=True), timeout=self._lookup_timeout)
        )
        # A name is listed once for each version; a server that knows no states lists only what is ready.
        return list(dict.fromkeys(model.name for model in index.models if model.state in ("READY", "")))

    async def inputs(self, model: str) -> frozenset[str]:
        """Names of the tensors that the model takes; empty if the backend does not tell."""
        metadata = await _result(
            self._stub.ModelMetadata(ModelMetadataRequest(name=model), timeout=self._lookup_timeout)
        )
        return frozenset(tensor.name for tensor in metadata.inputs)

    async def parameters(self, model: str) -> dict[str, str]:
        """Those of contract.CONFIG_PARAMETERS that the backend tells."""
        answer = await _result(self._stub.ModelConfig(ModelConfigRequest(name=model), timeout=self._lookup_timeout))
        told = answer.config.parameters
        return {name: told[name].string_value for name in contract.CONFIG_PARAMETERS if name in told}

    # ---- Inference. Cancelling the caller cancels the call, at once.

    async def infer(self, request: ModelInferRequest) -> ModelInferResponse:
        """Raises BackendError."""
        return await _result(self._stub.ModelInfer(request, timeout=self._timeout, metadata=record.current().headers))

    @asynccontextmanager
    async def stream(self, requests: Sequence[ModelInferRequest], n: int, patience: float) -> AsyncIterator[Mailbox]:
        """The answers to these requests, each for `n` choices, as they grow. Leaving cancels what still runs."""
        shared = await self._shared_stream()

        def start(k: int, mailbox: Mailbox) -> Cancel:
            if shared is not None and _may_share(requests[k]):
                return shared.start(requests[k], n, k, mailbox)
            task = asyncio.create_task(self._stream_alone(requests[k], n, k, mailbox))
            return task.cancel

        mailbox = Mailbox(len(requests), start, patience=patience)
        try:
            yield mailbox
        finally:
            mailbox.close()

    async def _shared_stream(self) -> SharedStream | None:
        """The stream for all requests, or None if the backend takes only one a stream."""
        async with self._opening:
            if self._shared is not None and self._shared.retired:
                self._shared = self._offers_step_batches = None
            if self._offers_step_batches is None:
                self._offers_step_batches = await self._ask_for_step_batches()
            if self._offers_step_batches and self._shared is None:
                self._shared = SharedStream(self._open, timeout=self._timeout)
        return self._shared

    async def _ask_for_step_batches(self) -> bool | None:
        """None if nobody answers, which the request itself will notice too."""
        try:
            metadata = await _result(self._stub.ServerMetadata(ServerMetadataRequest(), timeout=self._lookup_timeout))
        except BackendError as error:
            return False if error.status == "UNIMPLEMENTED" else None
        return contract.EXTENSION_STEP_BATCHES in metadata.extensions

    async def _open(
        self, requests: AsyncIterator[ModelInferRequest], timeout: float | None = None
    ) -> AsyncGenerator[ModelStreamInferResponse, None]:
        call = self._stub.ModelStreamInfer(requests, timeout=timeout, metadata=record.current().headers)
        try:
            async for response in call:
                yield response
        except aio.AioRpcError as error:
            raise _rpc_error(error) from None
        finally:
            call.cancel()

    async def _stream_alone(self, request: ModelInferRequest, n: int, k: int, mailbox: Mailbox) -> None:
        """A stream for one request."""
        reader = StreamReader(n)
        try:
            async with aclosing(self._open(_only(request), self._timeout)) as responses:
                async for response in responses:
                    if response.error_message:
                        raise stream_error(response)
                    for index, token, reason, logprobs in reader.read(response.infer_response):
                        mailbox.put(k * n + index, token, reason, logprobs)
            reader.end()
        except BackendError as error:
            mailbox.fail(k, error)
        except Exception:
            log.exception("request '%s' failed", request.id)
            mailbox.fail(k, BackendError("INTERNAL", "internal error"))
        else:
            mailbox.end(k, reader.usage)


def _may_share(request: ModelInferRequest) -> bool:
    """Step batches have no place for log probabilities."""
    return request.ByteSize() <= MAX_SHARED_BYTES and not any(
        tensor.name == contract.LOGPROBS.name for tensor in request.inputs
    )


async def _only(request: ModelInferRequest) -> AsyncIterator[ModelInferRequest]:
    yield request


async def _result(call: Awaitable[T]) -> T:
    try:
        return await call
    except aio.AioRpcError as error:
        raise _rpc_error(error) from None


def _rpc_error(error: aio.AioRpcError) -> BackendError:
    said = {
        key: value if isinstance(value, str) else value.decode(errors="replace")
        for key, value in error.trailing_metadata() or ()
    }
    return BackendError(
        error.code().name,
        error.details() or "",
        reason=said.get(contract.ERROR_REASON, ""),
        tensor=said.get(contract.ERROR_TENSOR, ""),
    )
