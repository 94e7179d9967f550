"""The work of `/v1/messages/count_tokens`."""

from openai_server.api.messages.answer import TokenCount
from openai_server.api.messages.opening import opened
from openai_server.api.messages.schema import ConversationTurn
from openai_server.api.tasks import Task
from openai_server.api.tokens.count import prompt_length


async def count(task: Task, request: ConversationTurn) -> TokenCount:
    """Raises APIError and ClientGone."""
    return TokenCount(await prompt_length(task, await opened(task.services, request, task.context)))
