"""The features that a chat template supports, from its syntax tree and from rendering conversations of two or three
messages.

PURE. The tree shows the variables and roles that a template uses. It doesn't show the form of message that the template
expects: one template writes the arguments of a tool call with `tojson`, another concatenates them, a third accepts
both. So this module renders messages in each form and compares the prompts.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from openai_server.core.messages import (
    AssistantMessage,
    DeveloperMessage,
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

LIMIT_ERRORS = (LimitExceeded, RecursionError, MemoryError)
Attempt = Callable[[Sequence[Message], Form, Tools], str | None]
"""Renders messages; None if the template refuses them or fails. Raises one of LIMIT_ERRORS, which ends all attempts."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    variables: frozenset[str]
    """Variables that the template may read from its context: `tools`, `enable_thinking`, `reasoning_effort`, … They
    include names that the template sets itself, but not on every path."""
    roles: frozenset[str]
    """Values that it compares the role of a message with."""
    system: bool
    """Whether it writes the text of a system message at the beginning."""
    several_system: bool
    """Whether it writes the texts of two system messages at the beginning."""
    late_system: bool
    """Whether it writes two system messages at their places, one of them not at the beginning."""
    repeated_user: bool
    """Whether it accepts two user messages in a row."""
    user_after_result: bool
    """Whether it accepts a user message after the result of a call. True for a template without calls."""
    parallel_calls: bool
    """Whether it writes all calls of a message with several. True for a template that writes no calls."""
    form: Form
    words: Words
    sample_prompts: tuple[str, ...] = ()
    """The prompts of all attempts. They contain the markup that the template composes from parts."""

    @property
    def tools(self) -> bool:
        return "tools" in self.variables


def capabilities(compiled: CompiledSource, attempt: Attempt) -> Capabilities:
    prompts = []

    def recorded_attempt(messages: Sequence[Message], form: Form, tools: Tools) -> str | None:
        if prompt := attempt(messages, form, tools):
            prompts.append(prompt)
        return prompt

    form, written = _probe(compiled, recorded_attempt)
    system, several_system, late_system, repeated_user, user_after_result, parallel_calls = written
    return Capabilities(
        variables=compiled.variables,
        roles=compiled.roles,
        system=system,
        several_system=several_system,
        late_system=late_system,
        repeated_user=repeated_user,
        user_after_result=user_after_result,
        parallel_calls=parallel_calls,
        form=form,
        words=compiled.words,
        sample_prompts=tuple(dict.fromkeys(prompts)),
    )


def _probe(compiled: CompiledSource, attempt: Attempt) -> tuple[Form, list[bool]]:
    """The form, whether the template writes each of _ARRANGEMENTS completely, and the rules about calls."""
    roles = compiled.roles
    form = Form(developer="developer" in roles, function="function" in roles)
    written, about_calls = [False] * len(_ARRANGEMENTS), [True, True]
    with suppress(*LIMIT_ERRORS):
        form = replace(form, parts=_needs_parts(form, attempt))
        if form.developer:  # some templates compare the role, but never write such a message
            form = replace(form, developer=_writes([DeveloperMessage(_VALUE), UserMessage("a")], form, attempt))
        for i, messages in enumerate(_ARRANGEMENTS):
            written[i] = _writes(messages, form, attempt)
        form = replace(form, whole_tools=_needs_whole_tools(form, attempt))
        if compiled.mentions_tool_calls:
            form = _for_tool_calls(form, attempt)
            about_calls = _rules_about_calls(form, attempt)
    return form, [*written, *about_calls]


# ---- Attempts

_KEY = "anyserve_key"
_VALUE = "anyserve_value"
_OTHER = "anyserve_other"
_ANSWER = "anyserve_answer"
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
_SECOND_CALL = ToolCall("call_fedcba9876543210", FunctionCall("anyserve_function", f'{{"{_KEY}": "{_OTHER}"}}'))


_ARRANGEMENTS: Sequence[Sequence[Message]] = (
    [SystemMessage(_VALUE), UserMessage("a")],
    [SystemMessage(_OTHER), SystemMessage(_VALUE), UserMessage("a")],
    [SystemMessage(_OTHER), UserMessage("a"), AssistantMessage(_ANSWER), SystemMessage(_VALUE), UserMessage("a")],
    [UserMessage(_OTHER), UserMessage(_VALUE)],
)
"""Messages that show `system`, `several_system`, `late_system` and `repeated_user`."""


def _writes(messages: Sequence[Message], form: Form, attempt: Attempt) -> bool:
    """Whether the prompt contains the texts in their order. (Some templates only render requests with tools.)"""
    prompt = attempt(messages, form, ()) or attempt(messages, form, [_TOOL]) or ""
    places = [prompt.find(message.content) for message in messages if message.content in (_OTHER, _ANSWER, _VALUE)]
    return -1 not in places and places == sorted(places)


def _needs_parts(form: Form, attempt: Attempt) -> bool:
    message = UserMessage(_VALUE)
    return not _writes([message], form, attempt) and _writes([message], replace(form, parts=True), attempt)


def _needs_whole_tools(form: Form, attempt: Attempt) -> bool:
    message = UserMessage("a")
    return (
        attempt([message], form, [_BARE_TOOL]) is None
        and attempt([message], replace(form, whole_tools=True), [_BARE_TOOL]) is not None
    )


def _for_tool_calls(form: Form, attempt: Attempt) -> Form:
    def rendered(candidate: Form, content: str | None = None, reasoning: str | None = None) -> str | None:
        call = AssistantMessage(content, tool_calls=[_CALL], reasoning_content=reasoning)
        return attempt([UserMessage("a"), call, ToolMessage("a", _CALL.id)], candidate, [_TOOL])

    best, best_score = form, 0
    for short_ids in (False, True):
        for candidate in _candidates(replace(form, short_ids=short_ids)):
            if (score := _score(rendered(candidate))) > best_score:
                best, best_score = candidate, score
            if best_score == _PERFECT_SCORE:
                break
        if best_score:
            break
    if best_score and rendered(best, "a", "a") is None:
        without_content = replace(best, content_or_reasoning=True)
        if rendered(without_content, "a", "a") is not None:
            return without_content
    return best


def _rules_about_calls(form: Form, attempt: Attempt) -> list[bool]:
    """`user_after_result` and `parallel_calls`."""
    results = [ToolMessage("a", call.id) for call in (_CALL, _SECOND_CALL)]
    single: list[Message] = [UserMessage("a"), AssistantMessage(tool_calls=[_CALL]), results[0]]
    several: list[Message] = [UserMessage("a"), AssistantMessage(tool_calls=[_CALL, _SECOND_CALL]), *results]
    if (with_call := attempt(single, form, [_TOOL])) is None:  # then nothing is known about calls
        return [True, True]
    after_result = attempt([*single, UserMessage("a")], form, [_TOOL])
    with_calls = attempt(several, form, [_TOOL])
    is_complete = with_calls is not None and (_VALUE not in with_call or _OTHER in with_calls)
    return [after_result is not None, is_complete]


def _candidates(form: Form) -> Iterator[Form]:
    """Forms to try, the most common one first."""
    for null_content in (False, True):
        for text_arguments in (False, True):
            yield replace(form, null_content=null_content, text_arguments=text_arguments)


_PERFECT_SCORE = 3


def _score(prompt: str | None) -> int:
    if prompt is None:
        return 0
    if _VALUE not in prompt:
        return 1
    # 2: the arguments are in Python's notation, or JSON inside a JSON string.
    return 2 if f"{{'{_KEY}'" in prompt or f'\\"{_KEY}' in prompt else _PERFECT_SCORE
