"""The work of the endpoints for tokens."""

from starlette.responses import Response

from openai_server.api.endpoint import Handler
from openai_server.api.prompt_files.step import with_files
from openai_server.api.query import query_of
from openai_server.api.schemas_tasks import ContentToTokenize, DetokenizeRequest, MessagesToTokenize, TokenizeRequest
from openai_server.api.services import Services
from openai_server.api.tasks import Task
from openai_server.api.tokens import answer
from openai_server.api.tokens.answer import ContentTokens, DetokenizedText, InputTokens, PromptTokens, RenderedPrompt
from openai_server.api.tokens.count import prompt_length
from openai_server.backends.dialects.anyserve import decode, encode_tasks
from openai_server.backends.directory import Model
from openai_server.core.errors import BackendError, from_backend
from openai_server.core.request_context import RequestContext
from openai_server.core.turn import Turn
from openai_server.http.json_response import JSONResponse
from openai_server.prompting.chat_prompt import ChatPrompt
from protos import contract

MANY_TOKENS = 4096
"""Number of tokens above which a thread builds the response: creating an object for each piece takes long."""


async def tokenize(task: Task, request: TokenizeRequest) -> ContentTokens | PromptTokens:
    """Raises APIError."""
    services, options = task.services, request.options
    if isinstance(request, MessagesToTokenize):
        turn = await with_files(services, request.turn(), task.context)

    async def work(model: Model) -> ContentTokens | PromptTokens:
        if isinstance(request, MessagesToTokenize):
            prompt = await services.planner.prompt(
                turn, model.parameters, model.input_names, caller=task.context.caller
            )
        else:
            prompt = ChatPrompt(request.content if isinstance(request, ContentToTokenize) else request.prompt)
        if tokenizer := services.tokenizers.get(model.parameters):
            encoded = await tokenizer.tokens(
                prompt.text, prompt.plain, options, context_length=model.context_length, caller=task.context.caller
            )
        else:
            call = encode_tasks.tokenize(prompt.text, prompt.plain, options, task.target(model))
            [encoded] = await task.infer([call], model, decode.tokens)
        ids, pieces = encoded
        if len(ids) > MANY_TOKENS:
            return await services.threads.run(
                task.context.caller, answer.tokens, request, ids, pieces, model.context_length
            )
        return answer.tokens(request, ids, pieces, model.context_length)

    params = {contract.TEXT_TO_TOKENIZE.name: options.names["text"]}
    return await task.perform(contract.TASK_TOKENIZE, request.model, work, params)


async def detokenize(task: Task, request: DetokenizeRequest) -> DetokenizedText:
    """Raises APIError."""

    async def work(model: Model) -> DetokenizedText:
        if tokenizer := task.services.tokenizers.get(model.parameters):
            text = await tokenizer.text(request.tokens, caller=task.context.caller)
        else:
            call = encode_tasks.detokenize(request.tokens, task.target(model))
            [text] = await task.infer([call], model, decode.text)
        return DetokenizedText(text, text)

    return await task.perform(contract.TASK_DETOKENIZE, request.model, work, encode_tasks.DETOKENIZE_PARAMS)


async def apply_template(task: Task, request: Turn) -> RenderedPrompt:
    """The prompt for the model, rendered without the backend. Raises APIError."""
    request = await with_files(task.services, request, task.context)

    async def work(model: Model) -> RenderedPrompt:
        prompt = await task.services.planner.prompt(
            request, model.parameters, model.input_names, caller=task.context.caller
        )
        return RenderedPrompt(prompt.text)

    return await task.perform(contract.TASK_GENERATE, request.model, work, {})


async def count(task: Task, request: Turn) -> InputTokens:
    """Raises APIError."""
    turn = await with_files(task.services, request, task.context)
    return InputTokens("response.input_tokens", await prompt_length(task, turn))


def tokenizer_info(services: Services) -> Handler:
    """The query may name the `model`."""

    async def handle(context: RequestContext) -> Response:
        try:
            model = await services.catalog.resolve(query_of(context).get("model"))
        except BackendError as error:
            raise from_backend(error, {}) from error
        return JSONResponse(answer.tokenizer_info(model.parameters, model.context_length))

    return handle
