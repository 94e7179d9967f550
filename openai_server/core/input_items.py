"""The conversation of a turn as input items of OpenAI's Responses API, for a backend that takes them. PURE.

An assistant's message becomes several items: its reasoning, its text, and each of its calls.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from openai_server.core.messages import (
    AssistantMessage,
    CustomToolCall,
    FunctionMessage,
    Message,
    ToolCall,
    ToolMessage,
)

Item = dict[str, Any]


def input_items(messages: Sequence[Message]) -> list[Item]:
    """The items. The ids that the API requires of some are the same for the same messages."""
    builder = _Builder()
    return [item for message in messages for item in builder.items(message)]


class _Builder:
    def __init__(self) -> None:
        self._n_items = 0
        self._custom_calls: set[str] = set()
        """Ids of the calls of custom tools, whose results are items of another type."""
        self._older_call = ""
        """Id of the last call in the older API's form, which has none."""

    def items(self, message: Message) -> Iterator[Item]:
        for item in self._items(message):
            self._n_items += 1
            yield item

    def _items(self, message: Message) -> Iterator[Item]:
        match message:
            case AssistantMessage():
                yield from self._answer(message)
            case ToolMessage(tool_call_id=id):
                is_custom = id in self._custom_calls
                kind = "custom_tool_call_output" if is_custom else "function_call_output"
                yield {"type": kind, "call_id": id, "output": _output(message)}
            case FunctionMessage(content=content):
                yield {"type": "function_call_output", "call_id": self._older_call, "output": content or ""}
            case _:
                parts = [{"type": "input_text", "text": text} for text in _texts(message)]
                yield {"type": "message", "role": str(message.__struct_config__.tag), "content": parts}

    def _answer(self, message: AssistantMessage) -> Iterator[Item]:
        if message.reasoning_content:
            content = [{"type": "reasoning_text", "text": message.reasoning_content}]
            yield {"type": "reasoning", "id": self._id("rs"), "summary": [], "content": content}
        has_calls = bool(message.tool_calls or message.function_call)
        texts = [text for text in _texts(message) if text]
        if texts or not (has_calls or message.reasoning_content):
            parts = [{"type": "output_text", "text": text, "annotations": []} for text in texts or [""]]
            yield {
                "type": "message",
                "id": self._id("msg"),
                "role": "assistant",
                "status": "completed",
                "content": parts,
            }
        for call in message.tool_calls or ():
            yield self._call(call)
        if (older := message.function_call) is not None:
            self._older_call = self._id("call")
            yield _function_call(self._older_call, older.name, older.arguments)

    def _call(self, call: ToolCall | CustomToolCall) -> Item:
        if isinstance(call, ToolCall):
            return _function_call(call.id, call.function.name, call.function.arguments)
        self._custom_calls.add(call.id)
        return {"type": "custom_tool_call", "call_id": call.id, "name": call.custom.name, "input": call.custom.input}

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{self._n_items}"


def _function_call(id: str, name: str, arguments: str) -> Item:
    return {"type": "function_call", "call_id": id, "name": name, "arguments": arguments}


def _texts(message: Message) -> list[str]:
    content = message.content
    if content is None:
        return []
    return [content] if isinstance(content, str) else [part.text for part in content]


def _output(message: ToolMessage) -> str | list[Item]:
    texts = _texts(message)
    return texts[0] if len(texts) == 1 else [{"type": "input_text", "text": text} for text in texts]
