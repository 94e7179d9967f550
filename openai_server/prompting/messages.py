"""Converts the messages and tools of a request to the form that a chat template expects.

PURE. Templates agree on little more than `role` and `content`; a `Form` describes the rest for one template. In every
form, messages keep their positions, and an id is written the same way everywhere.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from openai_server.core.messages import (
    AssistantMessage,
    FunctionCall,
    FunctionMessage,
    Message,
    ToolCall,
    ToolMessage,
    text_of,
)

TemplateObject = dict[str, Any]
Tools = Sequence[dict[str, Any]]
"""`{"type": "function", "function": {"name", "description", "parameters"}}`, without absent keys."""

_REASONING = ("reasoning_content", "reasoning", "thinking")
"""Keys for the reasoning. Templates differ in the key; those that support several use the first."""
SHORT_ID = 9
"""Characters of a short id."""
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Form:
    """The form that a template expects. The default is the common one, which Hugging Face's documentation describes."""

    parts: bool = False
    """Content is always a list of parts, rather than one string."""
    developer: bool = False
    """The template supports the role `developer`. Older templates get `system` instead."""
    function: bool = False
    """The template supports the role `function`. Others get `tool` instead."""
    null_content: bool = False
    """The content of a message with only tool calls is null, rather than an empty string."""
    text_arguments: bool = False
    """The arguments of a tool call are a string of JSON, rather than an object."""
    short_ids: bool = False
    """Ids of tool calls have nine letters and digits, as Mistral's models expect."""
    content_or_reasoning: bool = False
    """The template refuses content together with reasoning in a message with tool calls. The content is then omitted,
    since models continue from their reasoning."""
    whole_tools: bool = False
    """The template fails for a tool without description or parameters, so these are added as empty."""


def template_messages(messages: Sequence[Message], form: Form) -> list[TemplateObject]:
    calls: dict[str, str] = {}  # calls of the older API have no id, but there is only one call at a time
    result = []
    for position, message in enumerate(messages):
        if isinstance(message, AssistantMessage):
            if message.function_call:
                calls[message.function_call.name] = f"call_{position}"
            result.append(_assistant(message, f"call_{position}", form))
        elif isinstance(message, FunctionMessage) and not form.function:
            call_id = calls.get(message.name, f"call_{position}")
            result.append(_message("tool", message, form) | {"tool_call_id": _id(call_id, form)})
        elif isinstance(message, ToolMessage):
            result.append(_message("tool", message, form) | {"tool_call_id": _id(message.tool_call_id, form)})
        else:
            role = message.__struct_config__.tag
            result.append(
                _message("system" if role == "developer" and not form.developer else str(role), message, form)
            )
    return result


def template_tools(tools: Tools, form: Form) -> list[TemplateObject] | None:
    """None if there are no tools: templates check whether `tools` is set."""
    if form.whole_tools:
        tools = [tool | {"function": _whole(tool["function"])} for tool in tools]
    return list(tools) or None


def _whole(function: TemplateObject) -> TemplateObject:
    """Adds the missing keys at the end, since some templates write all keys in their order."""
    return function | {key: value for key, value in _EMPTY_FIELDS.items() if key not in function}


_EMPTY_FIELDS = {"description": "", "parameters": {"type": "object", "properties": {}}}


def _message(role: str, message: Message, form: Form) -> TemplateObject:
    result: TemplateObject = {"role": role, "content": _content(message, form)}
    if message.name is not None:
        result["name"] = message.name
    return result


def _assistant(message: AssistantMessage, call_id: str, form: Form) -> TemplateObject:
    result = _message("assistant", message, form)
    calls = message.tool_calls or []
    if message.function_call:
        calls = [*calls, ToolCall(call_id, message.function_call)]
        if form.function:
            result["function_call"] = _function(message.function_call, form)
    if calls:
        result["tool_calls"] = [
            {"id": _id(call.id, form), "type": "function", "function": _function(call.function, form)} for call in calls
        ]
    if message.reasoning_content is not None:
        result |= dict.fromkeys(_REASONING, message.reasoning_content)
    if calls and message.content is None and form.null_content:
        result["content"] = None
    elif calls and message.reasoning_content and form.content_or_reasoning:
        result["content"] = ""
    return result


def _content(message: Message, form: Form) -> str | list[dict[str, str]]:
    if form.parts:
        content = message.content
        texts = [content] if isinstance(content, str) else [part.text for part in content or ()]
        return [{"type": "text", "text": text} for text in texts]
    return text_of(message)


def _function(call: FunctionCall, form: Form) -> TemplateObject:
    """The API's arguments are a string of JSON. A string that is not a JSON object is left unchanged."""
    arguments: Any = call.arguments
    if not form.text_arguments:
        try:
            parsed = orjson.loads(arguments)
        except orjson.JSONDecodeError:
            parsed = None
        if isinstance(parsed, dict):
            arguments = parsed
    return {"name": call.name, "arguments": arguments}


def _id(call_id: str, form: Form) -> str:
    """A unique short id for each id. It depends only on that id, so that a growing chat keeps its prefix."""
    if not form.short_ids or (len(call_id) == SHORT_ID and call_id.isascii() and call_id.isalnum()):
        return call_id
    number = int.from_bytes(hashlib.sha256(call_id.encode(errors="surrogatepass")).digest())
    short = ""
    for _ in range(SHORT_ID):
        number, digit = divmod(number, len(_DIGITS))
        short += _DIGITS[digit]
    return short
