"""The conversation of a turn: messages, their parts, and the calls in them.

PURE. The form is that of OpenAI's chat messages, which chat templates read, so that the chat API decodes into these
Structs. Other APIs translate into them.
"""

from typing import Annotated

import orjson
from msgspec import Meta, Struct

MAX_PARTS = 8192
"""Content parts, of all messages together."""
MAX_TOOL_CALLS = 8192
"""Tool calls, of all messages together."""

# ---- Parts of a content


class TextPart(Struct, tag_field="type", tag="text"):
    text: str


class InputTextPart(TextPart, tag="input_text"):
    """As OpenAI's Responses API names what clients write; vLLM takes it in a chat too."""


class OutputTextPart(TextPart, tag="output_text"):
    """As OpenAI's Responses API names what the model wrote."""


class RefusalPart(Struct, tag_field="type", tag="refusal"):
    refusal: str

    @property
    def text(self) -> str:
        return self.refusal


class AnswerPart(TextPart, tag="text"):
    """A part of an answer, sent back. @openai/agents writes the other fields of the message into it."""

    reasoning_content: str | None = None
    reasoning: str | None = None


Content = str | Annotated[list[TextPart | InputTextPart | OutputTextPart], Meta(min_length=1, max_length=MAX_PARTS)]
AnyAnswerPart = AnswerPart | InputTextPart | OutputTextPart | RefusalPart
AnswerContent = str | Annotated[list[AnyAnswerPart], Meta(max_length=MAX_PARTS)]


# ---- Calls of tools


class FunctionCall(Struct):
    name: str
    arguments: str


class ToolCall(Struct, tag_field="type", tag="function"):
    id: str
    function: FunctionCall


class CustomCall(Struct):
    name: str
    input: str


class CustomToolCall(Struct, tag_field="type", tag="custom"):
    """A call of a tool that takes free text. Templates see a function with one argument, `input`."""

    id: str
    custom: CustomCall

    @property
    def function(self) -> FunctionCall:
        return FunctionCall(self.custom.name, orjson.dumps({"input": self.custom.input}).decode())


# ---- One Struct a role


class SystemMessage(Struct, tag_field="role", tag="system"):
    content: Content
    name: str | None = None


class DeveloperMessage(Struct, tag_field="role", tag="developer"):
    content: Content
    name: str | None = None


class UserMessage(Struct, tag_field="role", tag="user"):
    content: Content
    name: str | None = None


class Audio(Struct):
    """A spoken answer of another server, of which a text model reads the transcript."""

    transcript: str | None = None


class AssistantMessage(Struct, tag_field="role", tag="assistant"):
    """An answer, of this server or another one."""

    content: AnswerContent | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall | CustomToolCall], Meta(max_length=MAX_TOOL_CALLS)] | None = None
    function_call: FunctionCall | None = None  # of the older API: the one tool call
    reasoning_content: str | None = None  # not in OpenAI's API; other servers name it so
    # `parse` moves what is in these three into those above.
    reasoning: str | None = None  # vLLM's name for the same
    refusal: str | None = None  # takes the place of the content
    audio: Audio | None = None


class ToolMessage(Struct, tag_field="role", tag="tool"):
    content: Content
    tool_call_id: str
    name: str | None = None  # not in OpenAI's API, but templates ask for it


class FunctionMessage(Struct, tag_field="role", tag="function"):
    name: str
    content: str | None = None


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage
