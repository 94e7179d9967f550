"""Answers chats with an HTTP API that a mapping describes."""

import logging
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec

from anyserve_worker.pipelines.core.errors import InvalidInput, PipelineError
from anyserve_worker.pipelines.core.events import Event
from anyserve_worker.pipelines.core.names import name_problem
from anyserve_worker.pipelines.core.pipeline import Folder, ModelState, Pipeline
from anyserve_worker.pipelines.core.request import ChatRequest
from anyserve_worker.pipelines.http_api.mappings import Api, read_api
from anyserve_worker.pipelines.http_api.reader import MappedReader
from anyserve_worker.pipelines.http_api.requests import merged
from anyserve_worker.pipelines.upstream.answers import read_events
from anyserve_worker.pipelines.upstream.client import UpstreamClient
from anyserve_worker.pipelines.upstream.failures import MAX_ERROR, error_body, log_text
from anyserve_worker.pipelines.upstream.settings import (
    UpstreamSettings,
    as_json,
    read_settings,
    settings_error,
    warn_without_key,
)
from anyserve_worker.pipelines.upstream.target import read_target
from anyserve_worker.pipelines.upstream.upstream_pipeline import UpstreamPipeline

KIND = "http"

_log = logging.getLogger(__name__)


class HttpSettings(UpstreamSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    use: str = ""
    """Name of a built-in mapping."""
    file: str = ""
    """Path of a mapping, relative to the folder."""
    mapping: dict[str, Any] = msgspec.field(default_factory=dict)
    """The mapping itself."""
    overrides: dict[str, Any] = msgspec.field(default_factory=dict)
    """Tables that are merged into the mapping."""
    model: str = ""
    """The API's name of the only model; empty: the folder's name."""


def read_folder(folder: Folder) -> tuple[HttpSettings, Api]:
    """Raises SetupError."""
    settings = read_settings(folder, KIND, HttpSettings)
    try:
        if sum(map(bool, (settings.use, settings.file, settings.mapping))) != 1:
            raise ValueError("one of use, file and mapping is required")
        file = folder.path / settings.file if settings.file else None
        return settings, read_api(settings.use, file, merged(settings.mapping, settings.overrides))
    except ValueError as error:
        raise settings_error(folder, KIND, str(error)) from None


def load(folder: Folder) -> Pipeline:
    """Raises SetupError."""
    settings, api = read_folder(folder)
    mapping = api.mapping
    try:
        names = model_names(settings, folder.name)
        api_key = settings.api_key or (f"${mapping.key.env}" if mapping.key.env and not settings.api_key_file else "")
        complete = msgspec.structs.replace(
            settings,
            base_url=settings.base_url or mapping.base_url,
            api_key=api_key,
            headers={**mapping.request.headers, **settings.headers},
        )
        if not complete.base_url:
            raise ValueError("base_url is required")
        target = read_target(complete, folder, os.environ, key_header=mapping.key.header, key_prefix=mapping.key.prefix)
        warn_without_key(settings, target.key, folder.name)
        if mapping.key.required and not target.key.value():
            raise ValueError(f"the API requires a key: set {complete.api_key[1:] or 'api_key'}")
        client = UpstreamClient(target)
    except ValueError as error:
        raise settings_error(folder, KIND, str(error)) from None
    return HttpPipeline(client, api, names, settings.check_interval)


def model_names(settings: HttpSettings, folder: str) -> dict[str, str]:
    """The API's names of the models by ours. Raises ValueError."""
    if settings.models is None:
        return {folder: settings.model or folder}
    if settings.model or not isinstance(settings.models, dict) or not settings.models:
        raise ValueError("models must be a table of names, and excludes model")
    for name in settings.models:
        if problem := name_problem(name):
            raise ValueError(f"models: {name[:100]!r}: {problem}")
    return settings.models


class HttpPipeline(UpstreamPipeline):
    def __init__(self, client: UpstreamClient, api: Api, names: dict[str, str], check_interval: float) -> None:
        super().__init__(client, check_interval)
        self._api = api
        self._names = names

    async def _answer(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        model = self._names.get(request.model)
        if model is None:
            raise InvalidInput("The pipeline has no such model.", field="model")
        path, body, prompt = self._api.requests.write(request, model)
        form = self._api.stream if request.streams else self._api.whole
        reader = MappedReader(form, prompt, calls_allowed=bool(request.tools), scrub=self._client.scrub)
        async with self._client.post(path, as_json(body), request.headers, streams=request.streams) as response:
            if not 200 <= response.status < 300:
                value = error_body(await response.read_all(MAX_ERROR))
                _log.warning("%s", log_text(response.status, self._api.errors.details(value), self._client.scrub))
                raise self._api.errors.of_status(response.status, value, self._client.scrub, response.retry_after())
            async with aclosing(read_events(response, reader)) as events:
                async for event in events:
                    yield event

    async def _states(self) -> list[ModelState]:
        reason = ""
        try:
            status, _ = await self._client.get(self._api.mapping.check_path, with_key=False)
        except PipelineError as error:
            reason = str(error)
        else:
            if status >= 500:
                reason = f"The upstream is not ready (HTTP {status})."
        return [
            ModelState(name, ready=not reason, reason=reason, description=self._description(model))
            for name, model in self._names.items()
        ]

    def _description(self, model: str) -> str:
        return " ".join(filter(None, (self._api.mapping.description, f"(model {model})")))
