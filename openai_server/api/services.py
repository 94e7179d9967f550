"""The services that the endpoints' handlers use. app.py builds them once for each server."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from openai_server.access.caps import Caps
from openai_server.access.turns import FairThreads
from openai_server.api.bodies.reader import Bodies
from openai_server.api.file_limits import FileLimits
from openai_server.api.generation import Generator
from openai_server.api.prompt_files.settings import NO_PROMPT_FILE_SETTINGS, PromptFileSettings
from openai_server.backends.catalog import Catalog
from openai_server.backends.load_report import LoadReports
from openai_server.backends.pool import Pool
from openai_server.core.sealing import Sealer
from openai_server.prompting.deferred import DeferredPlanner
from openai_server.telemetry.observer import Observer
from openai_server.tokenizing.tokenizers import Tokenizers

if TYPE_CHECKING:
    from openai_server.api.batches.service import Batches
    from openai_server.api.endpoint import Endpoint
    from openai_server.api.prompt_files.reader import FileReader
    from openai_server.api.responses.background.service import Background
    from openai_server.store.store import Store


@dataclass(slots=True, kw_only=True)
class Services:
    """`clock` gives Unix seconds."""

    pool: Pool
    catalog: Catalog
    planner: DeferredPlanner
    generator: Generator
    threads: FairThreads
    """Threads for work that takes milliseconds."""
    bodies: Bodies
    sealer: Sealer
    """Seals what clients keep for later requests."""
    observer: Observer
    load_reports: LoadReports
    caps: Caps
    """Limits on one request."""
    clock: Callable[[], float]
    tokenizers: Tokenizers
    """Tokenizers of models whose backends have none."""
    needs_keys: Callable[[], bool]
    """Whether requests need an API key at the moment."""
    endpoints: "tuple[Endpoint, ...]"
    """The endpoints on the API's port."""
    prompt_files: PromptFileSettings = NO_PROMPT_FILE_SETTINGS
    file_reader: "FileReader | None" = None
    """Reads files of conversations; None until the first one."""
    store: "Store | None" = None
    """None: nothing is stored."""
    file_limits: FileLimits = field(default_factory=FileLimits)
    background: "Background | None" = None
    """None: nothing is stored, so nothing runs in the background."""
    batches: "Batches | None" = None
    """None: nothing is stored, so there are no batches."""
    storing: set[asyncio.Task[None]] = field(default_factory=set)
    """Tasks that store how requests ended that were cut off."""
    draining: bool = False
    """Whether the server shuts down: it is no longer ready, and closes each connection after its response."""
    started_at: int = field(init=False)
    """Unix seconds."""

    def __post_init__(self) -> None:
        self.started_at = int(self.clock())

    def drain(self) -> None:
        """Makes the server report that it is not ready, and take no further background responses and lines of batches.
        When called again, it doesn't wait for those that run."""
        self.draining = True
        if self.background is not None:
            self.background.drain()
        if self.batches is not None:
            self.batches.drain()
