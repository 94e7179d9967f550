"""The work of `/v1/responses/input_tokens`."""

from openai_server.api.responses.opening import completed
from openai_server.api.responses.settings import ResponsesRequest
from openai_server.api.tasks import Task
from openai_server.api.tokens.answer import InputTokens
from openai_server.api.tokens.count import prompt_length


async def count(task: Task, request: ResponsesRequest) -> InputTokens:
    """The tokens of the prompt that a response to the same request costs. Raises APIError and ClientGone."""
    request = await completed(task.services, request, task.context)
    return InputTokens("response.input_tokens", await prompt_length(task, request.turn))
