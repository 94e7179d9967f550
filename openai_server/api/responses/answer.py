"""The response object of `/v1/responses`, and the items of its output. PURE.

The keys are those of the `openai` package's types and those that the Open Responses specification requires, which
include the penalties.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from openai_server.api.chat.answer import ChatToken

ItemStatus = Literal["in_progress", "completed", "incomplete"]

# ---- Parts of items


class ResponseText(Struct, tag_field="type", tag="output_text"):
    text: str
    annotations: Sequence[Any]
    """Always empty: nothing here cites files or pages."""
    logprobs: Sequence[ChatToken]
    """Empty unless requested."""


class ResponseRefusal(Struct, tag_field="type", tag="refusal"):
    refusal: str


class ResponseReasoningText(Struct, tag_field="type", tag="reasoning_text"):
    text: str


ResponsePart = ResponseText | ResponseRefusal | ResponseReasoningText

# ---- Items


class ResponseMessage(Struct, tag_field="type", tag="message"):
    id: str
    status: ItemStatus
    role: Literal["assistant"]
    content: Sequence[ResponseText | ResponseRefusal]
    phase: Literal["commentary", "final_answer"] | UnsetType = UNSET
    """Set when the item is done. `commentary`: the response has a call, or an item after this one."""


class ResponseReasoning(Struct, tag_field="type", tag="reasoning"):
    id: str
    status: ItemStatus
    summary: Sequence[Any]
    """Always empty: the model's text is in `content`, and no second generation summarizes it."""
    content: Sequence[ResponseReasoningText]
    encrypted_content: str | UnsetType = UNSET


class ResponseFunctionCall(Struct, tag_field="type", tag="function_call"):
    id: str
    status: ItemStatus
    call_id: str
    name: str
    arguments: str
    namespace: str | UnsetType = UNSET


class ResponseCustomToolCall(Struct, tag_field="type", tag="custom_tool_call"):
    """OpenAI sends `status` too, although its type of an output lacks it."""

    id: str
    status: ItemStatus
    call_id: str
    name: str
    input: str
    namespace: str | UnsetType = UNSET


class ResponseCompaction(Struct, tag_field="type", tag="compaction"):
    """A summary of the conversation, which replaces it in the next request."""

    id: str
    encrypted_content: str
    """Empty while the model writes the summary."""


ResponseItem = ResponseMessage | ResponseReasoning | ResponseFunctionCall | ResponseCustomToolCall | ResponseCompaction


class ResponseInputText(Struct, tag_field="type", tag="input_text"):
    text: str


class ResponseInputFile(Struct, tag_field="type", tag="input_file"):
    """A file of the user, which has one of `file_id`, `file_data` and `file_url`."""

    file_id: str | UnsetType = UNSET
    file_data: str | UnsetType = UNSET
    file_url: str | UnsetType = UNSET
    filename: str | UnsetType = UNSET


class ResponseUserMessage(Struct, tag_field="type", tag="message"):
    """A message of the user, unchanged."""

    id: str
    status: Literal["completed"]
    role: Literal["user"]
    content: Sequence[ResponseInputText | ResponseInputFile]


# ---- The response


class ResponseInputTokens(Struct):
    cached_tokens: int
    """0 also if the backend doesn't report it: both types require a number."""
    cache_write_tokens: int
    """Always 0: writing to the cache costs nothing here."""


class ResponseOutputTokens(Struct):
    reasoning_tokens: int
    """0 also if the backend doesn't report it."""


class ResponseUsage(Struct):
    input_tokens: int
    input_tokens_details: ResponseInputTokens
    output_tokens: int
    output_tokens_details: ResponseOutputTokens
    total_tokens: int


class IncompleteDetails(Struct):
    reason: Literal["max_output_tokens", "content_filter"]


class ResponseError(Struct):
    code: str
    message: str


class ResponseConversation(Struct):
    id: str


class ResponseObject(Struct, kw_only=True):
    id: str
    object: Literal["response"] = "response"
    created_at: int
    """Unix seconds, as is `completed_at`."""
    completed_at: int | None
    """None unless the status is `completed`."""
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    background: bool
    conversation: ResponseConversation | UnsetType = UNSET
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    model: str
    output: Sequence[ResponseItem]
    parallel_tool_calls: bool
    presence_penalty: float
    frequency_penalty: float
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: Mapping[str, str | None]
    safety_identifier: str | None
    service_tier: str
    store: bool
    """Whether the response can be retrieved. At the beginning of a stream: whether it will be."""
    temperature: float
    text: Mapping[str, Any]
    tool_choice: Any
    tools: Sequence[Mapping[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None
    """None before the end, after a failure, and if the backend doesn't count tokens."""
    user: str | None
    metadata: Mapping[str, str]


class CompactedResponse(Struct, kw_only=True):
    """The conversation in short: the messages of the user, and the summary."""

    id: str
    object: Literal["response.compaction"] = "response.compaction"
    created_at: int
    """Unix seconds."""
    output: Sequence[ResponseUserMessage | ResponseCompaction]
    usage: ResponseUsage | None
    """None if the backend doesn't count tokens."""
