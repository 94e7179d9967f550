"""The recordings of foreign backends: the HTTP requests that each gets, and a server that answers as recorded.

`python -m tests.foreign.record` writes the files in recorded/backends; test_backend_recordings.py replays them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from openai_server.cli import command
from openai_server.config import Config
from tests.wire import backend_messages

FOLDER = Path(__file__).parent / "recorded" / "backends"
SERVICE = "/inference.GRPCInferenceService/"
VARIABLE_PARAMETERS = ("timeout",)
"""Parameters of a request whose values differ between two runs."""


def http_requests(model: str) -> list[tuple[str, dict[str, Any] | None]]:
    """Path and body of the requests that are recorded; a GET has no body."""
    prompt = {"model": model, "prompt": "Write about tea"}
    chat = {
        "model": model,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Write about milk"}],
    }
    return [
        ("/v1/models", None),
        ("/v1/completions", prompt),
        ("/v1/completions", {**prompt, "stream": True}),
        ("/v1/completions", {**prompt, "max_tokens": 4, "stop": ["spoons"]}),
        ("/v1/completions", {**prompt, "max_tokens": 4, "stream": True, "stream_options": {"include_usage": True}}),
        ("/v1/completions", {**prompt, "stop": ["wo cu"]}),
        ("/v1/completions", {**prompt, "stop": ["wo cu"], "stream": True}),
        ("/v1/completions", {**prompt, "temperature": 0.5, "top_p": 0.9}),
        ("/v1/completions", {**prompt, "seed": 7, "presence_penalty": 0.5, "top_k": 5}),
        ("/v1/completions", {**prompt, "n": 2}),
        ("/v1/completions", {**prompt, "logit_bias": {"7": 5}}),
        ("/v1/chat/completions", chat),
        ("/v1/chat/completions", {**chat, "stream": True, "stream_options": {"include_usage": True}}),
        ("/v1/completions", {**prompt, "prompt": "Please fail-at-once"}),
        ("/v1/completions", {**prompt, "prompt": "Please fail-midway", "stream": True}),
    ]


def config(options: list[str]) -> Config:
    """Returns what the sidecar's command line makes of these options."""
    found: list[Config] = []
    command(found.append).main(options, standalone_mode=False)
    return found[0]


# ---- Answers in a form that two runs have in common


def answer_in_common(status: int, body: bytes) -> dict[str, Any]:
    """Returns status and JSON or events of an HTTP response, without ids and times. Texts of neighbouring events are
    joined, because the events' number depends on the time between the backend's responses."""
    text = body.decode()
    if not text.startswith(("data:", ":")):
        return {"status": status, "body": _without_ids(json.loads(text))}
    payloads = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    events: list[Any] = []
    for payload in payloads:
        event = payload if payload == "[DONE]" else _without_ids(json.loads(payload))
        if not (events and _joined(events[-1], event)):
            events.append(event)
    return {"status": status, "events": events}


def _without_ids(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_ids(element) for element in value]
    if isinstance(value, dict):
        return {key: _without_ids(element) for key, element in value.items() if key not in ("id", "created")} | (
            {"id": value["id"]} if value.get("object") == "model" else {}
        )
    return value


def _joined(last: Any, event: Any) -> bool:
    """Adds the text of `event` to `last` if both have nothing but the text of one choice; returns whether they had."""
    texts = [_text_of(last), _text_of(event)]
    if None in texts or last["choices"][0]["index"] != event["choices"][0]["index"]:
        return False
    choice = last["choices"][0]
    if "text" in choice:
        choice["text"] += texts[1]
    else:
        choice["delta"]["content"] += texts[1]
    return True


def _text_of(event: Any) -> str | None:
    if event == "[DONE]" or len(event.get("choices", ())) != 1 or event["choices"][0].get("finish_reason"):
        return None
    choice = event["choices"][0]
    if "text" in choice:
        return str(choice["text"])
    return choice["delta"]["content"] if choice.get("delta", {}).keys() == {"content"} else None


def is_inference(rpc: str, request: dict[str, Any] | None) -> bool:
    """Whether the call generates text; AnyServe's `model_info` is a lookup. A call that a server refuses at once has no
    request."""
    return rpc in ("ModelInfer", "ModelStreamInfer") and (request or {}).get("model_name") != "model_info"


def request_in_common(request: dict[str, Any]) -> dict[str, Any]:
    parameters = dict(request.get("parameters", {}))
    for name in VARIABLE_PARAMETERS:
        parameters.pop(name, None)
    return {**request, "parameters": parameters}


# ---- The server


@dataclass
class ReplayServer:
    """Answers lookups by their content. Inferences must come in the recorded order, with the recorded content."""

    lookups: list[dict[str, Any]]
    kind: str = ""
    expected: list[dict[str, Any]] = field(default_factory=list)
    """Inferences of the present HTTP request."""
    problems: list[str] = field(default_factory=list)

    def next_call(self, rpc: str, request: dict[str, Any]) -> dict[str, Any]:
        if not is_inference(rpc, request):
            matching = [call for call in self.lookups if (call["rpc"], call["request"]) == (rpc, request)]
            return matching[0] if matching else {"responses": [], "code": "UNIMPLEMENTED"}
        if not self.expected:
            self.problems.append(f"{rpc} was not recorded here: {request}")
            return {"responses": [], "code": "INTERNAL"}
        call = self.expected.pop(0)
        sent = {"rpc": rpc, "request": request_in_common(request)}
        recorded = {"rpc": call["rpc"], "request": request_in_common(call["request"] or request)}
        if sent != recorded:
            self.problems.append(f"sent:\n{json.dumps(sent)}\nrecorded:\n{json.dumps(recorded)}")
        return call


class Handler(grpc.GenericRpcHandler):
    def __init__(self, server: ReplayServer) -> None:
        self._server = server

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        rpc = details.method.removeprefix(SERVICE)
        if rpc == "ModelStreamInfer":
            return grpc.stream_stream_rpc_method_handler(self._stream)

        async def answer(data: bytes, context: Any) -> bytes:
            responses = [response async for response in self._responses(rpc, data, context)]
            return responses[0] if responses else b""

        return grpc.unary_unary_rpc_method_handler(answer)

    async def _stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for data in requests:
            async for response in self._responses("ModelStreamInfer", data, context):
                yield response

    async def _responses(self, rpc: str, data: bytes, context: Any) -> AsyncIterator[bytes]:
        message = backend_messages.request_type(rpc).FromString(data)
        id = getattr(message, "id", "")
        call = self._server.next_call(rpc, backend_messages.to_json(message))
        response_type = backend_messages.response_type(rpc, self._server.kind)
        for response in call["responses"]:
            yield backend_messages.from_json(response, response_type, id).SerializeToString()
            await asyncio.sleep(0)
        if "code" in call:
            await context.abort(grpc.StatusCode[call["code"]], call.get("details", ""))


@asynccontextmanager
async def replaying(server: ReplayServer) -> AsyncIterator[int]:
    """Yields the port on which it listens."""
    listener = aio.server(handlers=[Handler(server)])
    port = listener.add_insecure_port("127.0.0.1:0")
    await listener.start()
    try:
        yield port
    finally:
        await listener.stop(None)
