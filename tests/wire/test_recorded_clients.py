"""Requests that real clients sent, recorded in recorded/: each gets a response that its client's types accept.

tests/ops/recording_proxy.py recorded them. Long texts are cut; all fields are there.
"""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.ops import able_worker
from tests.wire.fake_worker import PROMPT_TASKS, FakeWorker, inputs_of, last_token, message, token
from tests.wire.sidecar import Reply, Sidecar, running
from tests.wire.well_formed import (
    check_message,
    check_message_stream,
    check_response,
    check_response_stream,
    check_token_count,
)

FOLDER = Path(__file__).parent / "recorded"
REFUSED = ("stateful", "codex_images")
"""Files with requests that need a store or a model that sees images."""

SEALED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "enc-opaque": (
        "/v1/responses",
        "encrypted_content",
        {"input": "x", "reasoning": {"effort": "low"}, "include": ["reasoning.encrypted_content"]},
    ),
    "sig-opaque": (
        "/v1/messages",
        "signature",
        {
            "messages": [{"role": "user", "content": "x"}],
            "max_tokens": 2048,
            "thinking": {"type": "enabled", "budget_tokens": 1024},
        },
    ),
}
"""Placeholders in recorded requests: a request that returns such a value, and the field of the value."""


def recorded(*, refused: bool) -> list[Any]:
    found = []
    for path in sorted(FOLDER.glob("*.json")):
        if (path.stem in REFUSED) == refused:
            requests = json.loads(path.read_text())["requests"]
            found += [pytest.param(request, id=f"{path.stem}-{i}") for i, request in enumerate(requests)]
    return found


def pieces_for(request: ModelInferRequest) -> list[str]:
    """Returns reasoning, text and a call of the last tool that the prompt lists; no call if it lists none."""
    prompt = inputs_of(request)["prompt"][0].decode()
    pieces = ["<think>", "hm", "</think>", "we", "ll"]
    if names := re.findall(r'"name": ?"([^"]+)"', prompt.partition("<tool_call>")[0]):
        pieces += ['<tool_call>{"name": "', names[-1], '", "argu', 'ments": {"a": 1}}</tool_call>']
    return pieces


async def infer(request: ModelInferRequest) -> ModelInferResponse:
    if request.parameters[contract.PARAM_TASK].string_param == contract.TASK_TOKENIZE:
        return await able_worker.infer(request)
    text = "".join(pieces_for(request)).encode()
    return message(
        (contract.TEXT, [text]),
        (contract.FINISH_REASON, [b"stop"]),
        (contract.PROMPT_TOKENS, [3]),
        (contract.CACHED_TOKENS, [1]),
        (contract.COMPLETION_TOKENS, [2]),
    )


async def stream(request: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
    for piece in pieces_for(request):
        yield token(piece)
    yield last_token()


def worker() -> FakeWorker:
    inputs = {spec.name for task in PROMPT_TASKS.values() for spec in (*task.inputs, *contract.INPUTS)}
    return FakeWorker(infer, stream, inputs=inputs, parameters=able_worker.PARAMETERS, step_batches=False)


async def send(sidecar: Sidecar, request: dict[str, Any], **changes: Any) -> Reply:
    path = urlsplit(request["path"]).path
    body: Any = json.dumps({**request["body"], "model": "tiny", **changes})
    for placeholder in SEALED:
        if placeholder in body:
            body = body.replace(placeholder, await sealed(sidecar, placeholder))
    return await sidecar.send("POST", path, json.loads(body), request["headers"])


async def sealed(sidecar: Sidecar, placeholder: str) -> str:
    """Returns reasoning as the server seals it. The recorded requests have what another server returned."""
    path, field, request = SEALED[placeholder]
    reply = await sidecar.send("POST", path, {"model": "tiny", **request})
    items = reply.json["output"] if "output" in reply.json else reply.json["content"]
    return str(items[0][field])


def without_ids(value: Any) -> Any:
    """Returns the value without what differs between two equal responses."""
    if isinstance(value, dict):
        return {
            name: without_ids(element)
            for name, element in value.items()
            if name not in ("id", "call_id", "created_at", "completed_at", "signature", "encrypted_content")
        }
    return [without_ids(element) for element in value] if isinstance(value, list) else value


@pytest.mark.parametrize("request_", recorded(refused=False))
async def test_a_recorded_request_gets_a_well_formed_response(request_: dict[str, Any]) -> None:
    async with running(worker()) as sidecar:
        path = urlsplit(request_["path"]).path
        if path.endswith(("/count_tokens", "/input_tokens")):
            reply = await send(sidecar, request_)
            assert reply.status == 200, reply.body
            if path.endswith("/count_tokens"):
                assert check_token_count(reply.json) > 0
            else:
                assert reply.json.keys() == {"object", "input_tokens"}
                assert reply.json["object"] == "response.input_tokens"
            return
        whole = await send(sidecar, request_, stream=False)
        streamed = await send(sidecar, request_, stream=True)
        assert (whole.status, streamed.status) == (200, 200), (whole.body, streamed.body)
        assert streamed.headers["content-type"].startswith("text/event-stream")
        if path == "/v1/responses":
            answer, streamed_answer = check_response(whole.json), check_response_stream(streamed.body)
            expected = without_ids(answer.model_dump()["output"])
            assert expected
            assert without_ids(streamed_answer.model_dump()["output"]) == expected
        else:
            answered, streamed_message = check_message(whole.json), check_message_stream(streamed.body)
            expected = without_ids(answered.model_dump()["content"])
            assert expected
            assert without_ids(streamed_message.model_dump()["content"]) == expected


@pytest.mark.parametrize("request_", recorded(refused=True))
async def test_a_request_that_needs_more_than_this_server_has_is_refused(request_: dict[str, Any]) -> None:
    async with running(worker()) as sidecar:
        for stream in (False, True):
            reply = await send(sidecar, request_, stream=stream)
            assert reply.status == 400, reply.body
            if urlsplit(request_["path"]).path == "/v1/responses":
                assert reply.error["param"]
            else:
                # With this code, the anthropic package sends the whole conversation.
                assert reply.json["error"]["details"]["error_code"] == "thread_unsupported_request"
