"""Answers of the APIs of vendors."""

import json
from typing import Any

from anyserve_worker.pipelines.core.events import Usage
from tests.anyserve_worker.pipelines.answering import Summary
from tests.anyserve_worker.pipelines.http_api.exchange import Api, named, sse

GEMINI_USAGE = {"promptTokenCount": 4, "candidatesTokenCount": 2, "thoughtsTokenCount": 3, "totalTokenCount": 9}


def gemini(*parts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": list(parts)}, "index": 0, **fields}
    return {"candidates": [candidate], "modelVersion": "gemini", "usageMetadata": GEMINI_USAGE}


HOSTED_APIS = {
    "cohere_v2": Api(
        path="/v2/chat",
        body={
            "model": "up/m",
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
            "stream": False,
            "max_tokens": 20,
            "temperature": 0.5,
            "stop_sequences": ["END"],
        },
        stream_body={"stream": True},
        whole={
            "id": "x",
            "finish_reason": "MAX_TOKENS",
            "message": {
                "role": "assistant",
                "content": [{"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "Hello"}],
            },
            "usage": {
                "billed_units": {"input_tokens": 1, "output_tokens": 1},
                "tokens": {"input_tokens": 4, "output_tokens": 2},
            },
        },
        pieces=named(
            ("message-start", {"type": "message-start", "id": "x", "delta": {"message": {"role": "assistant"}}}),
            ("content-start", {"type": "content-start", "index": 0, "delta": {"message": {"content": {"text": ""}}}}),
            (
                "content-delta",
                {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"thinking": "Hm"}}}},
            ),
            (
                "content-delta",
                {"type": "content-delta", "index": 1, "delta": {"message": {"content": {"text": "Hel"}}}},
            ),
            ("content-delta", {"type": "content-delta", "index": 1, "delta": {"message": {"content": {"text": "lo"}}}}),
            ("content-end", {"type": "content-end", "index": 1}),
            (
                "message-end",
                {
                    "type": "message-end",
                    "delta": {
                        "finish_reason": "MAX_TOKENS",
                        "usage": {
                            "billed_units": {"input_tokens": 1, "output_tokens": 1},
                            "tokens": {"input_tokens": 4, "output_tokens": 2},
                        },
                    },
                },
            ),
        ),
        type="text/event-stream",
        summary=Summary("Hello", "Hm", usage=Usage(4, 2), finish="length"),
        error={"message": "boom", "id": "x"},
        error_piece='event: message-end\ndata: {"type": "message-end", "delta": {"error": "boom"}}\n\n',
    ),
    "gemini": Api(
        path="/models/up%2Fm:generateContent",
        stream_path="/models/up%2Fm:streamGenerateContent?alt=sse",
        body={
            "contents": [{"role": "user", "parts": [{"text": "Hi"}]}],
            "generationConfig": {"maxOutputTokens": 20, "temperature": 0.5, "stopSequences": ["END"]},
        },
        whole=gemini({"text": "Hm", "thought": True}, {"text": "Hel"}, {"text": "lo"}, finishReason="MAX_TOKENS"),
        pieces=sse(
            gemini({"text": "Hm", "thought": True}),
            gemini({"text": "Hel"}),
            gemini({"text": "lo"}, finishReason="MAX_TOKENS"),
            end="\r\n",
        ),
        type="text/event-stream",
        summary=Summary("Hello", "Hm", usage=Usage(4, 5, reasoning_tokens=3), finish="length"),
        error={"error": {"code": 500, "message": "boom", "status": "INTERNAL"}},
        error_piece='data: {"error": {"code": 500, "message": "boom", "status": "INTERNAL"}}\r\n\r\n',
        key_header=("x-goog-api-key", "k-123"),
    ),
    "anthropic": Api(
        path="/messages",
        body={
            "model": "up/m",
            "max_tokens": 20,
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
            "stream": False,
            "temperature": 0.5,
            "stop_sequences": ["END"],
        },
        stream_body={"stream": True},
        whole={
            "type": "message",
            "content": [{"type": "thinking", "thinking": "Hm", "signature": "s"}, {"type": "text", "text": "Hello"}],
            "stop_reason": "max_tokens",
            "usage": {
                "input_tokens": 1,
                "cache_read_input_tokens": 3,
                "cache_creation_input_tokens": 0,
                "output_tokens": 2,
            },
        },
        pieces=named(
            (
                "message_start",
                {
                    "type": "message_start",
                    "message": {
                        "content": [],
                        "stop_reason": None,
                        "usage": {"input_tokens": 1, "cache_read_input_tokens": 3, "output_tokens": 1},
                    },
                },
            ),
            ("content_block_start", {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking"}}),
            ("ping", {"type": "ping"}),
            (
                "content_block_delta",
                {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm"}},
            ),
            ("content_block_stop", {"type": "content_block_stop", "index": 0}),
            (
                "content_block_delta",
                {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Hel"}},
            ),
            (
                "content_block_delta",
                {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "lo"}},
            ),
            (
                "message_delta",
                {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 2}},
            ),
            ("message_stop", {"type": "message_stop"}),
        ),
        type="text/event-stream; charset=utf-8",
        summary=Summary("Hello", "Hm", usage=Usage(4, 2, 3), finish="length"),
        error={"type": "error", "error": {"type": "api_error", "message": "boom"}},
        error_piece='event: error\ndata: {"type": "error", "error": {"type": "api_error", "message": "boom"}}\n\n',
        key_header=("x-api-key", "k-123"),
    ),
}
GEMINI_ARRAY = Api(
    **{
        **vars(HOSTED_APIS["gemini"]),
        "stream_path": "/models/up%2Fm:streamGenerateContent",
        "pieces": [
            "[" + json.dumps(gemini({"text": "Hm", "thought": True}), indent=2),
            ",\r\n" + json.dumps(gemini({"text": "Hel"}), indent=2) + "\n",
            ",\r\n" + json.dumps(gemini({"text": "lo"}, finishReason="MAX_TOKENS"), indent=2) + "\n",
            "]",
        ],
        "type": "application/json",
        "error_piece": ',\n{"error": {"code": 500, "message": "boom", "status": "INTERNAL"}}\n',
        "settings": {
            "overrides": {
                "request": {"stream_path": "/models/{model}:streamGenerateContent"},
                "stream": {"framing": "json-array"},
            }
        },
    }
)
