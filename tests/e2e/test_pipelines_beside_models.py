"""A worker with a GGUF model and pipelines, and a sidecar in front of it."""

import json
import signal
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest

from protos import contract
from protos import grpc_predict_v2_pb2 as pb
from protos.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from tests.e2e import servers
from tests.e2e.conftest import SMOLLM2
from tests.models import smollm2_path
from tests.wire.pipelines import WORDS, events_of, outputs_of, request, text_of, write

pytestmark = pytest.mark.slow

TIMEOUT = 60.0


def post(url: str, body: dict[str, Any]) -> Any:
    message = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(message, timeout=TIMEOUT) as response:
        return json.loads(response.read())


def test_both_kinds_of_models_answer_and_one_that_is_broken_does_not(tmp_path: Path) -> None:
    write(tmp_path, "words", WORDS)
    write(tmp_path, "broken", "raise ValueError('no')")
    write(tmp_path, SMOLLM2, WORDS)
    options = ("--model", f"{SMOLLM2}={smollm2_path()}", "--pipelines", str(tmp_path), "--n-ctx", "512")
    with servers.worker(*options) as (process, address):
        with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
            stub: Any = GRPCInferenceServiceStub(channel)
            index = stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=TIMEOUT)
            assert [(model.name, model.state) for model in index.models] == [
                (SMOLLM2, "READY"),
                ("broken", "UNAVAILABLE"),
                ("words", "READY"),
            ]
            assert text_of(events_of(stub.ModelInfer(request("words", "you"), timeout=TIMEOUT))) == "Hello, you"
            info = pb.ModelInferRequest(model_name="model_info", model_version=contract.ANYSERVE_VERSION)
            assert outputs_of(stub.ModelInfer(info, timeout=TIMEOUT))["model_name"] == [SMOLLM2.encode()]
        assert f"model '{SMOLLM2}' of pipeline '{SMOLLM2}' is not served" in process.output
        with servers.sidecar(address) as (_, url):
            messages = [{"role": "user", "content": "you"}]
            generated = post(f"{url}/v1/chat/completions", {"model": SMOLLM2, "messages": messages, "max_tokens": 4})
            assert generated["choices"][0]["finish_reason"] == "length"
            answer = post(f"{url}/v1/chat/completions", {"model": "words", "messages": messages})
            assert answer["choices"][0]["message"]["content"] == "Hello, you"
        assert process.end(signal.SIGTERM) == 0
