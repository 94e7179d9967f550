"""Answers and events of `/v1/messages`. PURE.

Nullable fields are always present, as in Anthropic's answers.
"""

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal", "model_context_window_exceeded"]

# ---- Blocks


class TextBlock(Struct, tag_field="type", tag="text"):
    text: str
    citations: Sequence[Any] = ()
    """Always empty. Some clients refuse null here, which Anthropic's API has."""


class ThinkingBlock(Struct, tag_field="type", tag="thinking"):
    thinking: str
    signature: str


class DirectCaller(Struct, tag_field="type", tag="direct"):
    """The model itself, rather than code that it wrote."""


class ToolUseBlock(Struct, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]
    caller: DirectCaller


ContentBlock = TextBlock | ThinkingBlock | ToolUseBlock

# ---- Token counts


class CacheCreation(Struct):
    """No prefix is stored for a set time."""

    ephemeral_5m_input_tokens: int = 0
    ephemeral_1h_input_tokens: int = 0


class OutputTokensDetails(Struct):
    thinking_tokens: int


class DeltaUsage(Struct, kw_only=True):
    """Token counts at the end of a stream. A prompt's tokens are the sum of the first three."""

    input_tokens: int
    """Without cached tokens. 0 if the backend doesn't count, as the API allows no null here."""
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int | None
    """None: the backend doesn't report it, and `input_tokens` includes it."""
    output_tokens: int
    """0 if the backend doesn't count."""
    output_tokens_details: OutputTokensDetails | None
    """None: the model doesn't reason, or the backend doesn't count it."""
    server_tool_use: None = None


class MessageUsage(DeltaUsage, kw_only=True):
    cache_creation: CacheCreation
    service_tier: Literal["standard", "batch"] = "standard"
    inference_geo: None = None


# ---- Whole answers


class StopDetails(Struct, tag_field="type", tag="refusal"):
    category: None = None
    explanation: None = None


class AnthropicMessage(Struct, tag_field="type", tag="message"):
    id: str
    role: Literal["assistant"]
    model: str
    content: list[ContentBlock]
    stop_reason: StopReason | None
    """None: at the start of a stream."""
    stop_sequence: str | None
    """The one that ended the answer; None: something else ended it."""
    stop_details: StopDetails | None
    container: None
    usage: MessageUsage


class TokenCount(Struct):
    input_tokens: int


# ---- Events of a stream


class MessageStart(Struct, tag_field="type", tag="message_start"):
    message: AnthropicMessage


class BlockStart(Struct, tag_field="type", tag="content_block_start"):
    index: int
    content_block: ContentBlock


class TextDelta(Struct, tag_field="type", tag="text_delta"):
    text: str


class ThinkingDelta(Struct, tag_field="type", tag="thinking_delta"):
    thinking: str


class SignatureDelta(Struct, tag_field="type", tag="signature_delta"):
    signature: str


class InputJsonDelta(Struct, tag_field="type", tag="input_json_delta"):
    partial_json: str


class BlockDelta(Struct, tag_field="type", tag="content_block_delta"):
    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta


class BlockStop(Struct, tag_field="type", tag="content_block_stop"):
    index: int


class StopDelta(Struct):
    stop_reason: StopReason
    stop_sequence: str | None
    stop_details: StopDetails | None
    container: None


class MessageDelta(Struct, tag_field="type", tag="message_delta"):
    delta: StopDelta
    usage: DeltaUsage


class MessageStop(Struct, tag_field="type", tag="message_stop"):
    pass


class Ping(Struct, tag_field="type", tag="ping"):
    """Keeps a silent connection open."""
