"""The conversation of a turn: messages, their content parts and tool calls.

PURE. The Structs have the form of OpenAI's chat messages, which chat templates expect, so the chat API decodes straight
into them. Other APIs translate into them.
"""

from collections.abc import Sequence
from typing import Annotated

import orjson
from msgspec import Meta, Struct

MAX_PARTS = 8192
"""Content parts in all messages together."""
MAX_TOOL_CALLS = 8192
"""Tool calls in all messages together."""

# ---- Content parts


class TextPart(Struct, tag_field="type", tag="text"):
    text: str


class InputTextPart(TextPart, tag="input_text"):
    """The Responses API's name for text from a client. vLLM accepts it in a chat too."""


class OutputTextPart(TextPart, tag="output_text"):
    """The Responses API's name for text from the model."""


class RefusalPart(Struct, tag_field="type", tag="refusal"):
    refusal: str

    @property
    def text(self) -> str:
        return self.refusal


class AnswerPart(TextPart, tag="text"):
    """A part of an answer that the client sends back. @openai/agents copies the other fields of the message into it."""

    reasoning_content: str | None = None
    reasoning: str | None = None


class PromptFile(Struct):
    """Where a file's bytes are: in the store, or in the request."""

    file_id: str | None = None
    file_data: str | None = None
    """Base64, or a data URL."""
    filename: str | None = None


class FilePart(Struct, tag_field="type", tag="file"):
    """A file that stands for its text, which replaces it before the messages are used: api/prompt_files."""

    file: PromptFile

    @property
    def text(self) -> str:
        raise RuntimeError("a file of the request has not been read")


class NamedFile(FilePart, tag="file"):
    """A file as other APIs than the chat name it."""

    field: str = ""
    """Path of the file's id, data or URL in the request."""
    url: str | None = None
    context: str | None = None
    """The client's remark about the file."""
    title: str | None = None
    """Replaces the file's name in the prompt."""


ContentPart = TextPart | InputTextPart | OutputTextPart | FilePart
Content = str | Annotated[list[ContentPart], Meta(min_length=1, max_length=MAX_PARTS)]
AnyAnswerPart = AnswerPart | InputTextPart | OutputTextPart | RefusalPart
AnswerContent = str | Annotated[list[AnyAnswerPart], Meta(max_length=MAX_PARTS)]


# ---- Tool calls


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
    """A call of a tool that takes free text. Templates get it as a function with one argument, `input`."""

    id: str
    custom: CustomCall

    @property
    def function(self) -> FunctionCall:
        return FunctionCall(self.custom.name, orjson.dumps({"input": self.custom.input}).decode())


# ---- One Struct per role


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
    """A spoken answer from another server. A text model gets its transcript."""

    transcript: str | None = None


class AssistantMessage(Struct, tag_field="role", tag="assistant"):
    """An answer from this server or another one."""

    content: AnswerContent | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall | CustomToolCall], Meta(max_length=MAX_TOOL_CALLS)] | None = None
    function_call: FunctionCall | None = None  # the older API's form of a single tool call
    reasoning_content: str | None = None  # not in OpenAI's API; other servers use this name
    # `parse` moves the values of these three fields into those above.
    reasoning: str | None = None  # vLLM's name for `reasoning_content`
    refusal: str | None = None  # replaces the content
    audio: Audio | None = None


class ToolMessage(Struct, tag_field="role", tag="tool"):
    content: Content
    tool_call_id: str
    name: str | None = None  # not in OpenAI's API, but used by templates


class FunctionMessage(Struct, tag_field="role", tag="function"):
    name: str
    content: str | None = None


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage


def size_of(messages: Sequence[Message]) -> int:
    """Characters of the messages' texts and of the arguments of their calls."""
    return sum(_size_of(message) for message in messages)


def _size_of(message: Message) -> int:
    content = message.content or ""
    size = len(content) if isinstance(content, str) else sum(len(part.text) for part in content)
    if isinstance(message, AssistantMessage):
        size += len(message.reasoning_content or "")
        size += sum(len(call.function.arguments) for call in message.tool_calls or ())
    return size


def text_of(message: Message) -> str:
    """The message's content as one text, its parts joined by newlines. Empty where there is no content."""
    content = message.content
    return content if isinstance(content, str) else "\n".join(part.text for part in content or ())
