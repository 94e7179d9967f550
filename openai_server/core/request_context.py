"""The context of one HTTP request: input for its handler, and its outcome for the access log, metrics and span.

PURE. The dispatcher creates it and passes it to the endpoint's handler. `current()` is only for code that can't get it
as an argument: the calls to the backend.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol, cast

from msgspec import Struct

from openai_server.core import current_request
from openai_server.core.routing import NO_ROUTING, Routing
from openai_server.core.tiers import DEFAULT, Tier
from openai_server.core.usage import Usage
from protos import contract

OTHER = "other"
"""Name of the endpoint of a request whose path is not served."""


class Access(Protocol):
    """The part of access control that handlers use. `async with` waits for a slot, and gives it back at the end."""

    @property
    def caller_id(self) -> str:
        """Id of the caller; slots and turns are shared fairly between callers."""

    @property
    def owner(self) -> str:
        """Id of the API key's owner, which stored objects belong to; empty without API keys."""

    def share_as(self, fairness_id: str) -> None:
        """Sets the caller's id if there are no API keys. Limits stay those of all requests together."""

    @property
    def is_limited(self) -> bool:
        """Whether tokens are counted for this caller, so that `reserve` and `delivered` have an effect."""

    def count_request(self) -> None:
        """Counts the request against the caller's limit. Raises RateLimited."""

    def hold(self, n_bytes: int) -> None:
        """Counts more bytes of the request's body, or of the values decoded from it. Raises Overloaded."""

    def reserve(self, prompt_tokens: int, output_tokens: int) -> None:
        """Reserves tokens of the caller's limit: an estimate for the prompt, and the output limit.

        Raises RateLimited.
        """

    def used(self, tokens: int | None) -> None:
        """Sets the number of tokens to count; None is the estimate of the prompt."""

    def delivered(self, usages: Iterable[Usage | None], n_prompts: int, n_tokens: int) -> None:
        """Sets how far the answers came: usage of the complete ones, and the output tokens of all."""

    def take_tier(self, name: str) -> Tier:
        """The tier in which a request runs that requests this one. Raises NoFlexCapacity."""

    async def __aenter__(self) -> None:
        """Raises Overloaded and NoFlexCapacity."""

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None: ...


async def _no_message() -> dict[str, Any]:
    return {"type": "http.disconnect"}


class RequestContext(Struct, eq=False):
    """Context of one request. Times are those of `clock`, in seconds. Token counts are set at the end of an answer, if
    the backend counts."""

    id: str = ""
    method: str = ""
    path: str = ""
    """The path as the client sent it, for log lines; `scope["path"]` is decoded."""
    endpoint: str = OTHER
    """The endpoint's name in metrics and logs."""
    operation: str = ""
    """The endpoint's `gen_ai.operation.name` in OpenTelemetry's conventions; empty if they have none for it."""
    is_logged: bool = True
    """Whether it gets an access line and a span."""
    client: str = ""
    """The client's address."""
    caller: str = ""
    """The caller's name for the backend. Without API keys, the gateway's fairness id, or empty."""
    traceparent: str = ""
    """W3C trace context: the span that calls to the backend belong to."""
    tracestate: str = ""
    """W3C trace context: state of other tracing systems; empty without one."""
    routing: Routing = NO_ROUTING
    """Headers of a gateway's endpoint picker."""
    clock: Callable[[], float] = float
    """Returns seconds; the default always returns 0."""
    on_waiting: Callable[["RequestContext", int], None] = lambda _, __: None
    """Called with 1 when a stream begins to wait for its first token, and with -1 when it no longer does."""
    scope: Mapping[str, Any] = MappingProxyType({})
    """ASGI's `scope`."""
    receive: Callable[[], Awaitable[Any]] = _no_message
    """ASGI's `receive`."""
    parameters: Mapping[str, str] = MappingProxyType({})
    """Parameters in the path, such as `model`, by name."""
    access: Access = cast(Access, None)
    """Set by the dispatcher; None on the port for health and metrics."""
    tier: Tier = DEFAULT
    """The service tier in which the request runs."""
    answer_key: str = ""
    """The end of the answer's id, which is the same each time that a line of a batch runs; empty: any."""
    status: int = 0
    """HTTP status. A stream that failed midway has the status that an error response would have had; 499 if the client
    left before the end."""
    model: str = ""
    """The model that answers; empty until it is found."""
    stream: bool = False
    choices: int = 1
    """Number of choices."""
    usage: Usage | None = None
    """Token counts of a complete answer."""
    delivered: int = 0
    """Received tokens of a stream that was cut off."""
    finish_reasons: Sequence[str] = ()
    """Finish reasons of the choices, in the order in which they ended."""
    started: float = 0
    first_token: float | None = None
    """Time of a stream's first token; None before it."""
    ended: float = 0
    span: Any = None
    """OpenTelemetry's span; None without tracing."""

    def __post_init__(self) -> None:
        self.started = self.clock()

    # ---- Progress

    def begin_stream(self, choices: int, finish_reasons: Sequence[str] = ()) -> None:
        """Records the start of a stream; called again if the request is retried. `finish_reasons` grows as the choices
        end."""
        if not self.stream:
            self.on_waiting(self, 1)
        self.stream, self.choices, self.finish_reasons = True, choices, finish_reasons

    def take_first_token(self) -> None:
        self.first_token = self.clock()
        self.on_waiting(self, -1)

    def cut_off(self, usages: Iterable[Usage | None], n_taken: int) -> None:
        """Records the tokens of a stream that was cut off. `usages` are those of the complete answers, `n_taken` is the
        number of received pieces of text."""
        self.delivered = max(n_taken, sum(usage.completion for usage in usages if usage is not None))

    def take_answer(self, usage: Usage | None, n_choices: int = 1, finish_reasons: Sequence[str] = ()) -> None:
        """Records a whole answer. `finish_reasons` are those that the backend reported."""
        self.usage, self.choices, self.finish_reasons = usage, n_choices or 1, finish_reasons

    def end(self) -> None:
        self.ended = self.clock()
        if self.stream and self.first_token is None:
            self.on_waiting(self, -1)

    # ---- Derived values

    @property
    def completion_tokens(self) -> int | None:
        return self.usage.completion if self.usage else self.delivered or None

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.ended - self.started

    @property
    def time_to_first_token(self) -> float | None:
        """Seconds; None if the answer was no stream, or had no token."""
        return None if self.first_token is None else self.first_token - self.started

    @property
    def time_per_output_token(self) -> float | None:
        """Mean seconds between the tokens of a choice, after the first one; None if unknown."""
        if self.first_token is None or self.usage is None:
            return None
        gaps = self.usage.completion / self.choices - 1
        return (self.ended - self.first_token) / gaps if gaps > 0 else None

    @property
    def headers(self) -> list[tuple[str, str]]:
        """gRPC metadata of calls to the backend for this request."""
        headers = [(contract.METADATA_REQUEST_ID, self.id)] if self.id else []
        if self.traceparent:
            headers.append((contract.METADATA_TRACEPARENT, self.traceparent))
            if self.tracestate:
                headers.append((contract.METADATA_TRACESTATE, self.tracestate))
        if self.routing is not NO_ROUTING:
            headers += self.routing.passed_on
        return headers


def current() -> RequestContext:
    """The context of the request that this task works for; an empty one outside a request."""
    return current_request.context.get() or RequestContext()
