"""The form of the answer to a `/v1/responses` request, and the values that its response repeats. PURE."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from openai_server.api.schemas import GenerateRequest
from openai_server.api.sealed_items import SealedItem, with_opened
from openai_server.core.messages import UserMessage
from openai_server.parsing.choice_reader import AnswerFormat
from openai_server.store.records import NO_HISTORY, NOTHING, Base, History


class CalledTool(Struct, frozen=True):
    """How a call of a tool is reported. The prompt and the model's text have one flat name for each tool."""

    kind: Literal["function", "custom"]
    name: str
    """The tool's name in the request."""
    namespace: str | None = None
    """The namespace tool that contains it; None: it is in none."""


class Settings(Struct, kw_only=True):
    """Fields of the response object that repeat the request, with the values that were in effect."""

    instructions: str | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    """In the request's form; `strict` of a function is what the request demands."""
    tool_choice: Any = "auto"
    parallel_tool_calls: bool = True
    temperature: float = 1.0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    top_logprobs: int = 0
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    truncation: Literal["auto", "disabled"] = "disabled"
    text: Mapping[str, Any]
    """`format`, and `verbosity` if the request has it."""
    reasoning: Mapping[str, str | None]
    """`effort` and `summary`."""
    metadata: Mapping[str, str]
    service_tier: str = "default"
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    user: str | None = None
    # Where the response is kept, and what it continues.
    store: bool = False
    background: bool = False
    previous_response_id: str | None = None
    conversation: str | None = None
    """The conversation's id."""


class StoreUse(Struct, frozen=True, kw_only=True):
    """Stored items that a request continues, and whether its response is stored."""

    store: bool | None = None
    """Whether the response is stored; None: if there is a store."""
    background: bool = False
    base: Base = NOTHING
    references: Mapping[str, str] = {}
    """Ids of stored items in its input, each with its path."""
    is_queued: bool = False
    """Whether its response is in the store already, and keeps the items of a previous one that has been deleted."""

    @property
    def continues(self) -> bool:
        """Whether it needs stored items."""
        return self.base != NOTHING or bool(self.references)


NO_USE = StoreUse()


class ResponsesRequest(GenerateRequest, kw_only=True):
    """A turn, and how to report its answer."""

    settings: Settings
    include: frozenset[str] = frozenset()
    """Values of `include`: parts of items that the response has only on request."""
    tools: Mapping[str, CalledTool] = {}
    """Flat name in the prompt → the tool."""
    compacts: bool = False
    """Whether the answer is a summary that replaces the conversation: the request ends with a `compaction_trigger`
    item, or it was sent to `/v1/responses/compact`."""
    user_messages: Sequence[UserMessage] = ()
    """The user's messages in a conversation that is replaced, with their files."""
    sealed_items: Sequence[SealedItem] = ()
    """Items whose texts have to be opened before the turn is complete."""
    reasoning_pieces: Mapping[int, Sequence[str]] = {}
    """The reasoning of messages with sealed reasoning, by position in the turn."""
    use: StoreUse = NO_USE
    source: bytes = b""
    """The body, if the server has a store."""
    history: History = NO_HISTORY
    """The stored items before its own."""
    referenced: Mapping[str, bytes] = {}
    """The items that its references name, as JSON objects, by id."""

    @property
    def model(self) -> str | None:
        return self.turn.model

    @model.setter
    def model(self, name: str | None) -> None:
        self.turn.model = name

    def report_tier(self, name: str) -> None:
        self.settings = replace(self.settings, service_tier=name)

    def settings_for(self, format: AnswerFormat | None) -> Settings:
        """The settings, with the tools that are strict according to `format`: for a tool without `strict`, that follows
        from its schema and the backend."""
        if format is None or not format.strict_tools:
            return self.settings
        strict = {(tool.namespace, tool.name) for name in format.strict_tools if (tool := self.tools.get(name))}

        def enforced(tool: Mapping[str, Any], namespace: str | None = None) -> Mapping[str, Any]:
            if tool["type"] == "namespace":
                return {**tool, "tools": [enforced(inner, tool["name"]) for inner in tool["tools"]]}
            is_strict = tool["type"] == "function" and (namespace, tool["name"]) in strict
            return {**tool, "strict": True} if is_strict else tool

        return replace(self.settings, tools=[enforced(tool) for tool in self.settings.tools])

    def with_opened(self, texts: Sequence[str | None]) -> "ResponsesRequest":
        """The request with the text of each of `sealed_items`; None: it can't be opened. Raises InvalidRequest."""
        messages = with_opened(self.turn.messages, self.sealed_items, self.reasoning_pieces, texts)
        return replace(self, turn=replace(self.turn, messages=messages), sealed_items=(), reasoning_pieces={})
