"""Events to the assistant's message, whole or as the deltas of a stream.

PURE. The types in the `openai` package are the reference of every shape; `reasoning_content` is DeepSeek's addition to
them, which other servers have taken over.
"""

from collections.abc import Iterable
from typing import Any

from openai_server.core.events import CallArguments, CallBegun, Content, Event, Reasoning

JsonObject = dict[str, Any]


def delta(event: Event, *, legacy: bool = False) -> JsonObject | None:
    """None for an event that changes nothing in the message. `legacy`: the older API's one function call."""
    match event:
        case Content(text=text):
            return {"content": text}
        case Reasoning(text=text):
            return {"reasoning_content": text}
        case CallBegun(index=index, name=name, id=id):
            function = {"name": name, "arguments": ""}
            if legacy:
                return None if index else {"function_call": function}
            return {"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]}
        case CallArguments(index=index, text=text):
            if legacy:
                return None if index else {"function_call": {"arguments": text}}
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
    return None


def message(events: Iterable[Event], *, legacy: bool = False, must_call: bool = False) -> JsonObject:
    """All events of a choice, put together. `must_call`: without content, that is null."""
    content, reasoning = "", ""
    calls: list[JsonObject] = []
    for event in events:
        match event:
            case Content(text=text):
                content += text
            case Reasoning(text=text):
                reasoning += text
            case CallBegun(name=name, id=id):
                calls.append({"id": id, "type": "function", "function": {"name": name, "arguments": ""}})
            case CallArguments(index=index, text=text):
                calls[index]["function"]["arguments"] += text
    without_content = not content and (must_call or bool(calls))
    written: JsonObject = {"role": "assistant", "content": None if without_content else content, "refusal": None}
    if reasoning:
        written["reasoning_content"] = reasoning
    if calls and legacy:
        written["function_call"] = calls[0]["function"]
    elif calls:
        written["tool_calls"] = calls
    return written
