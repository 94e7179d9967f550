"""The events of `/v1/responses`' streams. PURE.

Each is sent with its type as the name of the server-sent event. Reasoning has OpenAI's event names, which Codex reads;
Open Responses has `response.reasoning.delta` instead.
"""

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from openai_server.api.chat.answer import ChatToken
from openai_server.api.responses.answer import (
    ResponseItem,
    ResponseObject,
    ResponsePart,
)
from openai_server.http import sse

_encode = msgspec.json.Encoder().encode


class StreamEvent(Struct, kw_only=True, tag_field="type"):
    sequence_number: int = 0
    """Counts the events of a stream from 0. The writer sets it."""


# ---- The response


class ResponseCreated(StreamEvent, kw_only=True, tag="response.created"):
    response: ResponseObject


class ResponseQueued(StreamEvent, kw_only=True, tag="response.queued"):
    """Only of background responses."""

    response: ResponseObject


class ResponseInProgress(StreamEvent, kw_only=True, tag="response.in_progress"):
    response: ResponseObject


class ResponseCompacting(StreamEvent, kw_only=True, tag="response.compaction.compacting"):
    """The model has written more of a summary."""

    item_id: str
    output_index: int


class ResponseCompleted(StreamEvent, kw_only=True, tag="response.completed"):
    response: ResponseObject


class ResponseIncomplete(StreamEvent, kw_only=True, tag="response.incomplete"):
    response: ResponseObject


class ResponseFailed(StreamEvent, kw_only=True, tag="response.failed"):
    response: ResponseObject


class ResponseErrorDetail(Struct):
    """The error in the form of Open Responses."""

    type: str
    code: str | None
    message: str
    param: str | None


class ResponseErrorEvent(StreamEvent, kw_only=True, tag="error"):
    """Has the error twice: in OpenAI's form, which is flat, and in that of Open Responses."""

    code: str | None
    message: str
    param: str | None
    error: ResponseErrorDetail


# ---- Items


class OutputItemAdded(StreamEvent, kw_only=True, tag="response.output_item.added"):
    output_index: int
    item: ResponseItem


class OutputItemDone(StreamEvent, kw_only=True, tag="response.output_item.done"):
    output_index: int
    item: ResponseItem


# ---- Parts of messages and reasoning


class PartEvent(StreamEvent, kw_only=True):
    item_id: str
    output_index: int
    content_index: int


class ContentPartAdded(PartEvent, kw_only=True, tag="response.content_part.added"):
    part: ResponsePart


class ContentPartDone(PartEvent, kw_only=True, tag="response.content_part.done"):
    part: ResponsePart


class OutputTextDelta(PartEvent, kw_only=True, tag="response.output_text.delta"):
    logprobs: Sequence[ChatToken]
    delta: str


class OutputTextDone(PartEvent, kw_only=True, tag="response.output_text.done"):
    logprobs: Sequence[ChatToken]
    text: str


class RefusalDelta(PartEvent, kw_only=True, tag="response.refusal.delta"):
    delta: str


class RefusalDone(PartEvent, kw_only=True, tag="response.refusal.done"):
    refusal: str


class ReasoningTextDelta(PartEvent, kw_only=True, tag="response.reasoning_text.delta"):
    delta: str


class ReasoningTextDone(PartEvent, kw_only=True, tag="response.reasoning_text.done"):
    text: str


# ---- Calls


class CallEvent(StreamEvent, kw_only=True):
    item_id: str
    output_index: int


class FunctionCallArgumentsDelta(CallEvent, kw_only=True, tag="response.function_call_arguments.delta"):
    delta: str


class FunctionCallArgumentsDone(CallEvent, kw_only=True, tag="response.function_call_arguments.done"):
    arguments: str


class CustomToolCallInputDelta(CallEvent, kw_only=True, tag="response.custom_tool_call_input.delta"):
    delta: str


class CustomToolCallInputDone(CallEvent, kw_only=True, tag="response.custom_tool_call_input.done"):
    input: str


EVENT_TYPES: tuple[type[StreamEvent], ...] = (
    ResponseCreated,
    ResponseQueued,
    ResponseInProgress,
    OutputItemAdded,
    ContentPartAdded,
    OutputTextDelta,
    OutputTextDone,
    RefusalDelta,
    RefusalDone,
    ReasoningTextDelta,
    ReasoningTextDone,
    ContentPartDone,
    FunctionCallArgumentsDelta,
    FunctionCallArgumentsDone,
    CustomToolCallInputDelta,
    CustomToolCallInputDone,
    ResponseCompacting,
    OutputItemDone,
    ResponseCompleted,
    ResponseIncomplete,
    ResponseErrorEvent,
    ResponseFailed,
)
"""All events, in the order of a stream."""

Delta = OutputTextDelta | RefusalDelta | ReasoningTextDelta | FunctionCallArgumentsDelta | CustomToolCallInputDelta


def encoded(event: StreamEvent) -> bytes:
    """The event as a server-sent event."""
    return b"event: %b\n%b" % (_names[type(event)], sse.DATA) + _encode(event) + sse.END


_names = {kind: str(kind.__struct_config__.tag).encode() for kind in EVENT_TYPES}
