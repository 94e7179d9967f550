"""The number of tokens that a chat costs as a prompt, for the endpoints that count it."""

from collections.abc import Mapping
from functools import partial

from openai_server.api.tasks import Task, TaskHandler
from openai_server.backends.dialects.anyserve import decode, encode_tasks
from openai_server.backends.directory import Model
from openai_server.core.tasks import TokenizeOptions
from openai_server.core.turn import Turn
from protos import contract

CountHandler = partial(TaskHandler, id_prefix="count-", costs_tokens=False)
"""Handles requests to count tokens, which cost none of the caller's tokens per minute."""


async def prompt_length(task: Task, turn: Turn) -> int:
    """Tokens of the prompt of a turn with messages: the number that generation would report for the same turn.

    The prompt is rendered and tokenized as for generation, with its tools, template options and plain spans. Raises
    APIError, also if neither the backend nor this server can tokenize.
    """
    field = turn.name("prompt")
    options = TokenizeOptions(add_special=False, names={"text": field, "add_special": field})

    async def work(model: Model) -> int:
        prompt = await task.services.planner.prompt(
            turn, model.parameters, model.input_names, caller=task.context.caller
        )
        if tokenizer := task.services.tokenizers.get(model.parameters):
            length, first = await tokenizer.length(prompt.text, prompt.plain, options, caller=task.context.caller)
        else:
            call = encode_tasks.tokenize(prompt.text, prompt.plain, options, task.target(model))
            [(length, first)] = await task.infer([call], model, decode.length)
        return length + _lacks_bos(length, first, model.parameters)

    params = {spec.name: field for spec in (contract.TEXT_TO_TOKENIZE, contract.PLAIN_SPANS)}
    return await task.perform(contract.TASK_TOKENIZE, turn.model, work, params)


def _lacks_bos(length: int, first: bytes, parameters: Mapping[str, str]) -> bool:
    """Whether generation adds a BOS to a prompt of this length that begins with the token `first`. A backend that
    doesn't report `add_bos_token` is taken to add none."""
    bos, adds_bos = parameters.get("bos_token", ""), parameters.get("add_bos_token")
    if not bos or adds_bos is None:
        return False
    return length == 0 or (adds_bos == "true" and first != bos.encode())
