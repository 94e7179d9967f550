"""Shortens a conversation that doesn't fit into the model's context: drops its oldest messages.

PURE. The system and developer messages at the beginning stay, and so do the last message of the user and the last
message. A call and its results are dropped together.
"""

from collections.abc import Sequence

from openai_server.core.context_length import Room, is_number
from openai_server.core.messages import (
    AssistantMessage,
    CustomToolCall,
    DeveloperMessage,
    FunctionMessage,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)

MAX_ATTEMPTS = 12
"""Number of times that a conversation is shortened. The last attempt drops all that may be dropped."""
_MAX_MARGIN = 2
"""Twentieths by which an attempt drops more than it has to, at most."""
_ANSWER_SHARE = 4
"""A shortened prompt leaves at most this fraction (a quarter) of the context to the answer."""
_MESSAGE_SIZE = 16
"""Characters to count for a message besides its text, for the template's markup."""


def kept(messages: Sequence[Message], room: Room, attempt: int) -> list[int] | None:
    """Positions of the messages that stay, at least one less; None if nothing may be dropped.

    `room` has the sizes of the prompt that was refused. `attempt` counts the refusals from 1: estimates of tokens are
    rough, so later attempts drop more than they have to.
    """
    lead = _lead(messages)
    last_user = max((i for i, message in enumerate(messages) if isinstance(message, UserMessage)), default=-1)
    units = _units(messages, lead)
    sizes = [sum(_size(messages[i]) for i in unit) for unit in units]
    total = sum(map(_size, messages[:lead])) + sum(sizes)
    margin = min(attempt - 1, _MAX_MARGIN)
    excess = total if attempt >= MAX_ATTEMPTS else _excess(room, total) * (20 + margin) // 20
    dropped: set[int] = set()
    has_first = False
    """Whether a message stays that may follow the instructions. Templates refuse an answer there."""
    for unit, size in zip(units[:-1], sizes, strict=False):
        may_be_first = not isinstance(messages[unit.start], AssistantMessage | ToolMessage | FunctionMessage)
        if last_user in unit or (excess <= 0 and (has_first or may_be_first)):
            has_first = True
            continue
        dropped.update(unit)
        excess -= size
    if not dropped:
        return None
    calls = {call.id for i in dropped for call in _calls(messages[i])}
    return [
        i
        for i, message in enumerate(messages)
        if i not in dropped and not (isinstance(message, ToolMessage) and message.tool_call_id in calls)
    ]


def _excess(room: Room, total: int) -> int:
    """Characters to drop of `total`; half of them if the sizes in tokens are unknown."""
    # A backend that stops counting, and reports a lower bound, has found at least twice the context.
    if room.context_length is None or not is_number(room.prompt_tokens):
        return total // 2
    prompt, context = int(room.prompt_tokens), room.context_length
    answer = context // _ANSWER_SHARE
    if room.output_tokens is not None:
        answer = min(answer, room.output_tokens)
    return max(1, (prompt + answer - context) * total // max(1, prompt))


def _lead(messages: Sequence[Message]) -> int:
    """Number of instructions at the beginning."""
    n = 0
    while n < len(messages) and isinstance(messages[n], SystemMessage | DeveloperMessage):
        n += 1
    return n


def _units(messages: Sequence[Message], lead: int) -> list[range]:
    """Messages that are dropped together, by their positions: results follow their calls."""
    units: list[range] = []
    for i in range(lead, len(messages)):
        if units and isinstance(messages[i], ToolMessage | FunctionMessage):
            units[-1] = range(units[-1].start, i + 1)
        else:
            units.append(range(i, i + 1))
    return units


def _calls(message: Message) -> Sequence[ToolCall | CustomToolCall]:
    return (message.tool_calls or ()) if isinstance(message, AssistantMessage) else ()


def _size(message: Message) -> int:
    """Characters, roughly."""
    content = message.content
    size = len(content) if isinstance(content, str) else sum(len(part.text) for part in content or ())
    if isinstance(message, AssistantMessage):
        size += sum(len(call.function.name) + len(call.function.arguments) for call in _calls(message))
        if message.function_call:
            size += len(message.function_call.arguments)
        size += len(message.reasoning_content or "")
    return size + _MESSAGE_SIZE
