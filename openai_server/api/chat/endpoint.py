"""The registry entry of `/v1/chat/completions`."""

from openai_server.api import endpoint
from openai_server.api.answers import AnswerOptions
from openai_server.api.chat.answer import ChatCompletion, ChatCompletionChunk
from openai_server.api.chat.request import parse
from openai_server.api.chat.whole import chat_completion
from openai_server.api.chat.writer import ChatWriter
from openai_server.api.endpoint import Description, Endpoint, Example, Handler, RequestType, by_model, with_v1
from openai_server.api.examples import CREATED, SERVED, chat
from openai_server.api.generation_handler import GenerationHandler
from openai_server.api.prompt_files.step import with_files
from openai_server.api.schemas import CHAT_FIELDS, ChatRequest, GenerateRequest
from openai_server.api.services import Services
from openai_server.core.request_context import RequestContext

_QUESTION = ("Answer in one sentence.", "What is the capital of France?")
_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The current weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_CITY = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 30}, "country": {"type": "string", "maxLength": 30}},
    "required": ["name", "country"],
    "additionalProperties": False,
}


def _handler(services: Services) -> Handler:
    async def complete(request: GenerateRequest, context: RequestContext) -> GenerateRequest:
        request.turn = await with_files(services, request.turn, context)
        return request

    return GenerationHandler(
        services,
        parse=parse,
        id_prefix="chatcmpl-",
        complete=complete,
        answer=lambda identity, answers, request, format: chat_completion(
            identity, answers, AnswerOptions.of(request, format)
        ),
        writer=lambda identity, request, format: ChatWriter(identity, AnswerOptions.of(request, format)),
    )


CHAT = Endpoint(
    paths=(*with_v1("/chat/completions"), *by_model("chat/completions", "chat")),  # /{model}/chat is a path of hayhooks
    method="POST",
    handler=_handler,
    operation="chat",
    description=Description(
        tag="Generation",
        summary="Answer a conversation",
        requests=[RequestType("chat", ChatRequest, CHAT_FIELDS)],
        examples={
            "question": Example("A question", chat(*_QUESTION, max_tokens=60, temperature=0)),
            "stream": Example("As a stream", chat(*_QUESTION, max_tokens=60, temperature=0, stream=True)),
            "tools": Example(
                "A tool to call",
                chat(
                    "What is the weather in Paris?",
                    tools=[_WEATHER],
                    tool_choice="required",
                    parallel_tool_calls=False,
                    max_tokens=100,
                    temperature=0,
                ),
            ),
            "schema": Example(
                "An answer with a JSON Schema",
                chat(
                    "Name a city and its country.",
                    response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": _CITY}},
                    max_tokens=100,
                    temperature=0,
                ),
            ),
        },
        answers=[ChatCompletion],
        events=[ChatCompletionChunk],
        example={
            "id": "chatcmpl-cfaf49a9d6c26f12e104c0850da7761f",
            "object": "chat.completion",
            "created": CREATED,
            "model": SERVED,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "The capital of France is Paris.", "refusal": None},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": 26,
                "completion_tokens": 8,
                "total_tokens": 34,
                "prompt_tokens_details": {"cached_tokens": 0},
            },
        },
        errors=endpoint.WORK,
    ),
)
