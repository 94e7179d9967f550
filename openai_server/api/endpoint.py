"""What an endpoint is made of: the entry of `registry.py` that its folder gives.

The router, the names in metrics and logs, the exemptions from API keys, the OpenAPI document and the tables of
docs/fields.md are made from these entries.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct
from starlette.responses import Response

from openai_server.api.schemas import Fields
from openai_server.api.services import Services
from openai_server.core.errors import GRPC_TO_HTTP
from openai_server.core.request_context import RequestContext

Handler = Callable[[RequestContext], Awaitable[Response]]
"""Returns the response. Raises APIError, ClientGone and ClientDisconnect; of the response too, an EventStream may raise
them before it has sent anything."""

ALWAYS = frozenset({500})
OF_BACKEND = frozenset(http.status for http in GRPC_TO_HTTP.values())
OF_BODY = frozenset({400, 408, 413, 415, 429})
"""HTTP statuses of errors that any endpoint, one that calls the backend, and one with a body may answer with."""
LOOKUP = ALWAYS | OF_BACKEND
WORK = ALWAYS | OF_BACKEND | OF_BODY


class Example(Struct, frozen=True):
    """A request's body. `summary` is its title in the list of the reference page."""

    summary: str
    body: Mapping[str, Any]


class RequestType(Struct, frozen=True):
    """One form of a request's body."""

    name: str
    """Name of the table of its fields in docs/fields.md."""
    struct: type[Struct]
    fields: Fields
    """Decides about its keys."""
    key: str = ""
    """The field that tells this form from the endpoint's others, if it has several."""


class Description(Struct, frozen=True, kw_only=True):
    """An endpoint in the OpenAPI document."""

    tag: str
    summary: str
    requests: Sequence[RequestType] = ()
    """Forms of the body; empty without one."""
    examples: Mapping[str, Example] = {}
    """Bodies that are answered as they stand, by name; the reference page shows the first one."""
    answers: Sequence[Any]
    """Types of the answer: Structs, or `str` for text."""
    chunk: type[Struct] | None = None
    """Type of a stream's events."""
    example: Any
    """An answer; that to the first request, if there are any."""
    errors: frozenset[int]
    """HTTP statuses, besides 401 where keys are needed."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Endpoint:
    """A method of some paths. `{model}` in a path is a model's name, which may have slashes."""

    paths: Sequence[str]
    """The first one names the endpoint in metrics, logs and the OpenAPI document; the others are aliases."""
    method: str
    """A GET answers HEAD too."""
    handler: Callable[[Services], Handler]
    """Makes the handler, once for each server."""
    operation: str = ""
    """OpenTelemetry's `gen_ai.operation.name`; empty if its conventions have none for it."""
    is_open: bool = False
    """Answers without a key, for probes and clients that don't have one yet."""
    is_logged: bool = True
    """False for what machines request every few seconds: neither access lines nor spans."""
    is_administration: bool = False
    """Served on `--admin-port` if there is one, and then not on the API's port."""
    description: Description | None
    """None: not in the OpenAPI document."""

    name: str = field(init=False)
    """In metrics and logs."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.paths[0])


def with_v1(path: str) -> tuple[str, ...]:
    """The path, and without /v1 for clients whose base URL has none."""
    return f"/v1{path}", path


def by_model(*names: str) -> tuple[str, ...]:
    """Paths with the model in them, for openai 0.28 with `engine=`, below the model's own path, and by itself."""
    prefixes = ("/v1/engines/{model}", "/engines/{model}", "/v1/models/{model}", "/models/{model}", "/{model}")
    return tuple(f"{prefix}/{name}" for prefix in prefixes for name in names)
