"""The ASGI application: builds its parts from the configuration, and runs its background tasks."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from starlette.types import Receive, Scope, Send

from anyserve_common import tracing
from openai_server.access.admission import Admission
from openai_server.access.caps import Caps
from openai_server.access.cors import Cors
from openai_server.access.gate import Gate
from openai_server.access.item_keys import ItemKeys
from openai_server.access.key_ring import KeyRing
from openai_server.access.rates import Rates
from openai_server.access.turns import FairThreads
from openai_server.api import registry
from openai_server.api.bodies.reader import Bodies
from openai_server.api.dispatcher import AdministrationPort, Dispatcher
from openai_server.api.docs.endpoint import PAGE
from openai_server.api.generation import Generator
from openai_server.api.services import Services
from openai_server.backends.catalog import Catalog
from openai_server.backends.dialects.choose import Dialects
from openai_server.backends.load_report import INTERVAL, LoadReports
from openai_server.backends.model_settings import ModelSettings
from openai_server.backends.pool import Pool
from openai_server.config import Config
from openai_server.core.sealing import Sealer
from openai_server.http.lifespan import lifespan
from openai_server.prompting.deferred import DeferredPlanner
from openai_server.telemetry import sharing
from openai_server.telemetry.observer import Observer
from openai_server.tokenizing.tokenizers import Tokenizers

if TYPE_CHECKING:
    from openai_server.backends.dialects.mapping.schema import MappingFile
    from openai_server.prompting.planner import ChatPlanner

log = logging.getLogger(__name__)

PLANNING_THREADS = 2
"""Threads that render chat templates. More threads would only take the interpreter from the event loop more often."""
TOKENIZING_THREADS = 2
"""Threads that tokenize for models with a local tokenizer, which takes seconds for the longest texts. Chat templates
don't wait for them."""
MAX_PLANNED = 4096
"""Maximum number of chats, or texts, in the queue for one of these threads."""
CANCEL_SECONDS = 1.0
"""Seconds for cancelled requests to send their last response."""


