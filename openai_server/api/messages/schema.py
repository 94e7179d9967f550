"""Requests of `/v1/messages` and `/v1/messages/count_tokens` as Structs, and their conversion to turns. PURE."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from openai_server.api.messages.blocks import MessageParam, SystemContent
from openai_server.api.messages.conversation import continues_answer, translated
from openai_server.api.messages.tools import AnyToolChoice, ToolParam, tool_use, tools_of
from openai_server.api.schemas.bounds import MAX_MESSAGES, MAX_TOOLS
from openai_server.api.schemas.guides import Text, guide_of, not_together
from openai_server.api.schemas.requests import GenerateRequest, GenerationFields, TokenLimit
from openai_server.api.sealed_items import SealedItem, with_opened
from openai_server.core.turn import NO_GUIDE, Guide, Sampling, TemplateOptions, Turn
from protos import contract

MIN_BUDGET = 1024
"""Minimum of `thinking.budget_tokens`."""

# ---- Thinking


class ThinkingEnabled(Struct, tag_field="type", tag="enabled"):
    budget_tokens: Annotated[int, Meta(ge=MIN_BUDGET, le=contract.INT32_MAX)]
    display: Literal["summarized", "omitted"] | None = None


class ThinkingAdaptive(Struct, tag_field="type", tag="adaptive"):
    display: Literal["summarized", "omitted"] | None = None


class ThinkingBetweenTools(Struct, tag_field="type", tag="between_tools"):
    pass


class ThinkingDisabled(Struct, tag_field="type", tag="disabled"):
    pass


Thinking = ThinkingEnabled | ThinkingAdaptive | ThinkingBetweenTools | ThinkingDisabled

# ---- Output


class JsonOutputFormat(Struct, tag_field="type", tag="json_schema"):
    schema: dict[str, Any]


class OutputConfig(Struct):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonOutputFormat | None = None


# ---- Requests

Messages = Annotated[list[MessageParam], Meta(min_length=1, max_length=MAX_MESSAGES)]
Tools = Annotated[list[ToolParam], Meta(max_length=MAX_TOOLS)]


class _Conversation:
    """The fields that determine the prompt. Both Structs define them: a Struct can have only one as its base."""

    __slots__ = ()

    model: str | None
    messages: Messages
    system: SystemContent | None
    tools: Tools | None
    tool_choice: AnyToolChoice | None
    thinking: Thinking | None
    output_config: OutputConfig | None
    output_format: JsonOutputFormat | None
    chat_template_kwargs: dict[str, Any] | None

    def _turn(
        self, sampling: Sampling, guide: Guide, token_limit: int | None, names: Mapping[str, str]
    ) -> "ConversationTurn":
        """Raises InvalidRequest."""
        messages, message_fields, sealed, pieces = translated(self.system, self.messages)
        tools = tools_of(self.tools or ())
        thinking, is_hint = _thinking(self.thinking)
        return ConversationTurn(
            model=self.model,
            messages=messages,
            tools=tools,
            tool_use=tool_use(self.tool_choice, self.tools or (), tools),
            template=TemplateOptions(
                continue_final_message=continues_answer(messages) or None,
                chat_template_kwargs=self.chat_template_kwargs,
                enable_thinking=thinking,
                reasoning_effort=self.output_config.effort if self.output_config else None,
            ),
            effort_is_hint=True,
            thinking_is_hint=is_hint,
            sampling=sampling,
            guide=guide,
            token_limit=token_limit,
            reasoning_limit=self.thinking.budget_tokens if isinstance(self.thinking, ThinkingEnabled) else None,
            reports_stop=True,
            names=names,
            message_fields=message_fields,
            sealed_items=sealed,
            reasoning_pieces=pieces,
            tool_fields=[f"tools[{i}]" for i, tool in enumerate(self.tools or ()) if tool.is_offered],
        )


class CountTokensRequest(Struct, _Conversation, kw_only=True):
    """None is unset or null."""

    model: str | None = None
    messages: Messages
    system: SystemContent | None = None
    tools: Tools | None = None
    tool_choice: AnyToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: JsonOutputFormat | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def turn(self) -> "ConversationTurn":
        """Raises InvalidRequest."""
        return self._turn(Sampling(), NO_GUIDE, None, NAMES)


class MessagesRequest(GenerationFields, _Conversation, kw_only=True):
    model: str | None = None
    max_tokens: TokenLimit
    messages: Messages
    system: SystemContent | None = None
    tools: Tools | None = None
    tool_choice: AnyToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: JsonOutputFormat | None = None  # the older place of `output_config.format`
    stop_sequences: Annotated[list[Text], Meta(max_length=contract.MAX_STOP_STRINGS)] | None = None
    stream: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None  # an extension
    metadata: Any = None
    """For backends that take chats, which get its `user_id`. Elsewhere it has no effect."""

    @property
    def guide(self) -> Guide:
        """Raises InvalidRequest if several fields constrain the text."""
        format = self.output_config.format if self.output_config else None
        if format is None:
            return guide_of(self, *_guides("output_format", self.output_format))
        if self.output_format is not None and format.schema != self.output_format.schema:
            raise not_together("output_format", "output_config.format")
        return guide_of(self, *_guides("output_config.format", format))

    @property
    def stop(self) -> list[str] | None:
        return self.stop_sequences or None

    def turn(self) -> "ConversationTurn":
        """Raises InvalidRequest."""
        names = NAMES if self.repeat_penalty is None else {**NAMES, "repetition_penalty": "repeat_penalty"}
        turn = self._turn(self._sampling(), self.guide, self.max_tokens, names)
        if isinstance(self.metadata, dict) and (user := self.metadata.get("user_id")) is not None:
            turn.extras = {"user": user}
        return turn

    @property
    def omits_thinking(self) -> bool:
        return isinstance(self.thinking, ThinkingEnabled | ThinkingAdaptive) and self.thinking.display == "omitted"


class ConversationTurn(Turn, kw_only=True):
    sealed_items: Sequence[SealedItem] = ()
    """Reasoning that this server sealed, whose texts have to be opened before the turn is complete."""
    reasoning_pieces: Mapping[int, Sequence[str]] = {}
    """The reasoning of messages with sealed reasoning, by position."""

    def with_opened(self, texts: Sequence[str | None]) -> "ConversationTurn":
        """The turn with the text of each of `sealed_items`; None: it can't be opened."""
        messages = with_opened(self.messages, self.sealed_items, self.reasoning_pieces, texts)
        return replace(self, messages=messages, sealed_items=(), reasoning_pieces={})


