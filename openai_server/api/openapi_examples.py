"""Examples of the OpenAPI document: requests that run as they stand, and what a small model answered to the first one.

PURE. The model is `llamacpp`, an alias of the first served model on every server. tests/wire/test_openapi_examples.py
validates each example and sends it; tests/e2e/test_openapi_examples.py sends them to the bundled worker.
"""

from dataclasses import dataclass
from typing import Any

MODEL = "llamacpp"
_SERVED = "SmolLM2-135M-Instruct.Q4_1"
_CREATED = 1795972014


@dataclass(frozen=True, slots=True)
class Example:
    """A request's body. `summary` is what the reference page lists it by."""

    summary: str
    body: dict[str, Any]


def _chat(*contents: str, **fields: Any) -> dict[str, Any]:
    """A chat of one user message, or of a system message and a user message."""
    roles = ("system", "user")[-len(contents) :]
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    return {"model": MODEL, "messages": messages, **fields}


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
_COMPLETION = {"model": MODEL, "prompt": "The capital of France is", "max_tokens": 16, "temperature": 0}

REQUESTS: dict[str, dict[str, Example]] = {
    "/v1/completions": {
        "text": Example("A text to continue", _COMPLETION),
        "stream": Example("As a stream", {**_COMPLETION, "stream": True}),
        "logprobs": Example("With log probabilities", {**_COMPLETION, "max_tokens": 4, "logprobs": 3}),
    },
    "/v1/chat/completions": {
        "question": Example("A question", _chat(*_QUESTION, max_tokens=60, temperature=0)),
        "stream": Example("As a stream", _chat(*_QUESTION, max_tokens=60, temperature=0, stream=True)),
        "tools": Example(
            "A tool to call",
            _chat(
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
            _chat(
                "Name a city and its country.",
                response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": _CITY}},
                max_tokens=100,
                temperature=0,
            ),
        ),
    },
    "/v1/embeddings": {"texts": Example("Two texts", {"model": MODEL, "input": ["a fox", "a crow"]})},
    "/v1/rerank": {
        "documents": Example(
            "Two documents (needs a reranker: other models answer 400, unsupported_task)",
            {"model": MODEL, "query": "Which animal can fly?", "documents": ["a fox", "a crow"]},
        )
    },
    "/tokenize": {
        "content": Example(
            "A text, as in llama-server", {"model": MODEL, "content": "Hello, world!", "with_pieces": True}
        ),
        "prompt": Example("A text, as in vLLM", {"model": MODEL, "prompt": "Hello, world!", "return_token_strs": True}),
        "messages": Example("A conversation", _chat("Hello!")),
    },
    "/detokenize": {"tokens": Example("Four tokens", {"model": MODEL, "tokens": [19556, 28, 905, 17]})},
    "/apply-template": {"messages": Example("A conversation", _chat("Hello!"))},
}
"""By path and name; the first of a path is the one that the reference page shows."""

_DESCRIBED_MODEL = {
    "id": _SERVED,
    "object": "model",
    "created": _CREATED,
    "owned_by": "anyserve",
    "max_model_len": 8192,
    "capabilities": ["completion", "embedding", "tokenize", "detokenize"],
    "meta": {
        "n_vocab": 49152,
        "n_ctx_train": 8192,
        "n_embd": 576,
        "n_params": 134515008,
        "size": 96576768,
    },
}

RESPONSES: dict[str, Any] = {
    "/v1/completions": {
        "id": "cmpl-efe3ee3c9f19b98da2852077e6f0bec9",
        "object": "text_completion",
        "created": _CREATED,
        "model": _SERVED,
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
    "/v1/chat/completions": {
        "id": "chatcmpl-cfaf49a9d6c26f12e104c0850da7761f",
        "object": "chat.completion",
        "created": _CREATED,
        "model": _SERVED,
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
    "/v1/embeddings": {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [-0.0407, 0.0008, 0.0028]},
            {"object": "embedding", "index": 1, "embedding": [-0.0246, 0.0305, 0.0142]},
        ],
        "model": _SERVED,
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
    },
    "/v1/rerank": {
        "id": "rerank-1ad2b9a1f3c9fd3f6a1c1a0c1a4f0d52",
        "object": "list",
        "model": "bge-reranker-v2-m3",
        "results": [{"index": 1, "relevance_score": 2.36}, {"index": 0, "relevance_score": -7.81}],
        "usage": {"prompt_tokens": 22, "total_tokens": 22},
    },
    "/tokenize": {
        "tokens": [
            {"id": 19556, "piece": "Hello"},
            {"id": 28, "piece": ","},
            {"id": 905, "piece": " world"},
            {"id": 17, "piece": "!"},
        ]
    },
    "/detokenize": {"content": "Hello, world!", "prompt": "Hello, world!"},
    "/apply-template": {"prompt": "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n"},
    "/v1/models": {"object": "list", "data": [_DESCRIBED_MODEL]},
    "/v1/models/{model}": _DESCRIBED_MODEL,
    "/openapi.json": {"openapi": "3.1.0", "info": {"title": "anyserve-openai", "version": "0.1.0"}, "paths": {}},
    "/livez": {"status": "ok"},
    "/readyz": {"status": "ok"},
    "/health": {"status": "ok"},
    "/metrics": 'openai_server_info{version="0.1.0"} 1.0\n',
}
"""By path. Vectors are shortened."""
