"""Reads the conversation of a request."""

import json
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any

Json = dict[str, Any]


def is_user_message(message: Any) -> bool:
    return bool(_value(message, "role") == "user")


def get_last_user_message(messages: Sequence[Any]) -> str | None:
    """The text of the last message of the user, also if its content is a list of parts. None: there is none."""
    return next((_joined_text(_value(m, "content")) for m in reversed(messages) if is_user_message(m)), None)


def get_last_user_input_text(input_items: Sequence[Any]) -> str | None:
    """The last text of the user's last message among input items of the Responses API. None: there is none."""
    for item in reversed(input_items):
        if is_user_message(item) and _value(item, "type") in ("message", None):
            content = _value(item, "content")
            texts = [content] if isinstance(content, str) else list(_texts(content, ("input_text",)))
            if texts:
                return texts[-1]
    return None


def get_input_files(input_items: Sequence[Any]) -> list[Json]:
    """The parts of the user's messages that refer to uploaded files."""
    contents = [_value(item, "content") for item in input_items if is_user_message(item)]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return [part for part in parts if _value(part, "type") == "input_file" and _value(part, "file_id")]


def chat_messages_from_openai_response(input_items: Iterable[Any]) -> list[Any]:
    """Haystack's ChatMessages for input items of the Responses API. Calls that follow each other are a message."""
    dataclasses = import_module("haystack.dataclasses")
    new_message, new_call = dataclasses.ChatMessage, dataclasses.ToolCall
    messages: list[Any] = []
    calls: dict[str, Any] = {}
    pending: list[Any] = []
    for item in input_items:
        kind = _value(item, "type")
        if kind in ("function_call", "custom_tool_call"):
            call_id = _value(item, "call_id") or _value(item, "id") or f"call_{len(calls)}"
            calls[call_id] = new_call(_value(item, "name") or "function", _arguments(item), call_id)
            pending.append(calls[call_id])
            continue
        if pending:
            messages.append(new_message.from_assistant(tool_calls=pending))
            pending = []
        if kind in ("function_call_output", "custom_tool_call_output"):
            call_id = _value(item, "call_id") or _value(item, "id")
            origin = calls.get(call_id) or new_call("function", {}, call_id)
            messages.append(new_message.from_tool(_output(item), origin))
        elif text := _joined_text(_value(item, "content")):
            role = _value(item, "role")
            create = {"user": new_message.from_user, "assistant": new_message.from_assistant}
            if role in ("user", "assistant", "system", "developer"):
                messages.append(create.get(role, new_message.from_system)(text))
    if pending:
        messages.append(new_message.from_assistant(tool_calls=pending))
    return messages


def _arguments(item: Any) -> Json:
    if (text := _value(item, "input")) is not None:  # of a custom tool, which takes text
        return {"input": text}
    arguments = _value(item, "arguments")
    try:
        value = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _output(item: Any) -> str:
    output = _value(item, "output")
    return output if isinstance(output, str) else _joined_text(output) or json.dumps(output)


def _joined_text(content: Any) -> str:
    return content if isinstance(content, str) else "\n".join(_texts(content, ("text", "input_text", "output_text")))


def _texts(content: Any, kinds: Sequence[str]) -> Iterator[str]:
    for part in content if isinstance(content, list) else ():
        if _value(part, "type") in kinds and isinstance(text := _value(part, "text"), str) and text:
            yield text


def _value(owner: Any, name: str) -> Any:
    return owner.get(name) if isinstance(owner, dict) else getattr(owner, name, None)