class App:
    """The application for `config`, with the backends of `backend`, which it closes at the end. `watches` are further
    background tasks. Raises BadTokenizer, BadKeys and BadItemKeys."""

    def __init__(
        self,
        config: Config,
        backend: Pool,
        observer: Observer | None = None,
        watches: Sequence[Callable[[], Awaitable[None]]] = (),
    ) -> None:
        dialects = Dialects(config.dialect, _mapping_files(config))
        self.observer = observer or Observer.of(
            log_access=config.access_log,
            tracing=tracing.wanted(config.tracing),
            metrics_names=config.metrics_names,
        )
        self.gate = Gate(
            KeyRing(config.api_key, config.api_key_file),
            Admission(config.max_concurrency, config.max_queue),
            Rates(requests_per_minute=config.requests_per_minute, tokens_per_minute=config.tokens_per_minute),
            Cors(config.cors_origin),
            clock=time.monotonic,
            queue_timeout=config.queue_timeout,
            max_held=config.max_inflight_body_bytes,
            meter=self.observer.metrics,
        )
        caps = Caps(
            output_tokens=config.max_output_tokens,
            n=config.max_n,
            prompt=config.max_prompt_chars,
            schema=config.max_schema_bytes,
        )
        threads = FairThreads(
            PLANNING_THREADS, name="planning", waiting=MAX_PLANNED, queue_timeout=config.queue_timeout
        )
        tokenizing = FairThreads(
            TOKENIZING_THREADS, name="tokenizing", waiting=MAX_PLANNED, queue_timeout=config.queue_timeout
        )
        tokenizers = Tokenizers(config.tokenizer, tokenizing)
        settings = model_settings(config, tokenizers)
        catalog = Catalog(
            backend, served=config.served_model, aliases=config.model_alias, dialects=dialects, settings=settings
        )
        planner = DeferredPlanner(partial(_planner, config, threads))
        bodies = Bodies(caps, max_bytes=config.max_body_bytes, max_values=config.max_json_values)
        self._item_keys = ItemKeys(config.item_key, config.item_key_file)
        self.services = Services(
            pool=backend,
            catalog=catalog,
            planner=planner,
            generator=Generator(backend, catalog, planner, caps, ping_interval=config.ping_interval),
            threads=threads,
            bodies=bodies,
            sealer=Sealer(lambda: self._item_keys.keys),
            observer=self.observer,
            load_reports=LoadReports(backend),
            clock=time.time,
            tokenizers=tokenizers,
            needs_keys=lambda: bool(self.gate.key_ring.keys),
            endpoints=tuple(
                endpoint
                for endpoint in registry.ENDPOINTS
                if (config.docs or endpoint is not PAGE)
                and (config.admin_port is None or not endpoint.is_administration)
            ),
        )
        administration = [endpoint for endpoint in registry.ENDPOINTS if endpoint.is_administration]
        self.admin = AdministrationPort(administration, self.services)
        """Served on `--admin-port`."""
        self._dispatcher = Dispatcher(
            self.services,
            self.gate,
            open_paths=frozenset(
                path for endpoint in registry.ENDPOINTS if endpoint.is_open for path in endpoint.paths
            ),
        )
        self._watches = [backend.watch, catalog.watch, self.gate.key_ring.watch, self._item_keys.watch, *watches]
        if sharing.is_shared():
            self._watches.append(self._share_unreported)

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        watches = [asyncio.ensure_future(watch()) for watch in self._watches]
        try:
            yield
        finally:
            if requests := self._dispatcher.running:  # uvicorn has cancelled them, and doesn't wait for their end
                await asyncio.wait(requests, timeout=CANCEL_SECONDS)
            for watch in watches:
                watch.cancel()
            for ended in await asyncio.gather(*watches, return_exceptions=True):
                if isinstance(ended, Exception):
                    log.error("a background task failed", exc_info=ended)
            self.services.load_reports.close()
            await self.services.bodies.close()
            await self.services.pool.close()
            await asyncio.to_thread(self.observer.close)

    async def _share_unreported(self) -> None:
        """Keeps this process' part of a metric up to date for scrapes of other processes. Runs until cancelled."""
        while True:
            self.observer.metrics.unreported(self.services.load_reports.n_unreported)
            await asyncio.sleep(INTERVAL)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        if scope["type"] == "http":
            return self._dispatcher(scope, receive, send)  # not awaited, which saves every request a coroutine
        return lifespan(self._running(), receive, send)


def model_settings(config: Config, tokenizers: Tokenizers) -> ModelSettings:
    """The options that describe models, for the catalog."""
    return ModelSettings(
        {name: file.source for name, file in config.chat_template.items()},
        {name: {**folder.parameters, **tokenizers.parameters(name)} for name, folder in config.tokenizer.items()},
    )


def _mapping_files(config: Config) -> "list[MappingFile]":
    """The files of --mapping. Raises BadMapping."""
    if not config.mapping:
        return []
    from openai_server.backends.dialects.mapping.load import load  # few servers need it

    return [load(path) for path in config.mapping]


def _planner(config: Config, threads: FairThreads) -> "ChatPlanner":
    """Builds the planner. Its imports are needed only for chats."""
    from openai_server.prompting.plan import Planner
    from openai_server.prompting.planner import ChatPlanner
    from openai_server.prompting.template import Templates

    templates = Templates(
        clock=time.thread_time,
        now=datetime.now,
        seconds=config.template_timeout,
        characters=config.template_max_chars,
        compile=None,  # ChatPlanner compiles templates in a process of their own
    )
    planner = Planner(
        templates,
        new_id=lambda: f"call_{token_hex(12)}",
        refuses_markup=config.forged_markup == "refuse",
    )
    return ChatPlanner(templates, planner, threads)
