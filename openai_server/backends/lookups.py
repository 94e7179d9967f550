"""The lookups of one server over gRPC: its readiness, its models, and their metadata."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import Message

from openai_server.backends.dialects.anyserve import poc
from openai_server.backends.dialects.anyserve.load import load_request, read_load
from openai_server.backends.dialects.description import (
    Description,
    IndexEntry,
    ServerDescription,
    config_parameters,
    describe,
    index_entries,
)
from openai_server.backends.failures import FAILURES, failure_of, is_refused
from openai_server.core.errors import BackendError
from openai_server.core.load import BackendLoad
from protos.grpc_predict_v2_pb2 import (
    ModelConfigRequest,
    ModelMetadataRequest,
    ModelReadyRequest,
    RepositoryIndexRequest,
    ServerMetadataRequest,
    ServerReadyRequest,
)

if TYPE_CHECKING:
    from protos.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceAsyncStub

log = logging.getLogger(__name__)
T = TypeVar("T")


async def result_of(call: Callable[..., Awaitable[T]], request: Message, **options: Any) -> T:
    """The result of a call. Raises BackendError."""
    try:
        return await call(request, **options)
    except FAILURES as error:
        raise failure_of(error, request) from None


class Lookups:
    """`current_stub` returns the stub of the open channel, which may be replaced between two calls. `timeout`: seconds
    for each call. All methods raise BackendError."""

    def __init__(self, current_stub: "Callable[[], GRPCInferenceServiceAsyncStub]", timeout: float) -> None:
        self._current_stub = current_stub
        self._timeout = timeout

    @property
    def _stub(self) -> "GRPCInferenceServiceAsyncStub":
        return self._current_stub()

    async def server_ready(self) -> bool:
        return (await self._call(self._stub.ServerReady, ServerReadyRequest())).ready

    async def server(self) -> ServerDescription:
        metadata = await self._if_possible(self._stub.ServerMetadata, ServerMetadataRequest())
        if metadata is None:
            return ServerDescription()
        return ServerDescription(metadata.name.lower(), frozenset(metadata.extensions))

    async def model_ready(self, model: str, version: str) -> bool | None:
        """None: the server doesn't implement the call."""
        request = ModelReadyRequest(name=model, version=version)
        answer = await self._if_implemented(self._stub.ModelReady, request)
        return None if answer is None else answer.ready

    async def load(self) -> BackendLoad:
        return read_load(await self._call(self._stub.ModelInfer, load_request()))

    async def index(self) -> list[IndexEntry]:
        """All models, in the server's order, also those that are not ready."""
        return index_entries(await self._call(self._stub.RepositoryIndex, RepositoryIndexRequest()))

    async def only_model(self) -> IndexEntry:
        """The model of AnyServe's first server."""
        return IndexEntry(poc.model_name(await self._call(self._stub.ModelInfer, poc.info_request())))

    async def describe(
        self, server: ServerDescription, model: str, version: str
    ) -> tuple[Description, Mapping[str, str]]:
        """The model, and values of contract.CONFIG_PARAMETERS as far as the server reports them."""
        request = ModelMetadataRequest(name=model, version=version)
        metadata = await self._if_implemented(self._stub.ModelMetadata, request)
        answer = await self._if_possible(self._stub.ModelConfig, ModelConfigRequest(name=model, version=version))
        config = answer.config if answer else None
        parameters = dict(config_parameters(config))
        if server.name in poc.SERVERS and not server.is_own:
            info = await self._if_possible(self._stub.ModelInfer, poc.info_request())
            parameters |= poc.parameters(info) if info else {}
        return describe(model, version, server, metadata, config), parameters

    async def _if_implemented(self, call: Callable[..., Awaitable[T]], request: Message) -> T | None:
        """The result of a call; None if the server doesn't implement it."""
        return await self._unless(lambda error: error.status == "UNIMPLEMENTED", call, request)

    async def _if_possible(self, call: Callable[..., Awaitable[T]], request: Message) -> T | None:
        """The result of a call whose result is not needed; None if the server refuses it."""
        return await self._unless(is_refused, call, request)

    async def _unless(
        self, is_tolerable: Callable[[BackendError], bool], call: Callable[..., Awaitable[T]], request: Message
    ) -> T | None:
        """The result of a call; None after a tolerable error."""
        try:
            return await self._call(call, request)
        except BackendError as error:
            if not is_tolerable(error):
                raise
            log.debug("%s failed: %s: %s", type(request).__name__, error.status, error.message)
            return None

    async def _call(self, call: Callable[..., Awaitable[T]], request: Message) -> T:
        """The result of a call. A timeout counts as UNAVAILABLE."""
        try:
            return await result_of(call, request, timeout=self._timeout)
        except BackendError as error:
            if error.status != "DEADLINE_EXCEEDED":
                raise
            raise BackendError("UNAVAILABLE", error.message) from None
