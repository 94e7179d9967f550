"""Calls one backend over gRPC (KServe v2), with deadlines, cancellation, and errors as BackendError.

No other module makes gRPC calls. `channel.py` opens the channels, `pool.py` manages several backends.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from grpc import aio

from openai_server.backends import channel
from openai_server.backends.channel import Dialer
from openai_server.backends.dialects.anyserve.decode import StreamReader, stream_error
from openai_server.backends.failures import FAILURES, failure_of, request_too_large
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
"""Maximum size of a request on the shared stream. A message that is too large for the backend ends the whole stream."""
READY_INTERVAL = 1.0
"""Seconds between readiness checks of a server that is not ready."""
NO_TIMEOUT = 3600.0
"""Seconds after which the calls on a replaced channel are cancelled, if calls have no time limit."""
_PLAIN = Dialer()
Read = Callable[[ModelInferResponse, int], Answer]
"""Reads a response; a dialect's `answer`."""
T = TypeVar("T")


class Backend:
    """One KServe v2 server, on one channel. Must be created in the event loop that uses it.

    `timeout` limits an inference call, `lookup_timeout` every other call; both in seconds, None is no limit. `name` is
    the host if `target` is one of its addresses.
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
        """Whether it is connected, and was ready at the last check."""
        self._outages = Outages(
            log, f"can't reach the backend {target}", f"connected to the backend {target}", time.monotonic
        )
        self._timeout = timeout
        self._lookup_timeout = lookup_timeout
        self._dial = partial(dialer.open, target, name)
        self._frequent_pings = False
        """Whether the channel sends keepalive pings at the interval of --keepalive-time, which needs the server's
        permission."""
        self._use(self._dial())
        self._extensions_lock = asyncio.Lock()
        self._extensions: frozenset[str] | None = None
        """Extensions of the server on the current connection; None is unknown."""
        self._shared: SharedStream | None = None
        self._n_unary = 0
        self._tasks: set[asyncio.Task[None]] = set()
        """Tasks of streams with one request, and of requests that wait for the server's extensions."""
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
        """Number of inference calls and streamed requests in progress."""
        return self._n_unary + len(self._tasks) + (self._shared.n_requests if self._shared else 0)

    async def close(self, grace: float | None = None) -> None:
        """Closes the channel. Running calls may take `grace` seconds longer; None cancels them at once."""
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
        """Keeps the channel connected. Calls `ready` each time the server becomes usable, and `lost` each time the
        connection is lost. Runs until cancelled."""
        self._on_ready = ready
        while True:
            state = self._channel.get_state(try_to_connect=True)
            if state is not grpc.ChannelConnectivity.READY:
                if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE and (reason := await self._failure()):
                    self._outages.lost(reason)
                await self._channel.wait_for_state_change(state)
                continue
            if await self._adapt_pings():
                continue
            self._outages.back()
            self.recheck_readiness()
            await self._channel.wait_for_state_change(state)
            self.usable, self._extensions = False, None
            lost()
            self._outages.lost(await self._failure() or "the connection was closed")

    async def _failure(self) -> str:
        """The reason why the server can't be reached, from a call, since a channel doesn't report it. Empty if the
        server can be reached, or if the reason would not be logged."""
        if self._outages.would_log:
            try:
                await self._lookup(self._stub.ServerReady, ServerReadyRequest())
            except BackendError as error:
                return error.message if error.status == "UNAVAILABLE" else ""
        return ""

    def recheck_readiness(self) -> None:
        """Treats the server as not usable until it has reported that it is ready."""
        self.usable = False
        if self._check is None or self._check.done():
            self._check = asyncio.create_task(self._until_ready())

    async def _until_ready(self) -> None:
        failure = ""
        while self._channel.get_state() is grpc.ChannelConnectivity.READY:
            if failure:  # the connection is still open, so `watch` doesn't log it
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

    async def _adapt_pings(self) -> bool:
        """Replaces the channel if its pings are not as frequent as the server permits. Returns whether it did."""
        with suppress(BackendError):
            await self._look_up_extensions()
        frequent_pings = contract.EXTENSION_PINGS in (self._extensions or ())
        if self._extensions is None or frequent_pings == self._frequent_pings:
            return False
        if self._shared is not None:
            self._shared.retire()
        closing = asyncio.create_task(self._channel.close(self._timeout or NO_TIMEOUT))  # after its calls have ended
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        self._frequent_pings = frequent_pings
        self._use(self._dial(frequent_pings=frequent_pings))
        return True

    async def _look_up_extensions(self) -> None:
        """Sets `_extensions`. Raises BackendError."""
        async with self._extensions_lock:
            if self._shared is not None and self._shared.retired:
                self._shared = self._extensions = None  # another kind of server may have replaced the old one
            if self._extensions is None:
                try:
                    metadata = await self._lookup(self._stub.ServerMetadata, ServerMetadataRequest())
                    self._extensions = frozenset(metadata.extensions)
                except BackendError as error:
                    if error.status != "UNIMPLEMENTED":
                        raise
                    self._extensions = frozenset()

    # ---- Lookups. All raise BackendError.

    async def ready(self, model: str) -> bool:
        if not (await self._lookup(self._stub.ServerReady, ServerReadyRequest())).ready:
            return False
        return (await self._lookup(self._stub.ModelReady, ModelReadyRequest(name=model))).ready

    async def extensions(self) -> frozenset[str]:
        """Extensions of the server; empty if it doesn't report them."""
        await self._look_up_extensions()
        return self._extensions or frozenset()

    async def models(self) -> list[str]:
        """Names of the models that are ready, in the backend's order."""
        index = await self._lookup(self._stub.RepositoryIndex, RepositoryIndexRequest(ready=True))
        # A name is listed once for each version. A server without states lists only models that are ready.
        return list(dict.fromkeys(model.name for model in index.models if model.state in ("READY", "")))

    async def inputs(self, model: str) -> frozenset[str]:
        """Names of the model's input tensors; empty if the backend doesn't report them."""
        metadata = await self._lookup(self._stub.ModelMetadata, ModelMetadataRequest(name=model))
        return frozenset(tensor.name for tensor in metadata.inputs)

    async def parameters(self, model: str) -> dict[str, str]:
        """Values of contract.CONFIG_PARAMETERS, as far as the backend reports them."""
        answer = await self._lookup(self._stub.ModelConfig, ModelConfigRequest(name=model))
        reported = answer.config.parameters
        return {name: reported[name].string_value for name in contract.CONFIG_PARAMETERS if name in reported}

    async def _lookup(self, call: Callable[..., Awaitable[T]], request: Message) -> T:
        """The result of a lookup call. A timeout counts as UNAVAILABLE."""
        try:
            return await _result(call, request, timeout=self._lookup_timeout)
        except BackendError as error:
            if error.status != "DEADLINE_EXCEEDED":
                raise
            raise BackendError("UNAVAILABLE", error.message) from None

    # ---- Inference. Cancelling the caller cancels the call, at once.

    async def answer(self, request: ModelInferRequest, n: int, read: Read) -> Answer:
        """The whole answer to a generation of `n` choices. `read` is used only for the response to a unary call.

        Raises BackendError.
        """
        if self._goes_on_shared_stream(request):
            _set_caller(request)
            try:
                return await self._shared_stream().answer(request, n)
            except StreamLost:  # the unary call below returns the reason
                unnumbered(request)
        return read(await self.infer(request), n)

    async def infer(self, request: ModelInferRequest) -> ModelInferResponse:
        """Makes a unary call. Raises BackendError."""
        _set_caller(request)
        self._n_unary += 1
        try:
            headers = aio.Metadata(*request_context.current().headers)  # faster than gRPC's conversion of a list
            return await _result(self._stub.ModelInfer, request, timeout=self._timeout, metadata=headers)
        finally:
            self._n_unary -= 1

    def start(self, request: ModelInferRequest, n: int, k: int, mailbox: Mailbox) -> Cancel:
        """Sends the request for `n` choices. Its rows go into the mailbox, as those of prompt k."""
        _set_caller(request)
        if self._extensions is not None and not (self._shared and self._shared.retired):
            return self._start(request, n, k, mailbox)
        cancel: Cancel | None = None

        async def start_after_lookup() -> None:
            nonlocal cancel
            try:
                await self._look_up_extensions()
                cancel = self._start(request, n, k, mailbox)
            except BackendError as error:
                mailbox.fail(k, error)

        lookup = self._task(start_after_lookup())
        return lambda: cancel() if cancel else lookup.cancel()

    def _start(self, request: ModelInferRequest, n: int, k: int, mailbox: Mailbox) -> Cancel:
        if contract.EXTENSION_STEP_BATCHES in (self._extensions or ()) and _may_share(request):
            return self._shared_stream().start(request, n, k, mailbox)
        return self._task(self._stream_alone(request, n, k, mailbox)).cancel

    def _goes_on_shared_stream(self, request: ModelInferRequest) -> bool:
        """Whether to send the request on the shared stream, which costs less than a unary call and its set-up."""
        if contract.EXTENSION_WHOLE_ANSWERS not in (self._extensions or ()):
            return False
        shared = self._shared
        if shared is None:
            self._shared_stream()  # for the requests after this one
            return False
        return not shared.retired and _may_share(request)

    def _shared_stream(self) -> SharedStream:
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
        self,
        requests: AsyncIterator[ModelInferRequest],
        timeout: float | None = None,
        only: ModelInferRequest | None = None,
    ) -> AsyncGenerator[ModelStreamInferResponse, None]:
        """`only`: the request of a stream with a single one, for errors about its size."""
        call = None
        try:
            call = self._stub.ModelStreamInfer(requests, timeout=timeout, metadata=request_context.current().headers)
            async for response in call:
                yield response
        except FAILURES as error:
            raise failure_of(error, only) from None
        finally:
            if call is not None:
                call.cancel()

    async def _stream_alone(self, request: ModelInferRequest, n: int, k: int, mailbox: Mailbox) -> None:
        """A stream for one request."""
        reader, is_counted = StreamReader(n), False
        try:
            if (size := request.ByteSize()) > channel.MAX_MESSAGE_BYTES:  # gRPC would report it as INTERNAL
                raise request_too_large(size, channel.MAX_MESSAGE_BYTES)
            async with aclosing(self._open(_only(request), self._timeout, request)) as responses:
                async for response in responses:
                    if response.error_message:
                        raise stream_error(response)
                    rows = reader.read(response.infer_response)
                    if not is_counted and (counts := reader.prompt_usage):
                        is_counted = True
                        mailbox.begin(k, counts)
                    mailbox.timings = reader.timings
                    if progress := reader.take_progress():
                        mailbox.report(progress)
                    for index, token, reason, logprobs in rows:
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


def _set_caller(request: ModelInferRequest) -> None:
    if caller := request_context.current().caller:
        request.parameters[contract.PARAM_CALLER].string_param = caller


def _may_share(request: ModelInferRequest) -> bool:
    """Whether the shared stream can carry the request. Step batches can't hold all outputs."""
    return request.ByteSize() <= MAX_SHARED_BYTES and not any(tensor.name in _UNSHARED for tensor in request.inputs)


_UNSHARED = frozenset(spec.name for spec in contract.NOT_IN_STEP_BATCHES)


async def _only(request: ModelInferRequest) -> AsyncIterator[ModelInferRequest]:
    yield request


async def _result(call: Callable[..., Awaitable[T]], request: Message, **options: Any) -> T:
    try:
        return await call(request, **options)
    except FAILURES as error:
        raise failure_of(error, request) from None
