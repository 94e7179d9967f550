"""Stand-ins for the engine and for gRPC, for tests of the service."""

import asyncio
from array import array
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import grpc

from anyserve_worker.core.delta import Delta
from anyserve_worker.core.errors import WorkerError
from anyserve_worker.core.generation_request import GenerationRequest
from anyserve_worker.core.origin import Origin
from anyserve_worker.core.sampling_parameters import SamplingParameters
from anyserve_worker.engine.engine import Engine
from anyserve_worker.engine.running_request import RunningGeneration
from anyserve_worker.engine.stats import EngineLoad, EngineStats
from anyserve_worker.scheduling.sequence import Sequence
from anyserve_worker.service.gguf_model import GGUFModel
from anyserve_worker.service.served_model import State
from anyserve_worker.text.output import TextOutput
from protos import contract, tensors
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.anyserve_worker.fakes import WAIT_TIMEOUT

T = TypeVar("T")


class Arrivals(asyncio.Queue[T]):
    """A queue whose `get` fails after a while."""

    async def get(self) -> T:
        async with asyncio.timeout(WAIT_TIMEOUT):
            return await super().get()


class FakeEngine:
    """Admits every request; the test puts its deltas."""

    def __init__(self) -> None:
        self.stats = EngineStats()
        self.n_ctx = 2048
        self.threads_chosen: list[tuple[bool, int, int]] = []
        self.admits = asyncio.Event()
        self.admits.set()
        self.refusal: Exception | None = None
        """Error that `submit` raises; None to admit."""
        self.submitted: Arrivals[GenerationRequest] = Arrivals()
        """Requests for which `submit` was called."""
        self.running: Arrivals[RunningGeneration] = Arrivals()
        """Admitted requests."""
        self.cancelled: Arrivals[RunningGeneration] = Arrivals()

    @property
    def load(self) -> EngineLoad:
        return EngineLoad(n_waiting=2, n_running=3, n_cells=100, n_running_cells=40)

    def refuse_too_many_ids(self, task: str, request: ModelInferRequest) -> None:
        """Accepts any number of ids."""

    async def submit(self, request: GenerationRequest, origin: Origin) -> RunningGeneration:
        self.submitted.put_nowait(request)
        await self.admits.wait()
        if self.refusal:
            raise self.refusal
        generation = RunningGeneration([sequence(i) for i in range(request.n)], None, self.cancelled.put_nowait, origin)
        self.running.put_nowait(generation)
        return generation


def sequence(index: int = 0) -> Sequence:
    return Sequence(index, array("i", [1]), 1, 9, SamplingParameters(), TextOutput())


def served(engine: FakeEngine, name: str = "m", tasks: tuple[str, ...] = (contract.TASK_GENERATE,)) -> GGUFModel:
    """Returns a model that is ready."""
    model = GGUFModel(name, Path(), State.READY, tasks=tasks)
    model._engine = cast(Engine, engine)
    return model


def delta(text: str, reason: str | None = None, index: int = 0) -> Delta:
    return Delta(index, text, reason, completion_tokens=1, prompt_tokens=1, cached_tokens=0)


def request(id: str = "", *, number: int | None = None, cancel: int | None = None, n: int = 1) -> ModelInferRequest:
    """Returns a request for text (`number`: in step batches), or the cancellation of request `cancel`."""
    message = ModelInferRequest(model_name="m", id=id)
    if cancel is not None:
        message.parameters[contract.PARAM_CANCEL].int64_param = cancel
        return message
    if number is not None:
        message.parameters[contract.PARAM_REQUEST].int64_param = number
    tensors.add_input(message, contract.PROMPT, [b"hello"])
    tensors.add_input(message, contract.N, [n])
    return message


def outputs(response: ModelInferResponse) -> dict[str, list[Any]]:
    return {name: list(tensor.elements) for name, tensor in tensors.read_outputs(response).items()}


class Aborted(Exception):
    """`FakeContext.abort` was called."""

    def __init__(self, status: grpc.StatusCode, message: str, details: dict[str, str]) -> None:
        super().__init__(message)
        self.status, self.details = status, details


class FakeContext:
    """The context of a gRPC call."""

    def __init__(self, *metadata: tuple[str, str]) -> None:
        self._metadata = metadata

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    async def abort(self, status: grpc.StatusCode, message: str, details: tuple[tuple[str, str], ...]) -> NoReturn:
        raise Aborted(status, message, dict(details))


class Requests:
    """The requests that a client sends on a stream."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[ModelInferRequest | Exception | None] = asyncio.Queue()
        self.n_read = 0

    def send(self, *messages: ModelInferRequest) -> None:
        for message in messages:
            self._messages.put_nowait(message)

    def fail(self, error: Exception) -> None:
        """Makes the next read raise this error."""
        self._messages.put_nowait(error)

    def end(self) -> None:
        self._messages.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[ModelInferRequest]:
        while (message := await self._messages.get()) is not None:
            if isinstance(message, Exception):
                raise message
            self.n_read += 1
            yield message


async def run_pending_tasks() -> None:
    """Returns when all other tasks wait: no step of a stream takes as many turns of the event loop."""
    for _ in range(100):
        await asyncio.sleep(0)


class Refusal(WorkerError):
    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "too_much"
