"""The registry entries of the endpoints for tokens."""

from functools import partial

from openai_server.api import endpoint
from openai_server.api.endpoint import Description, Endpoint, Example, RequestType, with_v1
from openai_server.api.examples import MODEL, chat
from openai_server.api.schemas import CHAT_FIELDS, ChatRequest
from openai_server.api.schemas_tasks import (
    CONTENT_FIELDS,
    DETOKENIZE_FIELDS,
    MESSAGES_FIELDS,
    PROMPT_FIELDS,
    ContentToTokenize,
    DetokenizeRequest,
    MessagesToTokenize,
    PromptToTokenize,
)
from openai_server.api.tasks import TaskHandler
from openai_server.api.tokens import request, work
from openai_server.api.tokens.answer import (
    ContentTokens,
    DetokenizedText,
    InputTokens,
    PromptTokens,
    RenderedPrompt,
    TokenizerInfo,
)
from openai_server.api.tokens.count import CountHandler

TOKENIZE = Endpoint(
    paths=("/tokenize",),
    method="POST",
    handler=partial(TaskHandler, parse=request.tokenize, work=work.tokenize, id_prefix="tokenize-"),
    description=Description(
        tag="Texts",
        summary="Convert a text or a conversation to tokens",
        requests=[
            RequestType("tokenize with `content`", ContentToTokenize, CONTENT_FIELDS, "content"),
            RequestType("tokenize with `prompt`", PromptToTokenize, PROMPT_FIELDS, "prompt"),
            RequestType("tokenize with `messages`", MessagesToTokenize, MESSAGES_FIELDS, "messages"),
        ],
        examples={
            "content": Example(
                "A text, as in llama-server", {"model": MODEL, "content": "Hello, world!", "with_pieces": True}
            ),
            "prompt": Example(
                "A text, as in vLLM", {"model": MODEL, "prompt": "Hello, world!", "return_token_strs": True}
            ),
            "messages": Example("A conversation", chat("Hello!")),
        },
        answers=[ContentTokens, PromptTokens],
        example={
            "tokens": [
                {"id": 19556, "piece": "Hello"},
                {"id": 28, "piece": ","},
                {"id": 905, "piece": " world"},
                {"id": 17, "piece": "!"},
            ]
        },
        errors=endpoint.WORK,
    ),
)
DETOKENIZE = Endpoint(
    paths=("/detokenize",),
    method="POST",
    handler=partial(
        TaskHandler,
        parse=request.detokenize,
        prompts=lambda request: [request.tokens],
        work=work.detokenize,
        id_prefix="detokenize-",
    ),
    description=Description(
        tag="Texts",
        summary="Convert tokens to text",
        requests=[RequestType("detokenize", DetokenizeRequest, DETOKENIZE_FIELDS)],
        examples={"tokens": Example("Four tokens", {"model": MODEL, "tokens": [19556, 28, 905, 17]})},
        answers=[DetokenizedText],
        example={"content": "Hello, world!", "prompt": "Hello, world!"},
        errors=endpoint.WORK,
    ),
)
APPLY_TEMPLATE = Endpoint(
    paths=("/apply-template",),
    method="POST",
    handler=partial(TaskHandler, parse=request.apply_template, work=work.apply_template, id_prefix="template-"),
    description=Description(
        tag="Texts",
        summary="Render a conversation to a prompt",
        requests=[RequestType("chat", ChatRequest, CHAT_FIELDS)],
        examples={"messages": Example("A conversation", chat("Hello!"))},
        answers=[RenderedPrompt],
        example={"prompt": "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n"},
        errors=endpoint.WORK,
    ),
)
CHAT_INPUT_TOKENS = Endpoint(
    paths=with_v1("/chat/completions/input_tokens"),
    method="POST",
    handler=partial(CountHandler, parse=request.chat_to_count, work=work.count),
    description=Description(
        tag="Texts",
        summary="Count the prompt tokens of a conversation",
        requests=[RequestType("chat", ChatRequest, CHAT_FIELDS)],
        examples={"messages": Example("A conversation", chat("Hello!"))},
        answers=[InputTokens],
        example={"object": "response.input_tokens", "input_tokens": 12},
        errors=endpoint.WORK,
    ),
)
TOKENIZER_INFO = Endpoint(
    paths=("/tokenizer_info",),
    method="GET",
    handler=work.tokenizer_info,
    description=Description(
        tag="Texts",
        summary="The special tokens and the chat template of a model",
        answers=[TokenizerInfo],
        example={
            "bos_token": "<|im_start|>",
            "eos_token": "<|im_end|>",
            "pad_token": "<|im_end|>",
            "add_bos_token": False,
            "model_max_length": 8192,
            "chat_template": "{% for message in messages %}\u2026{% endfor %}",
        },
        errors=endpoint.LOOKUP | {400},
    ),
)
