"""The descriptions of `/v1/responses`, `/v1/responses/compact` and `/v1/responses/input_tokens`."""

from openai_server.api import endpoint
from openai_server.api.endpoint import Description, Example, RequestType
from openai_server.api.examples import CREATED, MODEL, SERVED
from openai_server.api.responses.answer import CompactedResponse, ResponseObject
from openai_server.api.responses.input.body import ResponsesBody
from openai_server.api.responses.input.fields import RESPONSES_FIELDS
from openai_server.api.responses.output.stream_events import EVENT_TYPES
from openai_server.api.responses.retrieval.parameters import RESPONSE_ID
from openai_server.api.tokens.answer import InputTokens

_WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The current weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
_CITY = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 30}, "country": {"type": "string", "maxLength": 30}},
    "required": ["name", "country"],
    "additionalProperties": False,
}
_QUESTION = {
    "model": MODEL,
    "instructions": "Answer in one sentence.",
    "input": "What is the capital of France?",
    "max_output_tokens": 60,
    "temperature": 0,
}
_TALK = {
    "model": MODEL,
    "input": [
        {"role": "user", "content": "We launch on Tuesday. Inform support first."},
        {"role": "assistant", "content": "Understood: support first, then the launch on Tuesday."},
    ],
}

RESPONSES = Description(
    tag="Generation",
    summary="Answer a conversation, with the Responses API",
    requests=[RequestType("responses", ResponsesBody, RESPONSES_FIELDS)],
    examples={
        "question": Example("A question", _QUESTION),
        "stream": Example("As a stream", {**_QUESTION, "stream": True}),
        "tools": Example(
            "A tool to call",
            {
                "model": MODEL,
                "input": "What is the weather in Paris?",
                "tools": [_WEATHER],
                "tool_choice": "required",
                "parallel_tool_calls": False,
                "max_output_tokens": 100,
                "temperature": 0,
            },
        ),
        "result": Example(
            "The result of a call",
            {
                "model": MODEL,
                "input": [
                    {"role": "user", "content": "What is the weather in Paris?"},
                    {
                        "type": "function_call",
                        "call_id": "call_1",
                        "name": "get_weather",
                        "arguments": '{"city": "Paris"}',
                    },
                    {"type": "function_call_output", "call_id": "call_1", "output": "17 °C, sunny"},
                ],
                "tools": [_WEATHER],
                "max_output_tokens": 60,
                "temperature": 0,
            },
        ),
        "schema": Example(
            "An answer with a JSON Schema",
            {
                "model": MODEL,
                "input": "Name a city and its country.",
                "text": {"format": {"type": "json_schema", "name": "city", "schema": _CITY, "strict": True}},
                "max_output_tokens": 100,
                "temperature": 0,
            },
        ),
    },
    answers=[ResponseObject],
    events=EVENT_TYPES,
    example={
        "id": "resp_cfaf49a9d6c26f12e104c0850da7761f",
        "object": "response",
        "created_at": CREATED,
        "completed_at": CREATED + 1,
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": "Answer in one sentence.",
        "max_output_tokens": 60,
        "max_tool_calls": None,
        "model": SERVED,
        "output": [
            {
                "type": "message",
                "id": "msg_cfaf49a9d6c26f12e104c0850da7761f00",
                "status": "completed",
                "role": "assistant",
                "content": [
                    {
                        "type": "output_text",
                        "text": "The capital of France is Paris.",
                        "annotations": [],
                        "logprobs": [],
                    }
                ],
                "phase": "final_answer",
            }
        ],
        "parallel_tool_calls": True,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": False,
        "temperature": 0.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": 26,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 8,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 34,
        },
        "user": None,
        "metadata": {},
    },
    errors=endpoint.WORK,
)
RESPONSES_COMPACT = Description(
    tag="Generation",
    summary="Replace a conversation by a summary",
    requests=[RequestType("responses", ResponsesBody, RESPONSES_FIELDS)],
    examples={"conversation": Example("A conversation", _TALK)},
    answers=[CompactedResponse],
    example={
        "id": "resp_cfaf49a9d6c26f12e104c0850da7761f",
        "object": "response.compaction",
        "created_at": CREATED,
        "output": [
            {
                "type": "message",
                "id": "msg_cfaf49a9d6c26f12e104c0850da7761f00",
                "status": "completed",
                "role": "user",
                "content": [{"type": "input_text", "text": "We launch on Tuesday. Inform support first."}],
            },
            {
                "type": "compaction",
                "id": "cmp_cfaf49a9d6c26f12e104c0850da7761f",
                "encrypted_content": "as1.cGxhY2Vob2xkZXI=",
            },
        ],
        "usage": {
            "input_tokens": 130,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 24,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 154,
        },
    },
    errors=endpoint.WORK,
)
RESPONSES_INPUT_TOKENS = Description(
    tag="Texts",
    summary="Count the prompt tokens of a conversation, in the Responses API",
    requests=[RequestType("responses", ResponsesBody, RESPONSES_FIELDS)],
    examples={"conversation": Example("A conversation", _TALK)},
    answers=[InputTokens],
    example={"object": "response.input_tokens", "input_tokens": 45},
    errors=endpoint.WORK,
)
RESPONSES_CANCEL = Description(
    tag="Stored responses",
    summary="Cancel a background response",
    parameters=[RESPONSE_ID],
    answers=[ResponseObject],
    example={
        **RESPONSES.example,
        "completed_at": None,
        "status": "cancelled",
        "background": True,
        "output": [],
        "store": True,
        "usage": None,
    },
    errors=endpoint.STORE,
)
