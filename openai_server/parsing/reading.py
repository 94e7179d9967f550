"""A parser's events to the assistant's message, whole or as the deltas of a stream.

PURE. The types in the `openai` package are the reference of every shape; `reasoning_content` is DeepSeek's addition to
them, which other servers have taken over.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from openai_server.core.events import CallArguments, CallBegun, Content, Event, Reasoning
from openai_server.parsing.parser import Parser
from protos import contract

Object = dict[str, Any]

TOOL_CALLS, FUNCTION_CALL = "tool_calls", "function_call"
"""The finish_reason of an answer that calls."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How an answer is read. `new_id` makes the id of a call that the model gave none."""

    new_parser: Callable[[], Parser]
    new_id: Callable[[], str]
    legacy: bool = False
    """A call is told in the older API's words, where there is at most one."""
    named: bool = False
    """The function to call was named: OpenAI says `stop` then, as nothing was decided."""
    must_call: bool = False
    """The answer is a call: without content, it is null."""


class MessageReader:
    """Reads the answer of one choice."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._parser = reading.new_parser()
        self._n_calls = 0
        self._has_arguments = True
        """Belongs to the last call."""
        self._ended = False

    def read(self, text: str, *, ended: bool, reason: str | None = None) -> list[Object]:
        """Deltas for the next piece of text; `ended`: it is the last, for this reason. Nothing comes after that."""
        if self._ended:
            return []
        self._ended = ended
        events = self._parser.push(text) if text else []
        if ended:
            events += self._parser.end()
        deltas = [delta for event in events if (delta := self._delta(event))]
        if ended and not self._has_arguments and reason != contract.FINISH_LENGTH:
            # The model wrote none, and was not cut off.
            deltas += filter(None, [self._delta(CallArguments(self._n_calls - 1, "{}"))])
        return deltas

    def message(self, text: str, reason: str | None) -> Object:
        """The whole message, for a text that ended for this reason."""
        return message(self.read(text, ended=True, reason=reason), must_call=self._reading.must_call)

    def finish_reason(self, reason: str) -> str:
        """What the end of the text means for the message."""
        if reason != "stop" or not self._n_calls or self._reading.named:
            return reason
        return FUNCTION_CALL if self._reading.legacy else TOOL_CALLS

    def _delta(self, event: Event) -> Object | None:
        match event:
            case Content(text=text):
                return {"content": text}
            case Reasoning(text=text):
                return {"reasoning_content": text}
            case CallBegun(index=index, name=name, id=id):
                self._n_calls, self._has_arguments = index + 1, False
                function = {"name": name, "arguments": ""}
                if self._reading.legacy:
                    return None if index else {"function_call": function}
                call = {"index": index, "id": id or self._reading.new_id(), "type": "function", "function": function}
                return {"tool_calls": [call]}
            case CallArguments(index=index, text=text):
                self._has_arguments = True
                if self._reading.legacy:
                    return None if index else {"function_call": {"arguments": text}}
                return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


def message(deltas: Iterable[Object], *, must_call: bool = False) -> Object:
    """All deltas of a choice, put together."""
    content, reasoning, calls = [], [], []
    function_call: Object | None = None
    for delta in deltas:
        content.append(delta.get("content", ""))
        reasoning.append(delta.get("reasoning_content", ""))
        for part in delta.get("tool_calls", ()):
            if "id" in part:
                calls.append({"id": part["id"], "type": "function", "function": dict(part["function"])})
            else:
                calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
        if part := delta.get("function_call"):
            function_call = function_call or {"name": part.get("name", ""), "arguments": ""}
            function_call["arguments"] += part["arguments"]
    text = "".join(content)
    calls_something = must_call or bool(calls or function_call)
    made: Object = {"role": "assistant", "content": None if calls_something and not text else text, "refusal": None}
    if thought := "".join(reasoning):
        made["reasoning_content"] = thought
    if calls:
        made["tool_calls"] = calls
    if function_call:
        made["function_call"] = function_call
    return made
