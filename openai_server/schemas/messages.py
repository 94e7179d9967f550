"""Messages of a chat and tools, as Structs. PURE."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from openai_server.schemas.bounds import MAX_PARTS, MAX_TOOL_CALLS, MAX_TOOLS

# ---- One Struct a role


class TextPart(Struct):
    type: Literal["text"]
    text: str


Content = str | Annotated[list[TextPart], Meta(min_length=1, max_length=MAX_PARTS)]


class FunctionCall(Struct):
    name: str
    arguments: str


class ToolCall(Struct):
    id: str
    type: Literal["function"]
    function: FunctionCall


class FunctionDefinition(Struct):
    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.-]{1,64}(?!\n)$")]  # OpenAI's, and dots
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct):
    type: Literal["function"]
    function: FunctionDefinition


class SystemMessage(Struct, tag_field="role", tag="system"):
    content: Content
    name: str | None = None


class DeveloperMessage(Struct, tag_field="role", tag="developer"):
    content: Content
    name: str | None = None


class UserMessage(Struct, tag_field="role", tag="user"):
    content: Content
    name: str | None = None


class AssistantMessage(Struct, tag_field="role", tag="assistant"):
    content: Content | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Meta(max_length=MAX_TOOL_CALLS)] | None = None
    function_call: FunctionCall | None = None  # of the older API: the one tool call
    reasoning_content: str | None = None  # not in OpenAI's API; other servers name it so


class ToolMessage(Struct, tag_field="role", tag="tool"):
    content: Content
    tool_call_id: str
    name: str | None = None  # not in OpenAI's API, but templates ask for it


class FunctionMessage(Struct, tag_field="role", tag="function"):
    content: str | None
    name: str


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
