"""Replaces the files of a turn by their texts. Every endpoint that renders a prompt takes this step."""

from collections.abc import Sequence
from typing import TypeVar

from openai_server.api.services import Services
from openai_server.core.messages import FilePart, Message
from openai_server.core.request_context import RequestContext
from openai_server.core.turn import Turn
from openai_server.http.streaming import unless_gone

T = TypeVar("T", bound=Turn)


async def with_files(services: Services, turn: T, context: RequestContext) -> T:
    """The turn with the texts of its files; the same turn if it has none. Raises APIError and ClientGone."""
    if not has_files(turn.messages):
        return turn
    from openai_server.api.prompt_files.reader import FileReader  # few servers need it

    if services.file_reader is None:
        services.file_reader = FileReader(services)
    return await unless_gone(context.scope, services.file_reader.read(turn, context))


def has_files(messages: Sequence[Message]) -> bool:
    return any(
        isinstance(part, FilePart)
        for message in messages
        if isinstance(message.content, list)
        for part in message.content
    )
