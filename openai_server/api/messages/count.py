"""The work of `/v1/messages/count_tokens`."""

from openai_server.api.messages.answer import TokenCount
from openai_server.api.tasks import Task
from openai_server.api.tokens.count import prompt_length
from openai_server.core.turn import Turn


async def count(task: Task, request: Turn) -> TokenCount:
    """Raises APIError."""
    return TokenCount(await prompt_length(task, request))
