"""The life of a pipeline whose answers come from a server over HTTP, and the readiness of its models."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing

from anyserve_worker.pipelines.core.errors import UpstreamAway
from anyserve_worker.pipelines.core.events import Event
from anyserve_worker.pipelines.core.pipeline import ModelState, Report
from anyserve_worker.pipelines.core.request import ChatRequest
from anyserve_worker.pipelines.upstream.client import UpstreamClient
from anyserve_worker.pipelines.upstream.readiness import ReadinessWatch


class UpstreamPipeline(ABC):
    """`check_interval`: seconds between two checks of the server."""

    def __init__(self, client: UpstreamClient, check_interval: float) -> None:
        self._client = client
        self._check_interval = check_interval
        self._watch: ReadinessWatch | None = None

    async def start(self, report: Report) -> None:
        self._watch = ReadinessWatch(self._states, report, self._check_interval)
        await self._watch.start()

    async def close(self) -> None:
        if self._watch is not None:
            await self._watch.close()
        await self._client.close()

    async def answer(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        try:
            async with aclosing(self._answer(request)) as events:
                async for event in events:
                    yield event
        except UpstreamAway:
            if self._watch is not None:
                self._watch.recheck()
            raise

    @abstractmethod
    def _answer(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Yields the events of the answer. Raises PipelineError."""

    @abstractmethod
    async def _states(self) -> list[ModelState]:
        """The states of the models, from a request to the server."""
