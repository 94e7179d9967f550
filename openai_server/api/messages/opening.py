"""Reads the files of a conversation, and opens the reasoning that this server sealed in its earlier responses."""

from openai_server.api.messages.schema import ConversationTurn
from openai_server.api.opening import texts_of
from openai_server.api.prompt_files.step import with_files
from openai_server.api.services import Services
from openai_server.core.request_context import RequestContext


async def opened(services: Services, turn: ConversationTurn, context: RequestContext) -> ConversationTurn:
    """The turn with the texts of its files, and of its sealed reasoning if it can be opened. Raises APIError and
    ClientGone."""
    turn = await with_files(services, turn, context)
    if not turn.sealed_items:
        return turn
    return turn.with_opened(await texts_of(turn.sealed_items, turn.model, services, context))
