"""The description of an endpoint. Each endpoint's folder defines one, and `registry.py` lists them.

The router, the names in metrics and logs, the exemptions from API keys, the OpenAPI document and the tables of
docs/fields.md are generated from these entries.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct
from starlette.responses import Response

from openai_server.api.client_api import OPENAI, ClientApi
from openai_server.api.schemas import Fields
from openai_server.api.services import Services
from openai_server.core.errors import GRPC_TO_HTTP
from openai_server.core.request_context import RequestContext

Handler = Callable[[RequestContext], Awaitable[Response]]
"""Returns the response. Raises APIError, ClientGone and ClientDisconnect. An EventStream that it returns may raise them
too, before it has sent anything."""

ALWAYS = frozenset({500})
OF_BACKEND = frozenset(http.status for http in GRPC_TO_HTTP.values())
OF_BODY = frozenset({400, 408, 413, 415, 429})
"""Error statuses of any endpoint, of one that calls the backend, and of one whose requests have a body."""
STORE = ALWAYS | {400, 404, 429, 503}
"""Error statuses of an endpoint for stored objects."""
LOOKUP = ALWAYS | OF_BACKEND
WORK = ALWAYS | OF_BACKEND | OF_BODY


class Example(Struct, frozen=True):
    """An example of a request's body. `summary` is its title on the reference page."""

    summary: str
    body: Mapping[str, Any]


class RequestType(Struct, frozen=True):
    """One form of a request's body."""

    name: str
    """Name of the table of its fields in docs/fields.md."""
    struct: type[Struct]
    fields: Fields
    """The table that decides which keys are accepted."""
    key: str = ""
    """The field that distinguishes this form from the endpoint's other forms; empty if it has no others."""


class Parameter(Struct, frozen=True):
    """A parameter of a URL: in the path if the path has its name in braces, else in the query."""

    name: str
    description: str
    schema: Mapping[str, Any]
    """JSON Schema."""
    example: Any


class Description(Struct, frozen=True, kw_only=True):
    """An endpoint in the OpenAPI document."""

    tag: str
    summary: str
    requests: Sequence[RequestType] = ()
    """Forms of the body; empty without one."""
    is_form: bool = False
    """Whether the body is a form (multipart/form-data); otherwise it is JSON."""
    examples: Mapping[str, Example] = {}
    """Bodies by name, each of them a complete request; the reference page shows the first one."""
    parameters: Sequence[Parameter] = ()
    """Parameters of the path, except `model`, and of the query."""
    is_list: bool = False
    """Whether it is the list of the objects that a POST request to the same path creates."""
    answers: Sequence[Any]
    """Types of the answer: Structs, `str` for text, or `bytes` for the content of a file."""
    events: Sequence[type[Struct]] = ()
    """Types of a stream's events; empty if the endpoint has no streams."""
    ends_with_done: bool = True
    """Whether the data of a stream's last event is `[DONE]`."""
    example: Any
    """An example answer, to the first of `examples` if there are any."""
    errors: frozenset[int]
    """Error statuses, besides 401 where keys are needed."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Endpoint:
    """One method of one or several paths. `{model}` in a path is a model's name, which may contain slashes."""

    paths: Sequence[str]
    """The first one names the endpoint in metrics, logs and the OpenAPI document; the others are aliases."""
    method: str
    """The HTTP method. GET includes HEAD."""
    handler: Callable[[Services], Handler]
    """Creates the handler, once for each server."""
    client_api: ClientApi = OPENAI
    """The API whose conventions its responses follow."""
    operation: str = ""
    """OpenTelemetry's `gen_ai.operation.name`; empty if its conventions have none for it."""
    is_open: bool = False
    """Whether it needs no API key: for probes, and for clients that don't have a key yet."""
    is_logged: bool = True
    """Whether its requests get access lines and spans; False for paths that are polled every few seconds."""
    is_administration: bool = False
    """Whether it is served on `--admin-port` if there is one, and then not on the API's port."""
    description: Description | Callable[[], Description] | None
    """A function if the types of bodies and answers take time and memory that the start-up doesn't need. None: not in
    the OpenAPI document."""

    name: str = field(init=False)
    """The endpoint's name in metrics and logs: its first path."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.paths[0])

    def described(self) -> Description | None:
        """The description; None: not in the OpenAPI document."""
        return self.description() if callable(self.description) else self.description


def with_v1(path: str) -> tuple[str, ...]:
    """The path with the prefix /v1, without it for clients whose base URL has no /v1, and both below Azure's prefix."""
    return f"/v1{path}", path, f"/openai/v1{path}", f"/openai{path}"


def by_model(*names: str) -> tuple[str, ...]:
    """Paths that contain the model: for openai 0.28 with `engine=`, for Azure, and below the path of the model."""
    prefixes = (
        *("/v1/engines/{model}", "/engines/{model}", "/openai/deployments/{model}"),
        *("/v1/models/{model}", "/models/{model}", "/{model}"),
    )
    return tuple(f"{prefix}/{name}" for prefix in prefixes for name in names)
