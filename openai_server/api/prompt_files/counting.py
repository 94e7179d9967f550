"""The number of tokens in the text of a file."""

from os import urandom

from openai_server.api.services import Services
from openai_server.api.tasks import Task
from openai_server.backends.dialects.anyserve import decode, encode_tasks
from openai_server.backends.directory import Model
from openai_server.core.errors import TaskNotSupported
from openai_server.core.request_context import RequestContext
from openai_server.core.tasks import TokenizeOptions
from protos import contract

BYTES_PER_TOKEN = 4
"""For the estimate where neither this server nor the backend has a tokenizer."""


async def tokens_of(text: str, model: str | None, field: str, services: Services, context: RequestContext) -> int:
    """The text's tokens with the model's tokenizer, or an estimate if there is none. Raises APIError."""
    n_bytes = len(text.encode(errors="replace"))
    plain = ((0, n_bytes),)
    options = TokenizeOptions(add_special=False, names={"text": field, "add_special": field})
    task = Task(services, context, f"count-{urandom(16).hex()}")

    async def work(found: Model) -> int:
        if tokenizer := services.tokenizers.get(found.parameters):
            return (await tokenizer.length(text, plain, options, caller=context.caller))[0]
        call = encode_tasks.tokenize(text, plain, options, task.target(found))
        [(length, _)] = await task.infer([call], found, decode.length)
        return length

    params = {spec.name: field for spec in (contract.TEXT_TO_TOKENIZE, contract.PLAIN_SPANS)}
    try:
        return await task.perform(contract.TASK_TOKENIZE, model, work, params)
    except TaskNotSupported:
        return n_bytes // BYTES_PER_TOKEN
