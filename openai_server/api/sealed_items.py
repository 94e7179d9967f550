"""Items that this server sealed in an earlier response, at their places in a request. PURE.

Opening them needs the server's key, so it happens after the parsing.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from openai_server.core.errors import InvalidRequest
from openai_server.core.messages import AssistantMessage, Message, UserMessage

SUMMARY = "Summary of the earlier conversation:\n\n"
"""Precedes the text of a compaction item, which the model reads as a user's message."""


class SealedItem(Struct, frozen=True, kw_only=True):
    kind: Literal["reasoning", "compaction"]
    text: str
    """The value of `encrypted_content`."""
    field: str
    """The path of that value in the request."""
    message: int
    """Position of the message in the turn."""
    piece: int = 0
    """Position in the message's reasoning, of a reasoning item."""
    has_plain_text: bool = False
    """Whether the item has its text in `content` too."""


def with_opened(
    messages: Sequence[Message],
    items: Sequence[SealedItem],
    pieces: Mapping[int, Sequence[str]],
    texts: Sequence[str | None],
) -> list[Message]:
    """The messages with the text of each sealed item; None: it can't be opened. `pieces` has the reasoning of messages
    with sealed reasoning, by position. Raises InvalidRequest for an item without any text."""
    result, by_message = list(messages), {position: list(parts) for position, parts in pieces.items()}
    for item, text in zip(items, texts, strict=True):
        if text is None:
            if not item.has_plain_text:
                raise InvalidRequest(
                    f"'{item.field}' can't be opened: this server didn't seal it, or sealed it for another model or "
                    "with another key.",
                    param=item.field,
                    code="invalid_encrypted_content",
                )
        elif item.kind == "compaction":
            result[item.message] = UserMessage(SUMMARY + text)
        else:
            by_message[item.message][item.piece] = text
    for position, parts in by_message.items():
        message = result[position]
        assert isinstance(message, AssistantMessage)
        result[position] = replace(message, reasoning_content=joined(parts))
    return result


def joined(pieces: Sequence[str]) -> str | None:
    """The reasoning of a message; None if there is none."""
    return "\n".join(filter(None, pieces)) or None
