"""Other clients than the newest SDK: openai 0.28, tritonclient, curl. Each runs in its own process."""

import json
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from tests.e2e.conftest import SMOLLM2, Pair
from tests.models import openai_028_path


def _python(script: str, *arguments: str, **env: str) -> Any:
    """Runs a script in a new interpreter and returns the JSON that it prints."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | env,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_openai_0_28_works_with_the_pair(exact_pair: Pair) -> None:
    results = _python(
        """
        import json, sys
        import openai
        from openai.error import InvalidRequestError

        openai.api_base = sys.argv[1] + "/v1"
        openai.api_key = "none"
        request = dict(prompt="Once upon a time", max_tokens=12, temperature=0)
        out = {"version": openai.VERSION}
        out["completion"] = openai.Completion.create(model="llamacpp", **request)
        out["engine"] = openai.Completion.create(engine="llamacpp", **request)
        out["stream"] = list(openai.Completion.create(model="llamacpp", stream=True, **request))
        messages = [{"role": "user", "content": "Say hello."}]
        chat = dict(model="llamacpp", messages=messages, max_tokens=12, temperature=0)
        out["chat"] = openai.ChatCompletion.create(**chat)
        out["chat_stream"] = list(openai.ChatCompletion.create(stream=True, **chat))
        out["models"] = openai.Model.list()
        embedding = openai.Embedding.create(engine="llamacpp", input=["a fox", "a crow"])
        out["embedding"] = [len(item["embedding"]) for item in embedding["data"]]
        try:
            openai.Completion.create(model="nobody", prompt="x")
        except InvalidRequestError as error:
            out["error"] = [error.http_status, error.code, error.param]
        print(json.dumps(out))
        """,
        exact_pair.url,
        PYTHONPATH=str(openai_028_path()),
    )
    assert results["version"] == "0.28.1"
    text = results["completion"]["choices"][0]["text"]
    assert text == results["engine"]["choices"][0]["text"]
    assert text == "".join(chunk["choices"][0]["text"] for chunk in results["stream"])
    assert results["completion"]["model"] == SMOLLM2
    content = results["chat"]["choices"][0]["message"]["content"]
    assert content == "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in results["chat_stream"])
    assert results["models"]["data"][0]["id"] == SMOLLM2
    assert results["embedding"] == [576, 576]
    assert results["error"] == [404, "model_not_found", "model"]


def test_tritonclient_works_with_the_worker(exact_pair: Pair) -> None:
    results = _python(
        """
        import json, queue, sys
        import numpy
        import tritonclient.grpc as triton

        client = triton.InferenceServerClient(sys.argv[1])
        model = sys.argv[2]

        def tensor(name, datatype, value):
            kind = {"BYTES": numpy.object_, "INT32": numpy.int32, "FP32": numpy.float32}[datatype]
            tensor = triton.InferInput(name, [1], datatype)
            tensor.set_data_from_numpy(numpy.array([value], dtype=kind))
            return tensor

        def inputs(max_tokens, prompt=b"Once upon a time"):
            return [tensor("prompt", "BYTES", prompt), tensor("max_tokens", "INT32", max_tokens),
                    tensor("temperature", "FP32", 0.0)]

        out = {
            "ready": [client.is_server_live(), client.is_server_ready(), client.is_model_ready(model)],
            "platform": client.get_model_metadata(model).platform,
            "decoupled": client.get_model_config(model).config.model_transaction_policy.decoupled,
            "index": [entry.name for entry in client.get_model_repository_index().models],
        }
        answer = client.infer(model, inputs(8), outputs=[triton.InferRequestedOutput("text")])
        out["text"] = answer.as_numpy("text")[0].decode()
        out["only_text"] = answer.as_numpy("finish_reason") is None
        try:
            client.infer(model, inputs(-1))
        except triton.InferenceServerException as error:
            out["error"] = [error.status(), error.message()]

        answers = queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer(model, inputs(8), request_id="a")
        client.async_stream_infer(model, inputs(-1), request_id="bad")
        client.async_stream_infer(model, inputs(5, b"Hello"), request_id="b", enable_empty_final_response=True)
        texts, finals, errors = {"a": "", "b": ""}, {}, []
        while finals.keys() != {"a", "b"} or not errors:
            result, error = answers.get(timeout=60)
            if error:
                errors.append(error.message())
                continue
            response = result.get_response()
            token = result.as_numpy("token")
            if token is not None:
                texts[response.id] += token[0].decode()
            if response.parameters["triton_final_response"].bool_param:
                finals[response.id] = token is None
        client.stop_stream()
        out |= {"texts": texts, "finals": finals, "errors": errors}
        out["inferences"] = client.get_inference_statistics(model).model_stats[0].inference_count
        print(json.dumps(out))
        """,
        exact_pair.worker,
        SMOLLM2,
    )
    assert results["ready"] == [True, True, True]
    assert results["platform"] == "llama_cpp"
    assert results["decoupled"] is True
    assert SMOLLM2 in results["index"]
    assert results["text"] == results["texts"]["a"]
    assert results["only_text"] is True
    assert results["texts"]["b"]
    assert results["finals"] == {"a": False, "b": True}
    assert results["error"][0] == "StatusCode.INVALID_ARGUMENT"
    assert len(results["errors"]) == 1
    assert "max_tokens" in results["errors"][0]
    assert results["inferences"] > 0


def _curl(*arguments: str) -> str:
    command = ["curl", "-sS", "--noproxy", "*", "--max-time", "60", *arguments]
    return subprocess.run(command, capture_output=True, check=True).stdout.decode()


def test_curl_needs_no_model(pair: Pair) -> None:
    body = '{"prompt": "Once upon a time", "max_tokens": 5}'
    completion = json.loads(_curl(f"{pair.url}/v1/completions", "-H", "Content-Type: application/json", "-d", body))
    assert completion["model"] == SMOLLM2
    assert completion["choices"][0]["text"]


def test_curl_gets_the_events_in_the_apis_order(pair: Pair) -> None:
    body = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": "there"}]},
            {"role": "assistant", "content": "Hi!"},
            {"role": "user", "content": "Who are you?"},
        ],
        "max_tokens": 5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    output = _curl("-N", "-D", "-", f"{pair.url}/v1/chat/completions", "-d", json.dumps(body))
    headers, _, events = output.partition("\r\n\r\n")
    assert "content-type: text/event-stream" in headers.lower()
    blocks = [block for block in events.split("\n\n") if block]
    assert all(block.startswith("data: ") for block in blocks)
    assert blocks[-1] == "data: [DONE]"
    chunks = [json.loads(block.removeprefix("data: ")) for block in blocks[:-1]]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-2]["choices"][0]["finish_reason"] in ("length", "stop")
    assert chunks[-1]["usage"]["completion_tokens"] <= 5


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/nowhere", "GET", 404), ("/v1/completions", "GET", 405), ("/v1/models", "PUT", 405)],
)
def test_curl_gets_the_error_envelope_from_the_router_too(pair: Pair, path: str, method: str, status: int) -> None:
    output = _curl("-X", method, "-w", "\n%{http_code}", pair.url + path)
    body, _, code = output.rpartition("\n")
    assert int(code) == status
    assert json.loads(body)["error"].keys() == {"message", "type", "param", "code"}
