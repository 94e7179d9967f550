"""Requests to pipelines of a worker: answers in both forms, streams, wrong requests."""

import asyncio
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError

from anyserve_worker.pipelines.limits import Limits
from anyserve_worker.pipelines.options import PipelineOptions
from anyserve_worker.service.repository import Repository
from anyserve_worker.service.server import Worker
from anyserve_worker.service.server_options import ServerOptions
from protos import contract
from protos import grpc_predict_v2_pb2 as pb
from tests.wire.pipelines import WAIT_SECONDS, WORDS, Server, events_of, outputs_of, request, serving, text_of, write

SHAPES = """
    import json

    class PipelineWrapper:
        def run_chat_completion(self, model, messages, body):
            return json.dumps({"model": model, "messages": messages, "body": body})

        def run_response(self, model, input_items, body):
            return json.dumps({"items": input_items})
    """
"""A pipeline that answers with its arguments."""


@pytest.fixture
async def server(tmp_path: Path) -> Any:
    write(tmp_path, "words", WORDS)
    write(tmp_path, "shapes", SHAPES)
    async with serving(tmp_path) as running:
        yield running


async def refusal(server: Server, message: pb.ModelInferRequest) -> tuple[StatusCode, str, dict[str, str]]:
    with pytest.raises(AioRpcError) as caught:
        await server.infer(message)
    metadata = caught.value.trailing_metadata() or ()
    details = {str(key): str(value) for key, value in metadata if str(key).startswith("error")}
    return caught.value.code(), caught.value.details() or "", details


async def test_a_whole_answer_has_all_events(server: Server) -> None:
    assert await server.infer(request("words", "you")) == [
        {"type": "text", "text": "Hello"},
        {"type": "text", "text": ", "},
        {"type": "text", "text": "you"},
        {"type": "finish", "reason": "stop"},
    ]


async def test_a_stream_has_the_same_events_and_ends_with_the_final_flag(server: Server) -> None:
    stream = await (await server.stream(request("words", "you", id="7"))).finish()
    assert (stream.text, stream.events[-1]) == ("Hello, you", {"type": "finish", "reason": "stop"})
    flags = [response.parameters[contract.PARAM_FINAL].bool_param for response in stream.responses]
    assert flags == [False] * (len(flags) - 1) + [True]
    assert {response.id for response in stream.responses} == {"7"}


async def test_a_separate_last_response_is_sent_on_request(server: Server) -> None:
    message = request("words")
    message.parameters[contract.PARAM_EMPTY_FINAL].bool_param = True
    stream = await (await server.stream(message)).finish()
    last = stream.responses[-1]
    assert (len(last.outputs), last.parameters[contract.PARAM_FINAL].bool_param) == (0, True)
    assert not any(response.parameters[contract.PARAM_FINAL].bool_param for response in stream.responses[:-1])


async def test_a_request_may_name_text_instead_of_events(server: Server) -> None:
    response = await server.stub.ModelInfer(request("words", "you", outputs=("text", "finish_reason")))
    assert outputs_of(response) == {"text": [b"Hello, you"], "finish_reason": [b"stop"]}
    stream = await (await server.stream(request("words", "you", outputs=("token", "index", "finish_reason")))).finish()
    parts = [outputs_of(response) for response in stream.responses]
    assert b"".join(token for part in parts for token in part["token"]) == b"Hello, you"
    assert {index for part in parts for index in part["index"]} == {0}
    reasons = [reason for part in parts for reason in part["finish_reason"]]
    assert (reasons[0], reasons[-1]) == (b"null", b"stop") or reasons == [b"stop"]


