"""The events of an answer, and their JSON form in the contract. PURE."""

import json
from dataclasses import dataclass
from typing import Any

from protos import contract


@dataclass(slots=True)
class Text:
    text: str
    choice: int = 0


@dataclass(slots=True)
class Reasoning:
    text: str
    choice: int = 0


@dataclass(slots=True)
class Refusal:
    """Text in which the model declines to answer."""

    text: str
    choice: int = 0


@dataclass(slots=True)
class ToolCall:
    """The beginning of a tool call. The calls of a choice are counted from 0."""

    name: str
    id: str = ""
    """Empty: the model has none, so the sidecar creates one."""
    choice: int = 0


@dataclass(slots=True)
class Arguments:
    """The next piece of a call's arguments. All pieces of a call together are one JSON value, or, for a custom tool,
    its input."""

    text: str
    call: int | None = None
    """Number of the call; None: the last one."""
    choice: int = 0


@dataclass(slots=True)
class Usage:
    """Token counts of all choices together. The last ones of an answer count."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None
    """None: not reported."""
    reasoning_tokens: int | None = None
    """None: not reported."""


@dataclass(slots=True)
class Finish:
    """The choice is complete."""

    reason: str = contract.FINISH_STOP
    """`stop`, `length`, `tool_calls` or `content_filter`."""
    choice: int = 0


Event = Text | Reasoning | Refusal | ToolCall | Arguments | Usage | Finish

_TYPES: dict[str, type[Event]] = {
    contract.EVENT_TEXT: Text,
    contract.EVENT_REASONING: Reasoning,
    contract.EVENT_REFUSAL: Refusal,
    contract.EVENT_TOOL_CALL: ToolCall,
    contract.EVENT_ARGUMENTS: Arguments,
    contract.EVENT_USAGE: Usage,
    contract.EVENT_FINISH: Finish,
}
_KINDS = {type: kind for kind, type in _TYPES.items()}


def encode(event: Event) -> bytes:
    """The event as a JSON object, without absent values."""
    fields: dict[str, Any] = {"type": _KINDS[type(event)]}
    for name in event.__slots__:  # dataclasses.asdict takes five times as long
        value = getattr(event, name)
        if value is not None and not (name == "choice" and value == 0) and not (name == "id" and value == ""):
            fields[name] = value
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def decode(data: bytes) -> Event:
    """Raises ValueError for anything but the JSON object of an event."""
    fields = json.loads(data)
    type = _TYPES.get(fields.pop("type", None)) if isinstance(fields, dict) else None
    if type is None:
        raise ValueError("not an event")
    try:
        return type(**fields)
    except TypeError as error:
        raise ValueError(f"not an event: {error}") from None
