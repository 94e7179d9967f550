"""Messages and tools of a request as a chat template wants to see them.

PURE. Templates agree on little more than `role` and `content`; a `Form` says what one of them wants. Whatever it is,
a message keeps its place, and the same id is given the same way wherever it stands.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from openai_server.core.messages import AssistantMessage, FunctionCall, FunctionMessage, Message, ToolCall, ToolMessage

Seen = dict[str, Any]
Tools = Sequence[dict[str, Any]]
"""`{"type": "function", "function": {"name", "description", "parameters"}}`, without keys that were not given."""

_REASONING = ("reasoning_content", "reasoning", "thinking")
"""Each is what some templates call it. Those that know several take the first."""
SHORT_ID = 9
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Form:
    """What a template wants. The default is what most do, as Hugging Face's documentation describes it."""

    parts: bool = False
    """Content as a list of parts, always, rather than as one string."""
    developer: bool = False
    """It knows that role; others were written before it, and get `system` instead."""
    function: bool = False
    """It knows that role; others get `tool` instead."""
    null_content: bool = False
    """Of a message that is tool calls alone: null, rather than an empty string."""
    text_arguments: bool = False
    """Of a tool call: JSON in a string, rather than an object."""
    short_ids: bool = False
    """Of tool calls: nine letters and digits, as Mistral's models have them."""
    content_or_reasoning: bool = False
    """It refuses both beside tool calls. (The content is left out: models go on from their reasoning.)"""
    whole_tools: bool = False
    """It fails for a tool without description or parameters, and gets empty ones."""


def as_seen(messages: Sequence[Message], form: Form) -> list[Seen]:
    calls: dict[str, str] = {}  # the older API's calls have no id, but a function is called once at a time
    seen = []
    for position, message in enumerate(messages):
        if isinstance(message, AssistantMessage):
            if message.function_call:
                calls[message.function_call.name] = f"call_{position}"
            seen.append(_assistant(message, f"call_{position}", form))
        elif isinstance(message, FunctionMessage) and not form.function:
            call_id = calls.get(message.name, f"call_{position}")
            seen.append(_message("tool", message, form) | {"tool_call_id": _id(call_id, form)})
        elif isinstance(message, ToolMessage):
            seen.append(_message("tool", message, form) | {"tool_call_id": _id(message.tool_call_id, form)})
        else:
            role = message.__struct_config__.tag
            seen.append(_message("system" if role == "developer" and not form.developer else str(role), message, form))
    return seen


def tools_as_seen(tools: Tools, form: Form) -> list[Seen] | None:
    """None where there are none: templates ask whether `tools` is set."""
    if form.whole_tools:
        tools = [tool | {"function": _whole(tool["function"])} for tool in tools]
    return list(tools) or None


def _whole(function: Seen) -> Seen:
    """The order of keys is that of the request, since some templates write them all."""
    return function | {key: value for key, value in _NOTHING.items() if key not in function}


_NOTHING = {"description": "", "parameters": {"type": "object", "properties": {}}}


def _message(role: str, message: Message, form: Form) -> Seen:
    seen: Seen = {"role": role, "content": _content(message, form)}
    if message.name is not None:
        seen["name"] = message.name
    return seen


def _assistant(message: AssistantMessage, call_id: str, form: Form) -> Seen:
    seen = _message("assistant", message, form)
    calls = message.tool_calls or []
    if message.function_call:
        calls = [*calls, ToolCall(call_id, message.function_call)]
        if form.function:
            seen["function_call"] = _function(message.function_call, form)
    if calls:
        seen["tool_calls"] = [
            {"id": _id(call.id, form), "type": "function", "function": _function(call.function, form)} for call in calls
        ]
    if message.reasoning_content is not None:
        seen |= dict.fromkeys(_REASONING, message.reasoning_content)
    if calls and message.content is None and form.null_content:
        seen["content"] = None
    elif calls and message.reasoning_content and form.content_or_reasoning:
        seen["content"] = ""
    return seen


def _content(message: Message, form: Form) -> str | list[dict[str, str]]:
    content = message.content
    if form.parts:
        texts = [content] if isinstance(content, str) else [part.text for part in content or ()]
        return [{"type": "text", "text": text} for text in texts]
    return content if isinstance(content, str) else "\n".join(part.text for part in content or ())


def _function(call: FunctionCall, form: Form) -> Seen:
    """The API has arguments as a string of JSON. One that is not an object stays as it is."""
    arguments: Any = call.arguments
    if not form.text_arguments:
        try:
            parsed = orjson.loads(arguments)
        except orjson.JSONDecodeError:
            parsed = None
        if isinstance(parsed, dict):
            arguments = parsed
    return {"name": call.name, "arguments": arguments}


def _id(given: str, form: Form) -> str:
    """A short id of its own for each id, which depends on nothing else: a growing chat must keep its beginning."""
    if not form.short_ids or (len(given) == SHORT_ID and given.isascii() and given.isalnum()):
        return given
    number = int.from_bytes(hashlib.sha256(given.encode(errors="surrogatepass")).digest())
    short = ""
    for _ in range(SHORT_ID):
        number, digit = divmod(number, len(_DIGITS))
        short += _DIGITS[digit]
    return short