async def test_the_pipeline_gets_the_messages_and_the_body(server: Server) -> None:
    def answer(events: list[dict[str, Any]]) -> Any:
        return json.loads(text_of(events))

    body = {"model": "alias", "messages": [], "temperature": 0.5}
    user = {"role": "user", "content": "hi"}
    assert answer(await server.infer(request("shapes", body=body))) == {
        "model": "shapes",
        "messages": [user],
        "body": {"model": "alias", "messages": [user], "temperature": 0.5, "stream": False},
    }
    several = request("shapes", messages=[b'{"role": "system", "content": "a"}', b'{"role": "user", "content": "b"}'])
    assert [m["content"] for m in answer(await server.infer(several))["messages"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("inputs", "tensor", "problem"),
    [
        ({"messages": []}, "messages", "it is empty"),
        ({"messages": [b"["]}, "messages", "it is not JSON"),
        ({"messages": [b"[" * 100_000]}, "messages", "it is not JSON"),
        ({"messages": [b"[NaN]"]}, "messages", "it is not JSON"),
        ({"messages": [b"\xff"]}, "messages", "it is not JSON"),
        ({"messages": [b"[]"]}, "messages", "it has no message"),
        ({"messages": [b"[1]"]}, "messages", "message 0 must be a JSON object"),
        ({"messages": [b"{}"]}, "messages", "message 0 has no role"),
        ({"body": [b"[]"]}, "body", "it must be a JSON object"),
        ({"body": [b'{"n": 0}']}, "body", "n must be a whole number from 1 to 128"),
        ({"body": [b'{"tools": 1}']}, "body", "tools must be an array of objects"),
    ],
)
async def test_wrong_json_is_refused_by_the_name_of_its_tensor(
    server: Server, inputs: dict[str, Any], tensor: str, problem: str
) -> None:
    status, message, details = await refusal(server, request("shapes", **inputs))
    assert (status, message) == (StatusCode.INVALID_ARGUMENT, f"tensor '{tensor}': {problem}")
    assert details[contract.ERROR_TENSOR] == tensor


async def test_other_tasks_and_tensors_are_refused(server: Server) -> None:
    status, message, _ = await refusal(server, request("words", task="generate"))
    assert (status, message) == (
        StatusCode.INVALID_ARGUMENT,
        "model 'words' does not support 'generate', only chat",
    )
    status, message, details = await refusal(server, request("shapes", input_items=[b"[]"]))
    assert (status, details[contract.ERROR_TENSOR]) == (StatusCode.INVALID_ARGUMENT, "input_items")
    status, message, details = await refusal(server, request("shapes", task="responses"))
    assert (status, message) == (StatusCode.INVALID_ARGUMENT, "tensor 'input_items': missing")
    numbered = request("words")
    numbered.parameters[contract.PARAM_REQUEST].int64_param = 1
    stream = await (await server.stream(numbered)).finish()
    assert stream.error[0] == "INVALID_ARGUMENT"
    assert "step batches" in stream.error[1]


async def test_models_have_the_tensors_and_the_config_of_their_tasks(server: Server) -> None:
    metadata = await server.stub.ModelMetadata(pb.ModelMetadataRequest(name="shapes"))
    assert (metadata.platform, {tensor.name for tensor in metadata.inputs}) == (
        "pipeline",
        {"messages", "body", "input_items"},
    )
    assert {tensor.name for tensor in metadata.outputs} >= {"events", "text", "token"}
    config = (await server.stub.ModelConfig(pb.ModelConfigRequest(name="shapes"))).config
    assert config.parameters["tasks"].string_value == "chat,responses"
    assert (await server.stub.ServerReady(pb.ServerReadyRequest())).ready
    assert (await server.stub.ModelReady(pb.ModelReadyRequest(name="shapes"))).ready


async def test_requests_without_a_name_of_a_model_reach_the_first_pipeline(server: Server) -> None:
    chat = request("chat", "you")
    chat.model_version = contract.ANYSERVE_VERSION
    response = await server.stub.ModelInfer(chat)
    assert '"content": "you"' in text_of(events_of(response)).replace("\\", "")
    info = pb.ModelInferRequest(model_name=contract.ANYSERVE_MODEL_INFO, model_version=contract.ANYSERVE_VERSION)
    outputs = outputs_of(await server.stub.ModelInfer(info))
    assert outputs["model_name"] == [b"shapes"]
    assert (outputs["sequences_running"], outputs["kv_cells"]) == ([0], [0])


class SlowFiles:
    """GGUF models that are being loaded until `loaded` is set."""

    models = ()

    def __init__(self) -> None:
        self.loaded = asyncio.Event()

    async def load(self, *_: object) -> None:
        await self.loaded.wait()

    async def close(self) -> None:
        pass


async def test_pipelines_start_when_all_gguf_models_are_loaded(tmp_path: Path) -> None:
    """Until then, they would be the first models in the index."""
    write(tmp_path, "words", WORDS)
    files: Any = SlowFiles()
    trials: Any = SimpleNamespace(check=None)
    options = ServerOptions((), ("127.0.0.1",), 0, 0, "info", 1)
    worker = await Worker.listen(options, files, PipelineOptions(tmp_path, Limits(), sys.executable, "info"))
    loading = asyncio.create_task(worker.load(trials))
    try:
        await asyncio.sleep(1)
        assert [model.state.value for model in worker.repository] in ([], ["LOADING"])
        assert not worker.repository.ready
        files.loaded.set()
        await asyncio.wait_for(loading, WAIT_SECONDS)
        assert [(model.name, model.ready) for model in worker.repository] == [("words", True)]
        assert worker.repository.ready
    finally:
        loading.cancel()
        await worker.drain(0)


async def test_an_unexpected_error_of_a_lookup_has_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object) -> None:
        raise ValueError("a secret")

    write(tmp_path, "words", WORDS)
    async with serving(tmp_path) as server:
        monkeypatch.setattr(Repository, "__iter__", fail)
        with pytest.raises(AioRpcError) as failed:
            await server.stub.RepositoryIndex(pb.RepositoryIndexRequest())
        monkeypatch.undo()
        assert (failed.value.code(), failed.value.details()) == (StatusCode.INTERNAL, "internal error")
        assert list(await server.states()) == ["words"]
