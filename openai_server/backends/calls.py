"""Calls one backend over gRPC (KServe v2), with deadlines, cancellation, and errors as BackendError.

`channel.py` opens the channels, `lookups.py` makes the calls that generate nothing, `pool.py` manages several backends.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import grpc
from grpc import aio

from openai_server.backends import channel
from openai_server.backends.channel import Dialer
from openai_server.backends.dialects.anyserve import poc
from openai_server.backends.dialects.base import Call, Rpc
from openai_server.backends.dialects.description import TRITON, Description, IndexEntry, ServerDescription
from openai_server.backends.failures import FAILURES, failure_of, request_too_large
from openai_server.backends.lone_call import NotImplementedCall, answer_into
from openai_server.backends.lookups import Lookups, result_of
from openai_server.backends.mailbox import Cancel, Mailbox
from openai_server.backends.outages import Outages
from openai_server.backends.shared_stream import SharedStream, StreamLost, unnumbered
from openai_server.core import request_context
from openai_server.core.answer import Answer
from openai_server.core.errors import BackendError
from openai_server.core.load import BackendLoad
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from protos.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

log = logging.getLogger(__name__)

MAX_SHARED_BYTES = 1 << 20
"""Maximum size of a request on the shared stream. A message that is too large for the backend ends the whole stream."""
READY_INTERVAL = 1.0
"""Seconds between readiness checks of a server that is not ready."""
NO_TIMEOUT = 3600.0
"""Seconds after which the calls on a replaced channel are cancelled, if calls have no time limit."""
_PLAIN = Dialer()


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
        self._lookups = Lookups(lambda: self._stub, lookup_timeout)
        self._dial = partial(dialer.open, target, name)
        self._frequent_pings = False
        """Whether the channel sends keepalive pings at the interval of --keepalive-time, which needs the server's
        permission."""
        self._use(self._dial())
        self._server_lock = asyncio.Lock()
        self._server: ServerDescription | None = None
        """The server on the current connection; None is unknown."""
        self._unimplemented: set[tuple[str, Rpc]] = set()
        """Calls that the server doesn't implement, by the name of the model."""
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
        self._bare_stream = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            request_serializer=ModelInferRequest.SerializeToString,
            response_deserializer=ModelInferResponse.FromString,
        )

    @property
    def is_own(self) -> bool:
        """Whether the server is known to have this project's extensions."""
        return self._server is not None and self._server.is_own

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
            self.usable, self._server = False, None
            self._unimplemented.clear()
            lost()
            self._outages.lost(await self._failure() or "the connection was closed")

    async def _failure(self) -> str:
        """The reason why the server can't be reached, from a call, since a channel doesn't report it. Empty if the
        server can be reached, or if the reason would not be logged."""
        if self._outages.would_log:
            try:
                await self._lookups.server_ready()
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
                self.usable, failure = await self._is_usable(), ""
            except BackendError as error:
                self.usable, failure = error.status == "UNIMPLEMENTED", error.message
            if self.usable:
                self._outages.back()
                self._on_ready()
                return
            await asyncio.sleep(READY_INTERVAL)

    async def _is_usable(self) -> bool:
        """Whether the server can answer requests. Triton is not ready while any of its models is broken; the others
        still answer. Raises BackendError."""
        if await self._lookups.server_ready():
            return True
        server = await self.server()
        return server.name == TRITON and any(entry.is_ready for entry in await self.index())

    async def _adapt_pings(self) -> bool:
        """Replaces the channel if its pings are not as frequent as the server permits. Returns whether it did."""
        with suppress(BackendError):
            await self.server()
        frequent_pings = self._has_extension(contract.EXTENSION_PINGS)
        if self._server is None or frequent_pings == self._frequent_pings:
            return False
        if self._shared is not None:
            self._shared.retire()
        closing = asyncio.create_task(self._channel.close(self._timeout or NO_TIMEOUT))  # after its calls have ended
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        self._frequent_pings = frequent_pings
        self._use(self._dial(frequent_pings=frequent_pings))
        return True

    def _has_extension(self, extension: str) -> bool:
        return self._server is not None and extension in self._server.extensions

    # ---- Lookups. All raise BackendError.

    async def server(self) -> ServerDescription:
        """The server on the current connection."""
        async with self._server_lock:
            if self._shared is not None and self._shared.retired:
                self._shared = self._server = None  # another kind of server may have replaced the old one
            if self._server is None:
                self._server = await self._lookups.server()
            return self._server

    async def ready(self, model: str, version: str = "") -> bool:
        """Whether the model would answer. Other models of the server may be broken."""
        if self.is_own and not await self._lookups.server_ready():
            return False
        is_ready = await self._lookups.model_ready(model, version)
        return await self._lookups.server_ready() if is_ready is None else is_ready

    @property
    def reports_load(self) -> bool:
        """Whether `load` may be called: never for a server that doesn't offer it."""
        return self.connected and self._has_extension(contract.EXTENSION_LOAD)

    async def load(self) -> BackendLoad:
        return await self._lookups.load()

    async def index(self) -> list[IndexEntry]:
        """All models, in the backend's order, also those that are not ready."""
        try:
            return await self._lookups.index()
        except BackendError as error:
            if error.status != "UNIMPLEMENTED" or (await self.server()).name not in poc.SERVERS:
                raise
        return [await self._lookups.only_model()]

    async def describe(self, model: str, version: str = "") -> tuple[Description, Mapping[str, str]]:
        """The model, and values of contract.CONFIG_PARAMETERS as far as the backend reports them."""
        return await self._lookups.describe(await self.server(), model, version)

    # ---- Inference. Cancelling the caller cancels the call, at once.

    async def answer(self, call: Call) -> Answer:
        """The whole answer, of a dialect that reads whole answers. Raises BackendError."""
        request, read, is_loss = call.request, call.read_whole, False
        assert read is not None
        if self._goes_on_shared_stream(request):
            _set_caller(request)
            try:
                return await self._shared_stream().answer(request, call.n)
            except StreamLost as lost:  # the unary call returns the reason
                unnumbered(request)
                is_loss = lost.is_loss
        try:
            return read(await self.infer(request), call.n)
        except BackendError as error:
            error.is_loss |= is_loss
            raise

    async def infer(self, request: ModelInferRequest) -> ModelInferResponse:
        """Makes a unary call. Raises BackendError."""
        if self.is_own:
            _set_caller(request)
        self._n_unary += 1
        try:
            context = request_context.current()
            headers = aio.Metadata(*context.headers)  # faster than gRPC's conversion of a list
            timeout = self._timeout if context.tier.is_timed else None
            return await result_of(self._stub.ModelInfer, request, timeout=timeout, metadata=headers)
        finally:
            self._n_unary -= 1

    def start(self, call: Call, k: int, mailbox: Mailbox) -> Cancel:
        """Makes the call. Its rows go into the mailbox, as those of prompt k."""
        if self._server is not None and not (self._shared and self._shared.retired):
            return self._start(call, k, mailbox)
        cancel: Cancel | None = None

        async def start_after_lookup() -> None:
            nonlocal cancel
            try:
                await self.server()
                cancel = self._start(call, k, mailbox)
            except BackendError as error:
                mailbox.fail(k, error)

        lookup = self._task(start_after_lookup())
        return lambda: cancel() if cancel else lookup.cancel()

    def _start(self, call: Call, k: int, mailbox: Mailbox) -> Cancel:
        request = call.request
        if self.is_own:
            _set_caller(request)
        has_own_contract = call.read_whole is not None
        if has_own_contract and self._has_extension(contract.EXTENSION_STEP_BATCHES) and _may_share(request):
            return self._shared_stream().start(request, call.n, k, mailbox)
        return self._task(self._call_alone(call, k, mailbox)).cancel

    def _goes_on_shared_stream(self, request: ModelInferRequest) -> bool:
        """Whether to send the request on the shared stream, which costs less than a unary call and its set-up."""
        if not self._has_extension(contract.EXTENSION_WHOLE_ANSWERS):
            return False
        shared = self._shared
        if shared is None:
            self._shared_stream()  # for the requests after this one
            return False
        return not shared.retired and _may_share(request)

    def _shared_stream(self) -> SharedStream:
        if self._shared is None or self._shared.retired:
            takes_bundles = self._has_extension(contract.EXTENSION_BUNDLES)
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
        method: Callable[..., Any] | None = None,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> AsyncGenerator[Any, None]:
        """`only`: the request of a stream with a single one, for errors about its size. `method`: None is
        ModelStreamInfer, with responses of the type ModelStreamInferResponse."""
        call = None
        method = method or self._stub.ModelStreamInfer
        try:
            call = method(requests, timeout=timeout, metadata=(*request_context.current().headers, *metadata))
            async for response in call:
                yield response
        except FAILURES as error:
            raise failure_of(error, only) from None
        finally:
            if call is not None:
                call.cancel()

    async def _call_alone(self, call: Call, k: int, mailbox: Mailbox) -> None:
        """A stream for one request, or a unary call whose answer arrives as a whole."""
        request = call.request
        kind = request.model_name, call.rpc
        if call.fallback is not None and kind in self._unimplemented:
            call = call.fallback()
            request = call.request

        timeout = self._timeout if request_context.current().tier.is_timed else None

        def open(requests: AsyncIterator[ModelInferRequest], is_bare: bool) -> AsyncGenerator[Any, None]:
            method = self._bare_stream if is_bare else None
            return self._open(requests, timeout, request, method, call.metadata)

        try:
            if (size := request.ByteSize()) > channel.MAX_MESSAGE_BYTES:  # gRPC would report it as INTERNAL
                raise request_too_large(size, channel.MAX_MESSAGE_BYTES)
            usage = await answer_into(mailbox, k, call, open, self.infer)
        except NotImplementedCall as error:
            if call.fallback is None:
                mailbox.fail(k, error)
            else:
                self._unimplemented.add(kind)
                await self._call_alone(call, k, mailbox)
        except BackendError as error:
            mailbox.fail(k, error)
        except Exception:
            log.exception("request '%s' failed", request.id)
            mailbox.fail(k, BackendError("INTERNAL", "internal error"))
        else:
            mailbox.end(k, usage)


def _set_caller(request: ModelInferRequest) -> None:
    if caller := request_context.current().caller:
        request.parameters[contract.PARAM_CALLER].string_param = caller


def _may_share(request: ModelInferRequest) -> bool:
    """Whether the shared stream can carry the request. Step batches can't hold all outputs."""
    return request.ByteSize() <= MAX_SHARED_BYTES and not any(tensor.name in _UNSHARED for tensor in request.inputs)


_UNSHARED = frozenset(spec.name for spec in contract.NOT_IN_STEP_BATCHES)
