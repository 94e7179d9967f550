"""The ASGI application: builds its parts from the configuration, and runs its background tasks."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import partial
from secrets import token_hex
from socket import gethostname
from typing import TYPE_CHECKING, Any

from starlette.types import Receive, Scope, Send

from anyserve_common import tracing
from openai_server.access.admission import Admission
from openai_server.access.caps import Caps
from openai_server.access.cors import Cors
from openai_server.access.gate import Gate
from openai_server.access.item_keys import ItemKeys, new_key
from openai_server.access.key_ring import KeyRing
from openai_server.access.rates import Rates
from openai_server.access.tier_limits import TierLimits
from openai_server.access.turns import FairThreads
from openai_server.api import registry, store_report
from openai_server.api.bodies.reader import Bodies
from openai_server.api.dispatcher import AdministrationPort, Dispatcher
from openai_server.api.docs.endpoint import PAGE
from openai_server.api.file_limits import FileLimits
from openai_server.api.generation import Generator
from openai_server.api.prompt_files.settings import PromptFileSettings
from openai_server.api.services import Services
from openai_server.backends.catalog import Catalog
from openai_server.backends.dialects.choose import Dialects
from openai_server.backends.load_report import INTERVAL, LoadReports
from openai_server.backends.model_settings import ModelSettings
from openai_server.backends.pool import Pool
from openai_server.config import Config
from openai_server.core.sealing import Sealer
from openai_server.core.store_errors import StoreAway
from openai_server.http.lifespan import lifespan
from openai_server.prompting.deferred import DeferredPlanner
from openai_server.telemetry import sharing
from openai_server.telemetry.observer import Observer
from openai_server.tokenizing.tokenizers import Tokenizers

if TYPE_CHECKING:
    from openai_server.api.batches.service import Batches
    from openai_server.api.responses.background.service import Background
    from openai_server.backends.dialects.mapping.schema import MappingFile
    from openai_server.prompting.planner import ChatPlanner
    from openai_server.store.store import Store

log = logging.getLogger(__name__)

PLANNING_THREADS = 2
"""Threads that render chat templates. More threads would only take the interpreter from the event loop more often."""
TOKENIZING_THREADS = 2
"""Threads that tokenize for models with a local tokenizer, which takes seconds for the longest texts. Chat templates
don't wait for them."""
MAX_PLANNED = 4096
"""Maximum number of chats, or texts, in the queue for one of these threads."""
RETRY_SECONDS = 1.0
"""Time until the store is tried again."""
DAY = 86400.0
"""Seconds."""
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
            tier_limits=TierLimits(max_priority=config.max_priority_requests, max_flex=config.max_flex_requests),
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
        self._is_store_open = False
        self._item_keys = ItemKeys(config.item_key, config.item_key_file)
        self.services = Services(
            pool=backend,
            catalog=catalog,
            planner=planner,
            generator=Generator(
                backend, catalog, planner, caps, threads, ping_interval=config.ping_interval, new_id=_new_call_id
            ),
            threads=threads,
            bodies=bodies,
            sealer=Sealer(lambda: self._item_keys.keys),
            observer=self.observer,
            load_reports=LoadReports(backend),
            caps=caps,
            prompt_files=PromptFileSettings(
                max_tokens=config.max_file_tokens,
                url_prefixes=config.file_url,
                allows_private=config.file_url_private,
            ),
            clock=time.time,
            tokenizers=tokenizers,
            needs_keys=lambda: bool(self.gate.key_ring.keys),
            store=_store(config, self.observer),
            file_limits=FileLimits(file_bytes=config.max_file_bytes, upload_bytes=config.max_upload_bytes),
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
        if (store := self.services.store) is not None:
            self.services.background = self._background(store, config)
            self.services.batches = self._batches(store, config)
            self._watches += [
                store.watch,
                partial(self._share_item_key_later, store),
                self.services.background.runner.run,
                self.services.batches.run,
                partial(store_report.report, store, self.observer.metrics.store),
            ]

    def _background(self, store: "Store", config: Config) -> "Background":
        from openai_server.api.responses.background.service import Background  # few servers need it

        drain_seconds = config.drain_delay + config.drain_timeout
        return Background(
            self.services, store, self.gate.enter_as, limit=config.max_background, drain_seconds=drain_seconds
        )

    def _batches(self, store: "Store", config: Config) -> "Batches":
        from openai_server.api.batches.service import Batches  # few servers need it

        drain_seconds = config.drain_delay + config.drain_timeout
        return Batches(
            self.services, store, self.gate.enter_line, limit=config.batch_concurrency, drain_seconds=drain_seconds
        )

    async def open_store(self) -> None:
        """Opens the store, if there is one, before the server starts. Raises BadStore."""
        if (store := self.services.store) is not None and not self._is_store_open:
            await store.open()
            self._is_store_open = True
            if not store.is_away:
                with suppress(StoreAway):
                    await self._share_item_key(store)

    async def _share_item_key(self, store: "Store") -> None:
        """Seals items with a key in the store, unless an option sets one: stored summaries outlive this process. Raises
        StoreAway."""
        if self._item_keys.is_temporary:
            self._item_keys.share(await store.secret("item_key", new_key()))

    async def _share_item_key_later(self, store: "Store") -> None:
        """Tries until the store answers."""
        while True:
            with suppress(StoreAway):
                return await self._share_item_key(store)
            await asyncio.sleep(RETRY_SECONDS)

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        await self.open_store()
        watches = [asyncio.ensure_future(watch()) for watch in self._watches]
        try:
            yield
        finally:
            if self.services.batches is not None:
                await self.services.batches.close()
            if self.services.background is not None:
                await self.services.background.close()
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
            if self.services.store is not None:
                if storing := self.services.storing:
                    await asyncio.wait(storing, timeout=CANCEL_SECONDS)
                await self.services.store.close()
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


def _store(config: Config, observer: Observer) -> "Store | None":
    if config.store is None:
        return None
    from openai_server.store.store import Store, StoreSettings  # few servers need it

    settings = StoreSettings(
        url=config.store,
        blobs=config.blobs,
        retention=config.store_retention * DAY,
        max_objects=config.store_max_objects,
        max_bytes=config.store_max_bytes,
        max_file_bytes=config.store_max_file_bytes,
        max_upload_parts=config.max_upload_parts,
        max_batches=config.max_batches,
    )
    runner = f"{gethostname()}-{os.getpid()}-{token_hex(4)}"
    return Store(settings, runner=runner, observe=observer.metrics.store.observe)


def _mapping_files(config: Config) -> "list[MappingFile]":
    """The files of --mapping. Raises BadMapping."""
    if not config.mapping:
        return []
    from openai_server.backends.dialects.mapping.load import load  # few servers need it

    return [load(path) for path in config.mapping]


def _new_call_id() -> str:
    return f"call_{token_hex(12)}"


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
        new_id=_new_call_id,
        refuses_markup=config.forged_markup == "refuse",
    )
    return ChatPlanner(templates, planner, threads)
