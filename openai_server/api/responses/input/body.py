"""The body of a `/v1/responses` request as a Struct. PURE."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from anyserve_common.text import shortened
from openai_server.api.responses.input.configuration import (
    AnyFormat,
    FlatSchemaFormat,
    ObjectFormat,
    PlainFormat,
    ReasoningConfig,
    StreamConfig,
    TextConfig,
)
from openai_server.api.responses.input.items import Item
from openai_server.api.responses.input.tools import AnyTool, ToolChoice
from openai_server.api.schemas import Request
from openai_server.api.schemas.bounds import MAX_TOOLS
from openai_server.api.schemas.extras import CLIENT_FIELDS, extras_reader
from openai_server.api.schemas.guides import ANY_OBJECT
from openai_server.api.schemas.requests import ReasoningTokens, TokenLimit
from openai_server.core.errors import AboveLimit
from openai_server.core.tiers import RequestedTier
from openai_server.core.turn import Guide, PromptField, Sampling
from protos import contract

MAX_INPUT_ITEMS = 8192
MAX_LABEL, MAX_LABEL_VALUE = 64, 512
"""Characters of a key and of a value of `metadata`."""


Metadata = Annotated[dict[str, str], Meta(max_length=16)]


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Raises AboveLimit."""
    for name, value in metadata.items():
        if len(name) > MAX_LABEL or len(value) > MAX_LABEL_VALUE:
            raise AboveLimit(
                f"metadata.{shortened(name)}",
                f"must have at most {MAX_LABEL} characters in its key and {MAX_LABEL_VALUE} in its value",
                kind="string",
            )


class ConversationReference(Struct):
    id: str


class ResponsesBody(Request, kw_only=True):
    """Inherits the sampling fields; fields.py refuses the inherited fields that have another name in this API."""

    input: str | Annotated[list[Item], Meta(max_length=MAX_INPUT_ITEMS)] | None = None
    """None: the request only continues what is stored."""
    instructions: str | None = None
    max_output_tokens: TokenLimit | None = None
    tools: Annotated[list[AnyTool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Annotated[int, Meta(ge=1, le=contract.INT32_MAX)] | None = None
    """Limits the calls of tools that run on the server. There are none, so it has no effect; the response repeats
    it."""
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    include: Annotated[list[str], Meta(max_length=64)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=contract.MAX_LOGPROBS)] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    """`auto` drops the oldest messages of a conversation that doesn't fit into the model's context."""
    store: bool | None = None
    """None: stores the response if the server has a store."""
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: str | ConversationReference | None = None
    stream_options: StreamConfig | None = None  # type: ignore[assignment]
    # The response repeats these.
    metadata: Metadata | None = None
    safety_identifier: Annotated[str, Meta(max_length=128)] | None = None
    prompt_cache_key: str | None = None
    user: str | None = None
    # For backends that take chats. Elsewhere they have no effect.
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    service_tier: RequestedTier | None = None
    """How urgent the request is. A backend that takes chats gets it too."""
    # Extensions, for templates.
    chat_template_kwargs: dict[str, Any] | None = None
    enable_thinking: bool | None = None
    # The limit of reasoning, as in a chat.
    thinking_token_budget: ReasoningTokens | None = None
    reasoning_budget_tokens: ReasoningTokens | None = None
    thinking_budget_tokens: ReasoningTokens | None = None

    def prompt_fields(self) -> Iterable[PromptField]:
        yield PromptField("instructions", [self.instructions or ""])
        if isinstance(self.input, str):
            yield PromptField("input", [self.input])

    def sampling(self) -> Sampling:
        return self._sampling()

    def extras(self) -> Mapping[str, Any]:
        """Fields for backends that take chats, by their names in a chat."""
        extras = _extras_of(self)
        verbosity = self.text.verbosity if self.text else None
        return extras if verbosity is None else {**extras, "verbosity": verbosity}


_extras_of = extras_reader(CLIENT_FIELDS)


def guide_of_format(format: AnyFormat | None, field: str) -> Guide | None:
    """The guide of a format; None for text. `field` is the format's path in the request."""
    match format:
        case None | PlainFormat():
            return None
        case ObjectFormat(schema=schema):
            return Guide(field=field, json_schema=schema or ANY_OBJECT)
        case FlatSchemaFormat():
            return Guide(
                field=field,
                json_schema=format.schema or ANY_OBJECT,
                name=format.name,
                description=format.description or "",
                strict=bool(format.strict),
            )
