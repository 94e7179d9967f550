"""The servers themselves, without a sidecar: each has the manners of the project that it stands for."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from tests.foreign import setup
from tests.foreign.backends import BACKENDS
from tests.foreign.bench import SERVER_PORT, Bench

BY_NAME = {backend.name: backend for backend in BACKENDS}


@dataclass(frozen=True)
class Fact:
    backend: str
    rpc: str
    request: dict[str, Any]
    expected: tuple[str, ...]
    """Texts in the JSON of the answer."""

    def __str__(self) -> str:
        return f"{self.backend} {self.rpc}"


def infer(model: str, *tensors: list[Any], **fields: Any) -> dict[str, Any]:
    return {"model_name": model, "id": "r1", "tensors": list(tensors), **fields}


TEXT = ["text_input", "BYTES", [1], ["about tea"]]
BATCHED = [["text_input", "BYTES", [1, 1], ["about tea"]], ["max_tokens", "INT32", [1, 1], [2]]]
VLLM_ANSWER = ["sampling_parameters", "BYTES", [1], ['{"max_tokens": 2}']]
FACTS = (
    # The Python backend answers a decoupled model's requests in streams alone.
    Fact("triton-vllm", "ModelInfer", infer("vllm_model", TEXT), ("UNIMPLEMENTED", "decoupled transaction policy")),
    # A whole answer begins with the prompt, a streamed one doesn't.
    Fact("triton-vllm", "ModelStreamInfer", infer("vllm_model", TEXT, VLLM_ANSWER), ('["about teaAbout tea"]',)),
    Fact(
        "triton-vllm",
        "ModelStreamInfer",
        infer("vllm_model", TEXT, VLLM_ANSWER, ["stream", "BOOL", [1], [True]]),
        ('["About"]', '[" tea"]'),
    ),
    Fact(
        "triton-vllm",
        "ModelStreamInfer",
        infer("vllm_model", TEXT, ["return_num_input_tokens", "BOOL", [1], [True]]),
        ('["num_input_tokens", "UINT32", [], [2]]',),
    ),
    Fact(
        "triton-vllm",
        "ModelStreamInfer",
        infer("vllm_model", TEXT, ["sampling_parameters", "BYTES", [1], ['{"logit_bias": {}}']]),
        ("Error generating stream: 'NoneType' object has no attribute 'lora_name'",),
    ),
    Fact("triton-vllm", "ModelStreamInfer", infer("zz", TEXT), ("Request for unknown model: 'zz' is not found",)),
    Fact("triton-vllm-versions", "RepositoryIndex", {}, ('"version": "1"', '"version": "3"')),
    # With a batch dimension, a tensor without it is an error.
    Fact("triton-trtllm", "ModelMetadata", {"name": "ensemble"}, ('"platform": "ensemble"', '["-1", "1"]')),
    Fact("triton-trtllm", "ModelStreamInfer", infer("ensemble", *BATCHED), ('["about teaAbout tea"]',)),
    Fact(
        "triton-trtllm",
        "ModelStreamInfer",
        infer("ensemble", *BATCHED, ["stream", "BOOL", [1], [True]]),
        ("unexpected shape for input 'stream' for model 'ensemble'. Expected [-1,1], got [1]",),
    ),
    Fact(
        "triton-trtllm",
        "ModelStreamInfer",
        infer("tensorrt_llm_bls", *BATCHED, ["stream", "BOOL", [1, 1], [True]]),
        ('["About"]', '["About tea"]', '"triton_final_response": {"bool_param": false}'),
    ),
    Fact(
        "triton-llmapi-unary",
        "ModelInfer",
        infer("tensorrt_llm", TEXT, ["streaming", "BOOL", [1], [True]]),
        ("Streaming is only supported in decoupled mode.",),
    ),
    Fact("triton-broken", "ServerReady", {}, ('"responses": [{}]',)),
    Fact("mlserver-hf", "RepositoryIndex", {}, ('"state": "State.READY"',)),
    Fact("mlserver-hf", "ModelInfer", infer("hf", ["args", "BYTES", [1], ["about tea"]]), ("about teaAbout tea",)),
    Fact("mlserver-hf", "ModelInfer", infer("zz"), ("NOT_FOUND", "Model zz with version  not found")),
    Fact(
        "mlserver-stream",
        "BareStream",
        infer("streaming", ["prompt_text", "BYTES", [1], ["fail-midway"]]),
        ('["About"]', "INTERNAL", "CUDA error"),
    ),
    Fact("kserve", "RepositoryIndex", {}, ("UNIMPLEMENTED", "Method not found!")),
    Fact(
        "kserve",
        "ModelInfer",
        infer("assistant", ["query", "BYTES", [1], ["fail-midway"]]),
        ("INTERNAL", "Internal server error"),
    ),
    Fact("dynamo", "ServerMetadata", {}, ("UNIMPLEMENTED",)),
    Fact("dynamo", "ModelConfig", {"name": "dynamo-model"}, ('"backend": "dynamo"',)),
    Fact(
        "dynamo",
        "ModelInfer",
        infer("dynamo-model", TEXT, ["max_tokens", "INT32", [1], [3]]),
        ("INVALID_ARGUMENT", "Invalid input name: max_tokens, supported inputs are 'text_input', 'stream'"),
    ),
    Fact("anyserve", "ModelInfer", infer("zz"), ('"responses": [{}]',)),
)


@pytest.mark.parametrize(
    ("bench", "fact"), [pytest.param(BY_NAME[fact.backend], fact, id=str(fact)) for fact in FACTS], indirect=["bench"]
)
def test_the_server_has_the_manners_of_its_project(bench: Bench, fact: Fact) -> None:
    command = [*bench.place.prefix, sys.executable, "-m", "tests.foreign.probe", str(SERVER_PORT)]
    line = json.dumps({"rpc": fact.rpc, "request": fact.request})
    answer = subprocess.run(command, input=line, capture_output=True, text=True, check=True, cwd=setup.ROOT).stdout
    for text in fact.expected:
        assert text in answer
