"""A request to a pipeline. PURE."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(slots=True)
class ChatRequest:
    model: str
    """Name of the served model."""
    messages: list[Json]
    """As in OpenAI's chat; at least one."""
    body: Json
    """The whole request in the form of OpenAI's chat, without credentials. Has `model`, `messages` and `stream`."""
    input_items: list[Json] | None = None
    """The conversation as input items of the Responses API. None: the request has the task `chat`."""
    caller: str = ""
    """Name of the API key's owner; empty: unknown."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """The call's metadata of contract.METADATA_PARAMETERS, such as `x-request-id`; never credentials."""

    @property
    def streams(self) -> bool:
        """Whether the client gets a stream."""
        return bool(self.body.get("stream"))

    @property
    def n(self) -> int:
        """Number of choices."""
        return self.body.get("n") or 1

    @property
    def tools(self) -> Sequence[Json]:
        """Tools that the answer may call; empty: it must have no calls."""
        tools = self.body.get("tools") or ()
        return () if self.body.get("tool_choice") == "none" else tools
