"""The registry entry of `/v1/completions`."""

from functools import partial

from openai_server.api import endpoint
from openai_server.api.answers import AnswerOptions
from openai_server.api.completions.answer import Completion, CompletionChunk
from openai_server.api.completions.request import parse
from openai_server.api.completions.whole import completion
from openai_server.api.completions.writer import CompletionWriter
from openai_server.api.endpoint import Description, Endpoint, Example, RequestType, by_model, with_v1
from openai_server.api.examples import CREATED, MODEL, SERVED
from openai_server.api.generation_handler import GenerationHandler
from openai_server.api.schemas import COMPLETION_FIELDS, CompletionRequest

_COMPLETION = {"model": MODEL, "prompt": "The capital of France is", "max_tokens": 16, "temperature": 0}

COMPLETIONS = Endpoint(
    paths=(*with_v1("/completions"), *by_model("completions")),
    method="POST",
    handler=partial(
        GenerationHandler,
        parse=parse,
        id_prefix="cmpl-",
        answer=lambda identity, answers, request, format: completion(
            identity, answers, AnswerOptions.of(request, format)
        ),
        writer=lambda identity, request, format: CompletionWriter(identity, AnswerOptions.of(request, format)),
    ),
    operation="text_completion",
    description=Description(
        tag="Generation",
        summary="Continue a text",
        requests=[RequestType("completions", CompletionRequest, COMPLETION_FIELDS)],
        examples={
            "text": Example("A text to continue", _COMPLETION),
            "stream": Example("As a stream", {**_COMPLETION, "stream": True}),
            "logprobs": Example("With log probabilities", {**_COMPLETION, "max_tokens": 4, "logprobs": 3}),
        },
        answers=[Completion],
        events=[CompletionChunk],
        example={
            "id": "cmpl-efe3ee3c9f19b98da2852077e6f0bec9",
            "object": "text_completion",
            "created": CREATED,
            "model": SERVED,
            "choices": [
                {
                    "index": 0,
                    "text": " Paris.\n\nThe United States has a population of approximately 311",
                    "logprobs": None,
                    "finish_reason": "length",
                }
            ],
            "usage": {
                "prompt_tokens": 5,
                "completion_tokens": 16,
                "total_tokens": 21,
                "prompt_tokens_details": {"cached_tokens": 0},
            },
        },
        errors=endpoint.WORK,
    ),
)
