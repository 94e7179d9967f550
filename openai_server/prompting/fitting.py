"""Arranges the messages of a chat for templates with rules about system messages or about the order of roles.

PURE. APIs accept several system messages, at any place, and several user messages in a row. Many templates want a
single system message at the beginning, some refuse a role twice in a row. Only what a template would refuse or omit is
changed: a message keeps its place, so that a growing chat keeps its prefix.
"""

from collections.abc import Sequence
from itertools import chain

from msgspec.structs import replace

from openai_server.core.messages import (
    AssistantMessage,
    DeveloperMessage,
    FunctionMessage,
    Message,
    SystemMessage,
    ToolMessage,
    UserMessage,
    text_of,
)
from openai_server.prompting.capabilities import Capabilities


def fitted(messages: Sequence[Message], capabilities: Capabilities) -> Sequence[Message]:
    """The messages in an arrangement that the template renders completely, if there is one."""
    first, n_leading = _leading(messages)
    if n_leading > 1 and not capabilities.several_system:
        first = [_merged(first)]
    if n_leading and not capabilities.system:
        first = [UserMessage(text_of(message)) for message in first]
    rest = messages[n_leading:]
    if not capabilities.parallel_calls:
        rest = _one_call_each(rest)
    if not capabilities.late_system:
        rest = [UserMessage(text_of(m), m.name) if _is_system(m) else m for m in rest]
    result = [*first, *rest]
    if not capabilities.repeated_user:
        result = _without_repeated_users(result)
    return result if capabilities.user_after_result else _with_answers(result)


def _leading(messages: Sequence[Message]) -> tuple[list[Message], int]:
    """The system messages at the beginning, and their number."""
    n = 0
    while n < len(messages) and _is_system(messages[n]):
        n += 1
    return list(messages[:n]), n


def _is_system(message: Message) -> bool:
    return isinstance(message, SystemMessage | DeveloperMessage)


def _merged(messages: Sequence[Message]) -> Message:
    """A developer's message if all of them are, else a system message."""
    role = DeveloperMessage if all(isinstance(message, DeveloperMessage) for message in messages) else SystemMessage
    return role(_joined(messages), messages[0].name)


def _without_repeated_users(messages: Sequence[Message]) -> list[Message]:
    result: list[Message] = []
    for message in messages:
        if isinstance(message, UserMessage) and result and isinstance(previous := result[-1], UserMessage):
            result[-1] = replace(previous, content=_joined([previous, message]))
        else:
            result.append(message)
    return result


def _one_call_each(messages: Sequence[Message]) -> list[Message]:
    """A message with several calls becomes several with one call, each with the results of its call after it."""
    result: list[Message] = []
    position = 0
    while position < len(messages):
        message = messages[position]
        position += 1
        if not (isinstance(message, AssistantMessage) and message.tool_calls and len(message.tool_calls) > 1):
            result.append(message)
            continue
        first = position
        while position < len(messages) and isinstance(messages[position], ToolMessage):
            position += 1
        results = [found for found in messages[first:position] if isinstance(found, ToolMessage)]
        by_call: dict[str, list[ToolMessage]] = {}
        for found in results:
            by_call.setdefault(found.tool_call_id, []).append(found)
        for i, call in enumerate(message.tool_calls):
            result.append(replace(message, tool_calls=[call]) if i == 0 else AssistantMessage(tool_calls=[call]))
            result += by_call.pop(call.id, ())
        result += chain.from_iterable(by_call.values())
    return result


def _with_answers(messages: Sequence[Message]) -> list[Message]:
    """Adds an answer without text between a result and the user message after it, where the answer was cut off."""
    result: list[Message] = []
    for message in messages:
        if isinstance(message, UserMessage) and result and isinstance(result[-1], ToolMessage | FunctionMessage):
            result.append(AssistantMessage(_NO_TEXT))
        result.append(message)
    return result


_NO_TEXT = " "
"""Some templates refuse an empty answer."""


def _joined(messages: Sequence[Message]) -> str:
    return "\n\n".join(map(text_of, messages))
