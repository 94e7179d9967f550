"""The interface between a pipeline's process and what answers in it: a wrapper, an upstream, a foreign API. PURE."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from anyserve_worker.pipelines.core.events import Event
from anyserve_worker.pipelines.core.request import ChatRequest


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder of one pipeline."""

    name: str
    """Name of the folder, and of its model unless the settings name models."""
    path: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The table of the pipeline's kind in its `pipeline.toml`."""


@dataclass(frozen=True, slots=True)
class ModelState:
    name: str
    tasks: tuple[str, ...] = ("chat",)
    """Tasks of the contract: `chat`, `responses` or both."""
    ready: bool = True
    reason: str = ""
    """Why the model is not ready, for the operator and clients; no secrets, no exception's text."""
    description: str = ""
    """One line about what answers."""


Report = Callable[[Sequence[ModelState]], None]
"""Called with the states of all models of a pipeline, at its start and whenever they change."""


class Pipeline(Protocol):
    """Answers the requests to the models of one folder. All methods run on the process's only event loop."""

    async def start(self, report: Report) -> None:
        """Prepares the pipeline, and calls `report` at least once. Raises SetupError."""

    def answer(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Yields the events of the answer to a request, ending each choice with Finish. The host closes the generator
        if the client has left. Raises PipelineError; any other exception is an internal error."""

    async def close(self) -> None:
        """Ends what `start` began. No answer is running any more."""
