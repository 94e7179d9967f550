"""The only file that calls gRPC: KServe v2 with deadlines, cancellation, and errors as BackendError.

`channel.py` opens the channels; `pool.py` is for several servers.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, TypeVar

import grpc
from grpc import aio

from openai_server.backends.channel import Dialer
from openai_server.backends.dialects.anyserve.decode import StreamReader, stream_error
from openai_server.backends.mailbox import Cancel, Mailbox
from openai_server.backends.outages import Outages
from openai_server.backends.shared_stream import SharedStream, StreamLost, unnumbered
from openai_server.core import request_context
from openai_server.core.answer import Answer
from openai_server.core.errors import BackendError
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

MAX_SHARED_BYTES = 1 << 20
"""Bytes of a request on the shared stream. One that the backend finds too large ends the stream for all."""
READY_INTERVAL = 1.0
"""Seconds between questions to a server that is not ready."""
NO_TIMEOUT = 3600.0
"""Seconds that the last calls of a channel get that is replaced, if they have no other limit."""
_PLAIN = Dialer()
Read = Callable[[ModelInferResponse, int], Answer]
"""A dialect's `answer`."""
T = TypeVar("T")


class Backend:
    """One KServe v2 server, on one channel. Made in the event loop that uses it.

    `timeout` bounds an inference call, `lookup_timeout` every other one; both in seconds, None is no bound. `name` is
    the host, where `target` is one of its addresses.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout: float | None,
        lookup_timeout: float,
        dialer: Dialer = _PLAIN,
        name: str = "",
    ) -> None:
        self.target = target
        self.usable = False
        """Connected, and ready when it was asked last."""
        self._outages = Outages(
            log, f"can't reach the backend {target}", f"connected to the backend {target}", time.monotonic
        )
        self._timeout = timeout
        self._lookup_timeout = lookup_timeout
        self._dial = partial(dialer.open, target, name)
        self._frequent_pings = False
        """The channel pings as often as the server permits."""
        self._use(self._dial())
        self._learning = asyncio.Lock()
        self._extensions: frozenset[str] | None = None
        """None is unknown; kept as long as the connection."""
        self._shared: SharedStream | None = None
        self._n_unary = 0
        self._tasks: set[asyncio.Task[None]] = set()
        """Tasks of streams that are not shared, and of those that are not yet."""
        self._on_ready: Callable[[], None] = lambda: None
        self._check: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def _use(self, channel: aio.Channel) -> None:
        self._channel = channel
        self._stub = GRPCInferenceServiceStub(channel)

    @property
    def connected(self) -> bool:
        return self._channel.get_state() is grpc.ChannelConnectivity.READY

    @property
    def n_running(self) -> int:
        """Inference calls."""
        return self._n_unary + len(self._tasks) + (self._shared.n_requests if self._shared else 0)

    async def close(self, grace: float | None = None) -> None:
        """Running calls get so many seconds."""
        for task in (self._check, *self._closing):
            if task is not None:
                task.cancel()
        if self._shared is not None:
            if grace:
                self._shared.retire()
            else:
                await self._shared.close()
        await self._channel.close(grace)

    # ---- The connection

    async def watch(self, ready: Callable[[], None], lost: Callable[[], None]) -> None:
        """Keeps the channel connected. Calls `ready` whenever it has become usable, and `lost` whenever the connection
        is lost. Runs until cancelled."""
        self._on_ready = ready
        while True:
            state = self._channel.get_state(try_to_connect=True)
            if state is not grpc.ChannelConnectivity.READY:
                if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE and (reason := await self._failure()):
                    self._outages.lost(reason)
                await self._channel.wait_for_state_change(state)
                continue
            if await self._suit_pings():
                continue
            self._outages.back()
            self.recheck_readiness()
            await self._channel.wait_for_state_change(state)
            self.usable, self._extensions = False, None
            lost()
            self._outages.lost(await self._failure() or "the connection was closed")

    async def _failure(self) -> str:
        """Why the server can't be reached; empty: it can, or nobody would read it. A channel itself doesn't say why."""
        if self._outages.would_log:
            try:
                await self._lookup(self._stub.ServerReady, ServerReadyRequest())
            except BackendError as error:
                return error.message if error.status == "UNAVAILABLE" else ""
        return ""

    def recheck_readiness(self) -> None:
        """It is not usable until it has said that it is ready."""
        self.usable = False
        if self._check is None or self._check.done():
            self._check = asyncio.create_task(self._until_ready())

    async def _until_ready(self) -> None:
        failure = ""
        while self._channel.get_state() is grpc.ChannelConnectivity.READY:
            if failure:  # and the connection is still there, so `watch` has no reason of its own
                self._outages.lost(failure)
            try:
                self.usable, failure = (await self._lookup(self._stub.ServerReady, ServerReadyRequest())).ready, ""
            except BackendError as error:
                self.usable, failure = error.status == "UNIMPLEMENTED", error.message
            if self.usable:
                self._outages.back()
                self._on_ready()
                return
            await asyncio.sleep(READY_INTERVAL)

    async def _suit_pings(self) -> bool:
        """Whether there is a new channel, with pings as the server permits them: it has to say so first."""
        with suppress(BackendError):
            await self._learn()
        frequent_pings = contract.EXTENSION_PINGS in (self._extensions or ())
        if self._extensions is None or frequent_pings == self._frequent_pings:
            return False
        if self._shared is not None:
            self._shared.retire()
        closing = asyncio.create_task(self._channel.close(self._timeout or NO_TIMEOUT))  # once its calls have ended
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        self._frequent_pings = frequent_pings
        self._use(self._dial(frequent_pings=frequent_pings))
        return True

    async def _learn(self) -> None:
        """What the server offers. Raises BackendError."""
        async with self._learning:
            if self._shared is not None and self._shared.retired:
                self._shared = self._extensions = None  # another kind of server may have taken its place
            if self._extensions is None:
                try:
                    metadata = await self._lookup(self._stub.ServerMetadata, ServerMetadataRequest())
                    self._extensions = frozenset(metadata.extensions)
                except BackendError as error:
                    if error.status != "UNIMPLEMENTED":
                        raise
                    self._extensions = frozenset()

    # ---- What there is. Each raises BackendError.

    async def ready(self, model: str) -> bool:
        if not (await self._lookup(self._stub.ServerReady, ServerReadyRequest())).ready:
            return False
        return (await self._lookup(self._stub.ModelReady, ModelReadyRequest(name=model))).ready

    async def models(self) -> list[str]:
        """Names of the models that are ready, in the backend's order."""
        index = await self._lookup(self._stub.RepositoryIndex, RepositoryIndexRequest(ready=True))
        # A name is listed once for each version; a server that knows no states lists only what is ready.
        return list(dict.fromkeys(model.name for model in index.models if model.state in ("READY", "")))

    async def inputs(self, model: str) -> frozenset[str]:
        """Names of the tensors that the model takes; empty if the backend does not tell."""
        metadata = await self._lookup(self._stub.ModelMetadata, ModelMetadataRequest(name=model))
        return frozenset(tensor.name for tensor in metadata.inputs)

    async def parameters(self, model: str) -> dict[str, str]:
        """Those of contract.CONFIG_PARAMETERS that the backend tells."""
        answer = await self._lookup(self._stub.ModelConfig, ModelConfigRequest(name=model))
        told = answer.config.parameters
        return {name: told[name].string_value for name in contract.CONFIG_PARAMETERS if name in told}

    async def _lookup(self, call: Callable[..., Awaitable[T]], request: object) -> T:
        """A server that does not answer a question is away."""
        try:
            return await _result(call, request, timeout=self._lookup_timeout)
        except BackendError as error:
            if error.status != "DEADLINE_EXCEEDED":
                raise
            raise BackendError("UNAVAILABLE", error.message) from None

    # ---- Inference. Cancelling the caller cancels the call, at once.

    async def answer(self, request: ModelInferRequest, n: int, read: Read) -> Answer:
        """The whole answer to a generation of `n` choices; `read` is the dialect's, for that of a call.

        Raises BackendError.
        """
        if self._rides(request):
            _name_caller(request)
            try:
                return await self._sharing().answer(request, n)
            except StreamLost:  # a call finds out why
                unnumbered(request)
        return read(await self.infer(request), n)

    async def infer(self, request: ModelInferRequest) -> ModelInferResponse:
        """A call. Raises BackendError."""
        _name_caller(request)
        self._n_unary += 1
        try:
            headers = aio.Metadata(*request_context.current().headers)  # gRPC would convert a list more slowly
            return await _result(self._stub.ModelInfer, request, timeout=self._timeout, metadata=headers)
        finally:
            self._n_unary -= 1

    def start(self, request: ModelInferRequest, n: int, k: int, mailbox: Mailbox) -> Cancel:
        """Sends the request for `n` choices; what comes for it goes to prompt k of the mailbox."""
        _name_caller(request)
        if self._extensions is not None and not (self._shared and self._shared.retired):
            return self._start(request, n, k, mailbox)
        cancel: Cancel | None = None

        async def learn_first() -> None:
            nonlocal cancel
            try:
                await self._learn()
                cancel = self._start(request, n, k, mailbox)
            except BackendError as error:
                mailbox.fail(k, error)

        learning = self._task(learn_first())
        return lambda: cancel() if cancel else learning.cancel()

    def _start(self, request: ModelInferRequest, n: int, k: int, mailbox: Mailbox) -> Cancel:
        if contract.EXTENSION_STEP_BATCHES in (self._extensions or ()) and _may_share(request):
            return self._sharing().start(request, n, k, mailbox)
        return self._task(self._stream_alone(request, n, k, mailbox)).cancel

    def _rides(self, request: ModelInferRequest) -> bool:
        """Whether the shared stream takes the request: a call, with its set-up, costs more than rows of a batch."""
        if contract.EXTENSION_WHOLE_ANSWERS not in (self._extensions or ()):
            return False
        shared = self._shared
        if shared is None:
            self._sharing()  # for those that come after this one
            return False
        return not shared.retired and _may_share(request)

    def _sharing(self) -> SharedStream:
        if self._shared is None or self._shared.retired:
            takes_bundles = contract.EXTENSION_BUNDLES in (self._extensions or ())
            self._shared = SharedStream(self._open, timeout=self._timeout, takes_bundles=takes_bundles)
        return self._shared

    def _task(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _open(
        self, requests: AsyncIterator[ModelInferRequest], timeout: float | None = None
    ) -> AsyncGenerator[ModelStreamInferResponse, None]:
        call = None
        try:
            call = self._stub.ModelStreamInfer(requests, timeout=timeout, metadata=request_context.current().headers)
            async for response in call:
                yield response
        except _FAILURES as error:
            raise _failure(error) from None
        finally:
            if call is not None:
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
                    mailbox.deliver()
            reader.end()
        except BackendError as error:
            mailbox.fail(k, error)
        except Exception:
            log.exception("request '%s' failed", request.id)
            mailbox.fail(k, BackendError("INTERNAL", "internal error"))
        else:
            mailbox.end(k, reader.usage)


def _name_caller(request: ModelInferRequest) -> None:
    if caller := request_context.current().caller:
        request.parameters[contract.PARAM_CALLER].string_param = caller


def _may_share(request: ModelInferRequest) -> bool:
    """Step batches have no place for log probabilities."""
    return request.ByteSize() <= MAX_SHARED_BYTES and not any(
        tensor.name == contract.LOGPROBS.name for tensor in request.inputs
    )


async def _only(request: ModelInferRequest) -> AsyncIterator[ModelInferRequest]:
    yield request


async def _result(call: Callable[..., Awaitable[T]], request: object, **how: Any) -> T:
    try:
        return await call(request, **how)
    except _FAILURES as error:
        raise _failure(error) from None


_FAILURES = (aio.AioRpcError, aio.UsageError, asyncio.CancelledError)


def _failure(error: BaseException) -> BaseException:
    """A channel that is closed by us cancels its calls, and can't be used for others: then another one has taken its
    place, and nobody has cancelled the task."""
    if isinstance(error, aio.AioRpcError):
        return _rpc_error(error)
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
        return error
    return BackendError("UNAVAILABLE", "the connection to the backend was closed")


_RESET = "Received RST_STREAM"
"""gRPC's message for a call that the other side, or a proxy, dropped without a status of its own, as when it ends."""


def _rpc_error(error: aio.AioRpcError) -> BackendError:
    details = {
        key: value if isinstance(value, str) else value.decode(errors="replace")
        for key, value in error.trailing_metadata() or ()
    }
    status, message = error.code().name, error.details() or ""
    if status == "INTERNAL" and message.startswith(_RESET):
        status = "UNAVAILABLE"
    return BackendError(status, message, details)
