"""What a chat template knows: read from its syntax tree, and found by rendering conversations of two or three messages.

PURE. Which variables and roles a template knows stands in its tree. How it wants a message does not: one writes the
arguments of a tool call with `tojson`, another one concatenates them, a third one takes either. So it is tried.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from openai_server.core.messages import (
    AssistantMessage,
    FunctionCall,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from openai_server.prompting.limits import LimitExceeded
from openai_server.prompting.messages import Form, Tools
from openai_server.prompting.source import CompiledSource, Words

BOUNDS = (LimitExceeded, RecursionError, MemoryError)
Attempt = Callable[[Sequence[Message], Form, Tools], str | None]
"""Renders; None if the template refuses or fails. Raises one of BOUNDS if it has no end: then nothing more is tried."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    variables: frozenset[str]
    """All that it may read of what it is given: `tools`, `enable_thinking`, `reasoning_effort`, … (Among them are
    names that it sets itself, but not on every path.)"""
    roles: frozenset[str]
    """With which it compares the role of a message."""
    system: bool
    """It writes the text of a system message."""
    form: Form
    words: Words
    written: tuple[str, ...] = ()
    """The prompts of the conversations that were tried: markup that it puts together is in them."""

    @property
    def tools(self) -> bool:
        return "tools" in self.variables


def capabilities(compiled: CompiledSource, attempt: Attempt) -> Capabilities:
    written = []

    def noted(messages: Sequence[Message], form: Form, tools: Tools) -> str | None:
        if prompt := attempt(messages, form, tools):
            written.append(prompt)
        return prompt

    form, system = _tried(compiled, noted)
    return Capabilities(compiled.variables, compiled.roles, system, form, compiled.words, tuple(dict.fromkeys(written)))


def _tried(compiled: CompiledSource, attempt: Attempt) -> tuple[Form, bool]:
    roles = compiled.roles
    form, system = Form(developer="developer" in roles, function="function" in roles), False
    with suppress(*BOUNDS):
        form = replace(form, parts=_wants_parts(form, attempt))
        system = _writes([SystemMessage(_VALUE), UserMessage("a")], form, attempt)
        form = replace(form, whole_tools=_wants_whole_tools(form, attempt))
        if compiled.mentions_tool_calls:
            form = _for_tool_calls(form, attempt)
    return form, system


# ---- By trying

_KEY = "anyserve_key"
_VALUE = "anyserve_value"
_TOOL = {
    "type": "function",
    "function": {
        "name": "anyserve_function",
        "description": "a",
        "parameters": {"type": "object", "properties": {_KEY: {"type": "string", "description": "a"}}},
    },
}
_BARE_TOOL = {"type": "function", "function": {"name": "anyserve_function"}}
_CALL = ToolCall("call_0123456789abcdef", FunctionCall("anyserve_function", f'{{"{_KEY}": "{_VALUE}"}}'))


def _writes(messages: Sequence[Message], form: Form, attempt: Attempt) -> bool:
    """Whether _VALUE is in the prompt. (There are templates for requests with tools alone.)"""
    said = attempt(messages, form, ()) or attempt(messages, form, [_TOOL]) or ""
    return _VALUE in said


def _wants_parts(form: Form, attempt: Attempt) -> bool:
    message = UserMessage(_VALUE)
    return not _writes([message], form, attempt) and _writes([message], replace(form, parts=True), attempt)


def _wants_whole_tools(form: Form, attempt: Attempt) -> bool:
    message = UserMessage("a")
    return (
        attempt([message], form, [_BARE_TOOL]) is None
        and attempt([message], replace(form, whole_tools=True), [_BARE_TOOL]) is not None
    )


def _for_tool_calls(form: Form, attempt: Attempt) -> Form:
    def tried(candidate: Form, content: str | None = None, reasoning: str | None = None) -> str | None:
        call = AssistantMessage(content, tool_calls=[_CALL], reasoning_content=reasoning)
        return attempt([UserMessage("a"), call, ToolMessage("a", _CALL.id)], candidate, [_TOOL])

    best, most = form, 0
    for short_ids in (False, True):
        for candidate in _candidates(replace(form, short_ids=short_ids)):
            if (score := _score(tried(candidate))) > most:
                best, most = candidate, score
            if most == _PERFECT:
                break
        if most:
            break
    if most and tried(best, "a", "a") is None:
        only_one = replace(best, content_or_reasoning=True)
        if tried(only_one, "a", "a") is not None:
            return only_one
    return best


def _candidates(form: Form) -> Iterator[Form]:
    """From what most templates want to what few do."""
    for null_content in (False, True):
        for text_arguments in (False, True):
            yield replace(form, null_content=null_content, text_arguments=text_arguments)


_PERFECT = 3


def _score(said: str | None) -> int:
    if said is None:
        return 0
    if _VALUE not in said:
        return 1
    # An object written by Python, or JSON written as a string of JSON.
    return 2 if f"{{'{_KEY}'" in said or f'\\"{_KEY}' in said else _PERFECT