class MessagesTurn(GenerateRequest, kw_only=True):
    """A turn, and the form of its response."""

    omits_thinking: bool = False
    """Whether the text of reasoning is left out of the response."""
    stop_sequences: tuple[str, ...] = ()
    """Those of the client."""
    is_batched: bool = False
    """Whether it is a line of a batch, which its usage reports."""


NAMES: Mapping[str, str] = {
    "enable_thinking": "thinking",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
    "parameters": "{}.input_schema",
    "prompt": "messages",
    "reasoning_effort": "output_config.effort",
    "reasoning_limit": "thinking.budget_tokens",
    "stop": "stop_sequences",
    "token_limit": "max_tokens",
    "tool_use": "tool_choice",
    "user": "metadata.user_id",
}


def _guides(field: str, format: JsonOutputFormat | None) -> list[Guide]:
    return [] if format is None else [Guide(field=field, json_schema=format.schema, strict=True)]


def _thinking(thinking: Thinking | None) -> tuple[bool, bool]:
    """Whether the model reasons, and whether that is only a hint, which has no effect if the template has no switch.

    Without the field a model doesn't reason, as in Anthropic's API, so that clients find the text in the first block.
    """
    match thinking:
        case ThinkingEnabled():
            return True, False
        case ThinkingDisabled():
            return False, False
        case None:
            return False, True
    return True, True
