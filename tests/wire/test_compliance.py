"""llm-comply's tests of three APIs, with the specifications of Open Responses, Anthropic and OpenAI.

A scripted backend stands for a model that reasons and calls tools. llm-comply runs in its own process.
"""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.e2e import servers
from tests.ops import able_worker
from tests.wire.fake_worker import ALL_INPUTS, FakeWorker, inputs_of, last_token, token, whole

pytestmark = pytest.mark.slow

CALL = '<tool_call>{"name": "get_weather", "arguments": {"location": "San Francisco"}}</tool_call>'
MODEL = "claude-4-gpt-5"
"""An alias. llm-comply tests reasoning only with models that have such a name."""
IMAGE = "the model reads only text"
NO_MODEL = "a request without `model` is for the default model"
FAILURES = {
    "open-responses": {"image-input": IMAGE, "error-handling": NO_MODEL},
    "anthropic": {"anth-image-input": IMAGE},
    "openai-chat": {
        "chat-image-input": IMAGE,
        "chat-error-handling": NO_MODEL,
        "chat-reasoning-summary": "the chat API has no field `reasoning`",
    },
}
"""Tests that fail, by format, with the reason."""
WARNINGS: dict[str, set[str]] = {
    "open-responses": set(),
    "anthropic": set(),
    "openai-chat": {
        "choices[0].message missing 'annotations' field",
        # of the request with `reasoning`, which is refused
        "usage.completion_tokens_details.reasoning_tokens is 0 (model may not support reasoning)",
    },
}
"""Fields that llm-comply recommends and responses lack."""
NUMBERS = {"open-responses": 13, "anthropic": 9, "openai-chat": 9}


def response_to(request: ModelInferRequest) -> str:
    prompt = inputs_of(request)["prompt"][0].decode()
    if "get_weather" in prompt:
        return CALL
    return "<think>15 * 30 + 15 * 7</think>555" if "15 * 37" in prompt else "Hello there, you."


async def infer(request: ModelInferRequest) -> ModelInferResponse:
    return whole(response_to(request))


async def stream(request: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
    for piece in response_to(request).split(" "):
        yield token(piece)
    yield last_token()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    worker = FakeWorker(infer, stream, inputs=ALL_INPUTS, parameters=able_worker.PARAMETERS, step_batches=False)
    with (
        able_worker.listening(worker) as address,
        servers.sidecar(address, "--model-alias", f"{MODEL}=tiny") as (_, url),
    ):
        yield url


def results(url: str, api: str) -> dict[str, dict[str, Any]]:
    """Returns the result of each test by its id."""
    command = ["-m", "llm_comply.cli", "-u", f"{url}/v1", "-k", "none", "-m", MODEL, "--format", api, "--json", "-v"]
    result = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=120, check=False)
    assert result.stdout, result.stderr
    return {entry["id"]: entry for entry in json.loads(result.stdout)["results"]}


@pytest.mark.parametrize("api", sorted(FAILURES))
def test_llm_complys_tests_succeed(url: str, api: str) -> None:
    found = results(url, api)
    assert len(found) == NUMBERS[api]
    failed = {name: entry for name, entry in found.items() if entry["status"] != "passed"}
    assert failed.keys() == FAILURES[api].keys(), failed
    without_endpoint = {"compact-response"}
    warnings = [entry.get("warnings") or [] for name, entry in found.items() if name not in without_endpoint]
    assert {warning for of_test in warnings for warning in of_test} == WARNINGS[api]
