"""The services that the endpoints' handlers use. app.py builds them once for each server."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from openai_server.access.turns import FairThreads
from openai_server.api.bodies.reader import Bodies
from openai_server.api.generation import Generator
from openai_server.backends.catalog import Catalog
from openai_server.backends.load_report import LoadReports
from openai_server.backends.pool import Pool
from openai_server.core.sealing import Sealer
from openai_server.prompting.deferred import DeferredPlanner
from openai_server.telemetry.observer import Observer
from openai_server.tokenizing.tokenizers import Tokenizers

if TYPE_CHECKING:
    from openai_server.api.endpoint import Endpoint


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
    clock: Callable[[], float]
    tokenizers: Tokenizers
    """Tokenizers of models whose backends have none."""
    needs_keys: Callable[[], bool]
    """Whether requests need an API key at the moment."""
    endpoints: "tuple[Endpoint, ...]"
    """The endpoints on the API's port."""
    draining: bool = False
    """Whether the server shuts down: it is no longer ready, and closes each connection after its response."""
    started_at: int = field(init=False)
    """Unix seconds."""

    def __post_init__(self) -> None:
        self.started_at = int(self.clock())

    def drain(self) -> None:
        """Makes the server report that it is not ready."""
        self.draining = True
