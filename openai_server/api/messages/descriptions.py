"""The descriptions of `/v1/messages` and `/v1/messages/count_tokens`."""

from typing import Any

from openai_server.api import endpoint
from openai_server.api.endpoint import Description, Example, RequestType
from openai_server.api.examples import MODEL, SERVED
from openai_server.api.messages.answer import (
    AnthropicMessage,
    BlockDelta,
    BlockStart,
    BlockStop,
    MessageDelta,
    MessageStart,
    MessageStop,
    Ping,
    TokenCount,
)
from openai_server.api.messages.errors import OVERLOADED
from openai_server.api.messages.fields import COUNT_FIELDS, MESSAGES_FIELDS
from openai_server.api.messages.schema import CountTokensRequest, MessagesRequest

_WEATHER = {
    "name": "get_weather",
    "description": "The current weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
_QUESTION = "What is the capital of France?"


def _conversation(content: str, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}


MESSAGES = Description(
    tag="Generation",
    summary="Answer a conversation, in Anthropic's API",
    requests=[RequestType("messages", MessagesRequest, MESSAGES_FIELDS)],
    examples={
        "question": Example(
            "A question", _conversation(_QUESTION, system="Answer in one sentence.", max_tokens=60, temperature=0)
        ),
        "stream": Example("As a stream", _conversation(_QUESTION, max_tokens=60, temperature=0, stream=True)),
        "tools": Example(
            "A tool to call",
            _conversation(
                "What is the weather in Paris?",
                tools=[_WEATHER],
                tool_choice={"type": "any", "disable_parallel_tool_use": True},
                max_tokens=100,
                temperature=0,
            ),
        ),
    },
    answers=[AnthropicMessage],
    events=[MessageStart, BlockStart, BlockDelta, BlockStop, MessageDelta, MessageStop, Ping],
    ends_with_done=False,
    example={
        "id": "msg_cfaf49a9d6c26f12e104c0850da7761f",
        "type": "message",
        "role": "assistant",
        "model": SERVED,
        "content": [{"type": "text", "text": "The capital of France is Paris.", "citations": []}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "stop_details": None,
        "container": None,
        "usage": {
            "input_tokens": 26,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 8,
            "output_tokens_details": None,
            "server_tool_use": None,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "service_tier": "standard",
            "inference_geo": None,
        },
    },
    errors=endpoint.WORK | {OVERLOADED},
)
COUNT_TOKENS = Description(
    tag="Texts",
    summary="Count the prompt tokens of a conversation, in Anthropic's API",
    requests=[RequestType("messages/count_tokens", CountTokensRequest, COUNT_FIELDS)],
    examples={"question": Example("A question", _conversation(_QUESTION, system="Answer in one sentence."))},
    answers=[TokenCount],
    example={"input_tokens": 26},
    errors=endpoint.WORK | {OVERLOADED},
)
