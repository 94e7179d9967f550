"""Opens the reasoning that this server sealed in earlier responses of a conversation."""

from openai_server.api.messages.schema import ConversationTurn
from openai_server.api.opening import texts_of
from openai_server.api.services import Services
from openai_server.core.request_context import RequestContext


async def opened(services: Services, turn: ConversationTurn, context: RequestContext) -> ConversationTurn:
    """The turn with the texts of its sealed reasoning, as far as they can be opened. Raises APIError and ClientGone."""
    if not turn.sealed_items:
        return turn
    return turn.with_opened(await texts_of(turn.sealed_items, turn.model, services, context))
