"""The interface between the service and a served model, whatever computes its answers."""

import enum
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterable
from typing import TYPE_CHECKING

from anyserve_worker.core.errors import InvalidRequest, ModelNotReady
from anyserve_worker.core.origin import Metadata
from anyserve_worker.engine.running_request import RunningGeneration
from anyserve_worker.engine.stats import EngineLoad, RequestStats
from anyserve_worker.service.responder import Outputs
from protos import contract
from protos.contract import TensorSpec
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse

if TYPE_CHECKING:  # imports llguidance
    from anyserve_worker.engine.engine import Engine

MODEL_VERSION = "1"
"""The only version: neither GGUF files nor pipelines have any, and KServe requires one."""


class State(enum.Enum):
    """The states of a model, named as in Triton's RepositoryIndex."""

    LOADING = "LOADING"
    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"


class ServedModel(ABC):
    """A model by its name. The methods run on the event loop."""

    platform: str
    """Name of the platform in the model's metadata."""

    def __init__(self, name: str, state: State, tasks: tuple[str, ...]) -> None:
        self.name = name
        self.state = state
        self.reason = ""
        """Why the model can't be used, for clients; empty if it can."""
        self.tasks = tasks
        """Tasks that the model supports; those of a GGUF file are set when it is ready."""
        self.config: dict[str, str] = {}
        """Values of contract.CONFIG_PARAMETERS; those that are unknown are absent."""
        self.load_seconds = 0.0

    @property
    def ready(self) -> bool:
        return self.state is State.READY

    def require_ready(self) -> None:
        """Raises ModelNotReady."""
        if not self.ready:
            raise ModelNotReady(
                f"model '{self.name}' is {self.state.value.lower()}{self.reason and ': ' + self.reason}"
            )

    def task(self, requested: str | None) -> str:
        """Returns the task of a request that names `requested`; None: the model's own. Raises ModelNotReady, or
        InvalidRequest if the model doesn't support it."""
        self.require_ready()
        task = self.default_task if requested is None else requested
        if task not in self.tasks:
            raise InvalidRequest(f"model '{self.name}' does not support '{task}', only {', '.join(self.tasks)}")
        return task

    @property
    def default_task(self) -> str:
        """The task of a request that names none."""
        return contract.TASK_GENERATE

    @property
    def inputs(self) -> list[TensorSpec]:
        return distinct(spec for task in self.tasks for spec in contract.TASKS[task].inputs)

    @property
    def outputs(self) -> list[TensorSpec]:
        streamed = contract.STREAM_OUTPUTS if contract.TASK_GENERATE in self.tasks else ()
        return distinct((*(spec for task in self.tasks for spec in contract.TASKS[task].outputs), *streamed))

    @property
    def engine(self) -> "Engine | None":
        """None: the model has none. Read only if the model is ready."""
        return None

    @property
    @abstractmethod
    def load(self) -> EngineLoad:
        """The requests of this model now. Read only if the model is ready."""

    @property
    @abstractmethod
    def stats(self) -> RequestStats:
        """Read only if the model is ready."""

    @abstractmethod
    def info(self) -> Outputs:
        """The outputs of `model_info` besides the load. Raises ModelNotReady."""

    @abstractmethod
    async def infer(self, request: ModelInferRequest, task: str, metadata: Metadata) -> ModelInferResponse:
        """Returns the whole answer to a request with one of the model's tasks. Raises WorkerError."""

    @abstractmethod
    def stream(
        self, request: ModelInferRequest, task: str, metadata: Metadata
    ) -> AsyncGenerator[tuple[ModelInferResponse, bool], None]:
        """Yields each response to a request with one of the model's tasks, and whether it is the last one. Raises
        WorkerError."""

    @abstractmethod
    async def submit(self, request: ModelInferRequest) -> RunningGeneration:
        """Starts a request that is answered in step batches. Raises WorkerError, InvalidRequest also if the model can't
        answer in that form."""


def distinct(specs: Iterable[TensorSpec]) -> list[TensorSpec]:
    """Returns the first specification of each name."""
    spec_by_name: dict[str, TensorSpec] = {}
    for spec in specs:
        spec_by_name.setdefault(spec.name, spec)
    return list(spec_by_name.values())
