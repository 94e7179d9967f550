"""A server with OpenAI's API that answers by a script, for programs that need a model.

A chat with tools whose last message is the user's and has one of the words TRIGGERS is answered with a call of the
first tool; every other request with `Answer to: ` and the last text of the user.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

Json = dict[str, Any]

PROMPT_TOKENS, COMPLETION_TOKENS = 10, 5
"""Counts of each answer."""
TRIGGERS = ("weather", "command")
REASONING = "The user wants an answer."
ARGUMENTS = '{"location": "Berlin"}'


class OpenAIStub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[Json] = []
        """Bodies of all requests."""

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


@contextmanager
def openai_stub() -> Iterator[OpenAIStub]:
    with OpenAIStub() as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: OpenAIStub

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        is_chat = self.path.endswith("/chat/completions")
        if not body.get("stream"):
            self._send("application/json", json.dumps(_completion(body)).encode())
            return
        events = _chat_chunks(body) if is_chat else _response_events(body)
        lines = [f"data: {json.dumps(event)}\n\n".encode() for event in events]
        self._send("text/event-stream", b"".join(lines) + (b"data: [DONE]\n\n" if is_chat else b""))

    def _send(self, content_type: str, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def _usage() -> Json:
    total = PROMPT_TOKENS + COMPLETION_TOKENS
    return {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS, "total_tokens": total}


def _last_user_text(messages: list[Json]) -> str:
    content = next((m["content"] for m in reversed(messages) if m.get("role") == "user"), "")
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def _answer(messages: list[Json]) -> str:
    return f"Answer to: {_last_user_text(messages)}"


def _calls_tool(body: Json) -> bool:
    last = body["messages"][-1]
    triggers = last["role"] == "user" and any(word in _last_user_text([last]) for word in TRIGGERS)
    return triggers and bool(body.get("tools"))


def _completion(body: Json) -> Json:
    message = {"role": "assistant", "content": _answer(body["messages"])}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return _object(body, "chat.completion", choices=[choice], usage=_usage())


def _object(body: Json, kind: str, **fields: Any) -> Json:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": body["model"], **fields}


def _chat_chunks(body: Json) -> Iterator[Json]:
    def chunk(finish_reason: str | None = None, **delta: Any) -> Json:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return _object(body, "chat.completion.chunk", choices=[choice])

    yield chunk(role="assistant", content="")
    if _calls_tool(body):
        function = {"name": body["tools"][0]["function"]["name"], "arguments": ""}
        yield chunk(tool_calls=[{"index": 0, "id": "call_1", "type": "function", "function": function}])
        for piece in (ARGUMENTS[:5], ARGUMENTS[5:]):
            yield chunk(tool_calls=[{"index": 0, "function": {"arguments": piece}}])
        yield chunk("tool_calls")
    else:
        for word in _answer(body["messages"]).split(" "):
            yield chunk(content=word + " ")
        yield chunk("stop")
    yield _object(body, "chat.completion.chunk", choices=[], usage=_usage())


def _response_events(body: Json) -> Iterator[Json]:
    text = _answer(body["input"])
    summary = {"type": "summary_text", "text": REASONING}
    reasoning: Json = {"id": "rs_1", "type": "reasoning", "summary": []}
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    usage = {
        "input_tokens": PROMPT_TOKENS,
        "output_tokens": COMPLETION_TOKENS,
        "total_tokens": PROMPT_TOKENS + COMPLETION_TOKENS,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 2},
    }
    response: Json = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": body["model"],
        "status": "in_progress",
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "error": None,
        "usage": None,
    }
    done = [{**reasoning, "summary": [summary]}, message]
    events: list[Json] = [
        {"type": "response.created", "response": response},
        {"type": "response.output_item.added", "output_index": 0, "item": reasoning},
        *(
            {
                "type": "response.reasoning_summary_text.delta",
                "item_id": "rs_1",
                "output_index": 0,
                "summary_index": 0,
                "delta": piece,
            }
            for piece in (REASONING[:8], REASONING[8:])
        ),
        {"type": "response.output_item.done", "output_index": 0, "item": done[0]},
        {"type": "response.output_item.added", "output_index": 1, "item": {**message, "content": []}},
        *(
            {
                "type": "response.output_text.delta",
                "item_id": "msg_1",
                "output_index": 1,
                "content_index": 0,
                "delta": word + " ",
                "logprobs": [],
            }
            for word in text.split(" ")
        ),
        {"type": "response.output_item.done", "output_index": 1, "item": message},
        {"type": "response.completed", "response": {**response, "status": "completed", "output": done, "usage": usage}},
    ]
    for number, event in enumerate(events):
        yield {**event, "sequence_number": number}
