"""Answers chats with an upstream that has OpenAI's API."""

import logging
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing

from anyserve_worker.pipelines.core.errors import PipelineError, UpstreamAway
from anyserve_worker.pipelines.core.events import Event
from anyserve_worker.pipelines.core.pipeline import Folder, ModelState, Pipeline
from anyserve_worker.pipelines.core.request import ChatRequest
from anyserve_worker.pipelines.openai_api.model_names import ModelNames, listed_names
from anyserve_worker.pipelines.openai_api.reader import ChatReader
from anyserve_worker.pipelines.openai_api.request import upstream_body
from anyserve_worker.pipelines.upstream.answers import read_events
from anyserve_worker.pipelines.upstream.client import Response, UpstreamClient
from anyserve_worker.pipelines.upstream.failures import MAX_ERROR, error_body, error_details, failure, kind_of, log_text
from anyserve_worker.pipelines.upstream.framing import Framing, ServerSentEvents, WholeJson
from anyserve_worker.pipelines.upstream.settings import (
    UpstreamSettings,
    as_json,
    read_settings,
    settings_error,
    warn_without_key,
)
from anyserve_worker.pipelines.upstream.target import read_target
from anyserve_worker.pipelines.upstream.upstream_pipeline import UpstreamPipeline

KIND = "openai"
MAX_LIST = 8 << 20
"""Bytes of a list of models."""

_log = logging.getLogger(__name__)


def load(folder: Folder) -> Pipeline:
    """Raises SetupError."""
    settings = read_settings(folder, KIND, UpstreamSettings)
    try:
        if not settings.base_url:
            raise ValueError("base_url is required")
        target = read_target(settings, folder, os.environ)
        warn_without_key(settings, target.key, folder.name)
        names = ModelNames(settings.models, folder.name)
        client = UpstreamClient(target)
    except ValueError as error:
        raise settings_error(folder, KIND, str(error)) from None
    return OpenAIPipeline(folder.name, client, names, settings.check_interval)


class OpenAIPipeline(UpstreamPipeline):
    def __init__(self, name: str, client: UpstreamClient, names: ModelNames, check_interval: float) -> None:
        super().__init__(client, check_interval)
        self._name = name
        self._names = names
        self._takes_stream_options: bool | None = None
        """Whether the upstream accepts `stream_options`; None: not known."""

    async def _answer(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        model = self._names.upstream_name(request.model)
        if model is None:
            raise UpstreamAway("The upstream doesn't list this model any more.")
        asks_usage = request.streams and self._takes_stream_options is not False
        error = None
        for with_usage in (True, False) if asks_usage else (False,):
            body = as_json(upstream_body(request, model, with_usage=with_usage))
            async with self._client.post(
                "/chat/completions", body, request.headers, streams=request.streams
            ) as response:
                if 200 <= response.status < 300:
                    if asks_usage:
                        self._takes_stream_options = with_usage
                    async with aclosing(read_events(response, self._reader(request, response))) as events:
                        async for event in events:
                            yield event
                    return
                data = await response.read_all(MAX_ERROR)
                error = error or self._failure(response, data)
                if response.status not in (400, 422) or (self._takes_stream_options and b"stream_options" not in data):
                    break
        assert error is not None
        raise error

    def _reader(self, request: ChatRequest, response: Response) -> ChatReader:
        is_stream = request.streams and not response.is_json
        framing: Framing = ServerSentEvents() if is_stream else WholeJson()
        calls_allowed = bool(request.tools or request.body.get("functions"))
        return ChatReader(framing, request.n, calls_allowed=calls_allowed, scrub=self._client.scrub)

    def _failure(self, response: Response, data: bytes) -> PipelineError:
        details = error_details(error_body(data))
        _log.warning("%s", log_text(response.status, details, self._client.scrub))
        return failure(kind_of(response.status), response.status, details, self._client.scrub, response.retry_after())

    async def _states(self) -> list[ModelState]:
        reason = ""
        try:
            status, data = await self._client.get("/models", with_key=True, max_bytes=MAX_LIST)
        except PipelineError as error:
            reason = str(error)
        else:
            listed = listed_names(error_body(data)) if status == 200 else None
            if listed is not None:
                self._names.update(listed)
            if status >= 500:
                reason = f"The upstream is not ready (HTTP {status})."
            elif listed is None and self._names.needs_list:
                reason = f"The upstream returned no list of models (HTTP {status})."
        if not self._names.served:  # a pipeline always has a model, so that its state is visible
            reason = reason or "The upstream lists none of the models in the setting `models`."
            return [ModelState(self._name, ready=False, reason=reason)]
        return [
            ModelState(name, ready=not reason, reason=reason, description=f"upstream model {upstream}")
            for name in self._names.served
            if (upstream := self._names.upstream_name(name))
        ]
