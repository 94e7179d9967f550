"""A fake backend with scripted answers, without gRPC."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import cast

from openai_server.backends.calls import Backend
from openai_server.backends.dialects.anyserve.decode import StreamReader, answer, stream_error
from openai_server.backends.dialects.base import Call, Rpc
from openai_server.backends.dialects.description import Description, IndexEntry, ServerDescription, TensorDescription
from openai_server.backends.mailbox import Cancel, Mailbox
from openai_server.backends.pool import Address, Pool
from openai_server.core.answer import Answer
from openai_server.core.errors import BackendError
from openai_server.core.load import BackendLoad
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse


def away() -> BackendError:
    return BackendError("UNAVAILABLE", "away")


class FakeBackend:
    """Records its calls. Each call for an answer raises the next of `errors`, and succeeds when none is left."""

    def __init__(self, target: str = "a:1", *errors: BackendError) -> None:
        self.target = target
        self.usable = self.connected = True
        self.n_running = 0
        self.reports_load = False
        self.load_result: BackendLoad | BackendError = BackendLoad()
        self.n_load_requests = 0
        self.errors = list(errors)
        self.requests: list[ModelInferRequest] = []
        self.mailboxes: list[Mailbox] = []
        self.n_cancelled = 0
        self.n_doubts = 0
        self.closed: list[float | None] = []
        """Seconds of grace of each call of `close`."""
        self.is_watched = False
        self.is_ready = True
        self.is_own = True
        """Whether it plays the bundled worker."""
        self.inputs = ["prompt"]
        self.names: list[str] = ["m"]
        self.model_parameters: dict[str, dict[str, str]] = {}
        """Parameters by model name."""
        self.lookup_error: BackendError | None = None
        self.lookups: list[str] = []
        """Model names that were looked up; "" for the list of models."""
        self.may_answer = asyncio.Event()
        """Lookups wait for this event."""
        self.may_answer.set()

    def recheck_readiness(self) -> None:
        self.n_doubts += 1

    async def close(self, grace: float | None = None) -> None:
        self.closed.append(grace)

    async def watch(self, ready: Callable[[], None], lost: Callable[[], None]) -> None:
        self.ready_now, self.lost_now, self.is_watched = ready, lost, True
        ready()
        try:
            await asyncio.Event().wait()
        finally:
            self.is_watched = False

    # ---- Requests

    async def infer(self, request: ModelInferRequest) -> ModelInferResponse:
        self.requests.append(request)
        if self.errors:
            raise self.errors.pop(0)
        return ModelInferResponse(id=self.target)

    async def answer(self, call: Call) -> Answer:
        assert call.read_whole is not None
        return call.read_whole(await self.infer(call.request), call.n)

    def start(self, call: Call, k: int, mailbox: Mailbox) -> Cancel:
        self.requests.append(ModelInferRequest.FromString(call.request.SerializeToString()))
        self.mailboxes.append(mailbox)

        def cancel() -> None:
            self.n_cancelled += 1

        return cancel

    # ---- Lookups

    async def load(self) -> BackendLoad:
        self.n_load_requests += 1
        await self.may_answer.wait()
        if isinstance(self.load_result, BackendError):
            raise self.load_result
        return self.load_result

    async def _look_up(self, name: str) -> None:
        self.lookups.append(name)
        await self.may_answer.wait()
        if self.lookup_error is not None:
            raise self.lookup_error

    async def ready(self, model: str, version: str = "") -> bool:
        await self._look_up(model)
        return self.is_ready

    async def index(self) -> list[IndexEntry]:
        await self._look_up("")
        return [IndexEntry(name) for name in self.names]

    async def describe(self, model: str, version: str = "") -> tuple[Description, dict[str, str]]:
        await self._look_up(model)
        extensions = frozenset(contract.EXTENSIONS if self.is_own else ())
        description = Description(
            model=model,
            version=version,
            server=ServerDescription("fake", extensions),
            inputs=tuple(TensorDescription(name, "BYTES", (1,)) for name in self.inputs),
        )
        return description, self.model_parameters.get(model, {})


def call_of(request: ModelInferRequest, n: int = 1) -> Call:
    """The call of a request to the bundled worker."""
    return Call(request, n, Rpc.EITHER, partial(StreamReader, n), stream_error, "prompt", answer)


def pool_of(*backends: FakeBackend) -> Pool:
    by_target = {backend.target: backend for backend in backends}

    def open(address: Address) -> Backend:
        return cast(Backend, by_target[address.target])

    return Pool([backend.target for backend in backends], open)
