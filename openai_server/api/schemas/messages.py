"""Messages of a chat and tools, as Structs. PURE."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from msgspec import Meta, Struct

from openai_server.api.schemas.bounds import MAX_PARTS, MAX_TOOL_CALLS, MAX_TOOLS

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


# ---- Tools


class FunctionDefinition(Struct):
    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.-]{1,64}(?!\n)$")]  # OpenAI's, and dots
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct):
    type: Literal["function"]
    function: FunctionDefinition


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


# ---- What the model may do with the tools


class FunctionName(Struct):
    name: str


class NamedTool(Struct, tag_field="type", tag="function"):
    function: FunctionName


class AllowedTools(Struct):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Meta(max_length=MAX_TOOLS)]


class AllowedToolChoice(Struct, tag_field="type", tag="allowed_tools"):
    allowed_tools: AllowedTools


ToolChoice = Literal["none", "auto", "required"] | NamedTool | AllowedToolChoice


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools that the model may call, in either API's words."""

    tools: Sequence[Tool]
    must: bool = False
    """The answer is a call."""
    named: str | None = None
    """Of this function."""
    parallel: bool = True
    """There may be several."""
    legacy: bool = False
    """They are the older API's functions, and so is the call."""
