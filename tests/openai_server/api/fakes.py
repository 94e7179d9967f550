"""Fakes for the unit tests of the dispatcher and of handlers."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any, cast

from starlette.types import Message

from openai_server.access.caps import Caps
from openai_server.api.services import Services
from openai_server.core.errors import APIError
from openai_server.core.request_context import RequestContext
from openai_server.core.tiers import DEFAULT, TIERS, Tier
from tests.openai_server.exchange import FakeExchange


class FakeAccess:
    """Records its calls, and raises the errors in `refusals` by the name of the method."""

    def __init__(self, *, is_limited: bool = False, refusals: Mapping[str, APIError] = MappingProxyType({})) -> None:
        self.calls: list[Any] = []
        self.headers: dict[str, str] = {}
        self.is_limited = is_limited
        self.caller = SimpleNamespace(label="label")
        self.caller_id = "caller"
        self.owner = ""
        self._refusals = refusals

    def _call(self, name: str, *arguments: object) -> None:
        self.calls.append((name, *arguments) if arguments else name)
        if name in self._refusals:
            raise self._refusals[name]

    def preflight(self) -> dict[str, str] | None:
        self._call("preflight")
        return None

    def authenticate(self) -> None:
        self._call("authenticate")

    def share_as(self, fairness_id: str) -> None:
        self._call("share_as", fairness_id)

    def count_request(self) -> None:
        self._call("count_request")

    def hold(self, n_bytes: int) -> None:
        self._call("hold", n_bytes)

    def reserve(self, prompt_tokens: int, output_tokens: int) -> None:
        self._call("reserve", prompt_tokens, output_tokens)

    def take_tier(self, name: str) -> Tier:
        self._call("take_tier", name)
        return TIERS.get(name, DEFAULT)

    def used(self, tokens: int | None) -> None:
        self._call("used", tokens)

    def delivered(self, usages: Iterable[Any], n_prompts: int, n_tokens: int) -> None:
        self._call("delivered", list(usages), n_prompts, n_tokens)

    async def __aenter__(self) -> None:
        self._call("enter")

    async def __aexit__(self, *_: object) -> None:
        self._call("leave")

    def end(self) -> None:
        self._call("end")


class FakeBodies:
    """Parses a fixed body."""

    def __init__(self, body: bytes = b"{}") -> None:
        self._body = body

    async def read(self, parse: Any, _: RequestContext) -> tuple[Any, int]:
        return parse(self._body, Caps()), len(self._body)


def services(**fields: Any) -> Services:
    return cast(Services, SimpleNamespace(**{"draining": False, "clock": lambda: 5.0, "started_at": 5, **fields}))


def request_context(access: FakeAccess | None = None, **fields: Any) -> RequestContext:
    context = RequestContext(**{"scope": FakeExchange().scope, **fields})
    context.access = access or FakeAccess()
    return context


class Client:
    """Records the messages of one request; `send` is ASGI's."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def send(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        """Status of the only response."""
        [start] = [message for message in self.messages if message["type"] == "http.response.start"]
        return int(start["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)
