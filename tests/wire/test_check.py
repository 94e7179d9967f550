"""The report of `python -m openai_server check`."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from openai_server import check
from openai_server.cli import command
from openai_server.config import Config
from protos.grpc_predict_v2_pb2 import ModelStreamInferResponse
from tests.wire.chat_server import ChatModel, ChatServer
from tests.wire.foreign_server import ForeignModel, ForeignServer, answer, serving
from tests.wire.test_sidecar_dialects import IDS, PLAIN, VLLM


async def report_of(
    server: ForeignServer, capsys: pytest.CaptureFixture[str], **config: object
) -> tuple[bool, dict[str, dict[str, str]]]:
    """The result, and the lines of each model by their titles."""
    async with serving(server) as port:
        settings = Config(anyserve_endpoint=(f"127.0.0.1:{port}",), **config)  # type: ignore[arg-type]
        is_good = await asyncio.to_thread(check.run, settings)
    models: dict[str, dict[str, str]] = {}
    for block in capsys.readouterr().out.split("\nmodel ")[1:]:
        name, *lines = block.splitlines()
        models[name] = {line[:24].strip(): line[24:] for line in lines if line}
    return is_good, models


async def test_each_model_is_described_and_tried(capsys: pytest.CaptureFixture[str]) -> None:
    server = ForeignServer("triton", vllm=VLLM, ids=IDS)
    is_good, models = await report_of(server, capsys)
    assert is_good
    vllm = models["vllm"]
    assert vllm["dialect"] == "triton_vllm: its backend is vllm"
    assert vllm["max_tokens"] == "JSON key max_tokens"
    assert vllm["prompt"] == "tensor text_input (BYTES)"
    assert {"logit_bias", "suffix", "token ids as prompt"} <= set(vllm["refused"].split(", "))
    assert not {"max_tokens", "echo", "prompt", ""} & set(vllm["refused"].split(", "))
    assert vllm["token counts"] == "tensor num_input_tokens and tensor num_output_tokens"
    assert "--chat-template" in vllm["chat template"]
    assert vllm["one token"].startswith("'one two', stop, 3 + 3 tokens")
    assert vllm["one token, streamed"] == "2 pieces, stop"
    request, _ = server.requests
    assert b'"max_tokens":1' in request.inputs[-1].contents.bytes_contents[0]
    ids = models["ids"]
    assert "--mapping" in ids["dialect"]
    assert (ids["inputs"], ids["outputs"]) == ("INPUT_IDS INT32[1]", "OUTPUT_IDS INT32[1]")


async def test_a_model_that_fails_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    broken = ForeignModel(**{**vars(VLLM), "answers": ["Error generating stream: boom"]})
    is_good, models = await report_of(ForeignServer("triton", broken=broken, good=PLAIN), capsys)
    assert not is_good
    assert models["broken"]["one token"] == "failed: Error generating stream: boom"
    assert models["good"]["one token"].startswith("'one two', no finish reason, no token counts")


async def test_a_stream_that_fails_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    class Unmarked(ForeignServer):
        async def ModelStreamInfer(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
            async for _ in request_iterator:
                yield ModelStreamInferResponse(error_message="no stream today")

    model = ForeignModel(answers=PLAIN.answers)
    is_good, models = await report_of(Unmarked("own", m=model), capsys)
    assert not is_good
    assert models["m"]["one token"].startswith("'one two'")
    assert models["m"]["one token, streamed"] == "failed: no stream today"


async def test_backends_without_a_text_model_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    is_good, models = await report_of(ForeignServer("triton", ids=IDS), capsys)
    assert (is_good, list(models)) == (False, ["ids"])
    is_good, models = await report_of(ForeignServer("kserve", lacks=["RepositoryIndex"], m=PLAIN), capsys)
    assert (is_good, models) == (False, {})


async def test_a_mapping_is_checked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('models = ["m"]\nmessages = "chat"\n[outputs]\ntext = "reply"\n')
    model = ForeignModel(inputs="chat:BYTES", outputs="reply:BYTES", answers=[answer(reply="yes")], decoupled=False)
    is_good, models = await report_of(ForeignServer("triton", m=model), capsys, mapping=(path,))
    assert is_good
    assert models["m"]["dialect"] == "own: a mapping file has its name"
    assert models["m"]["messages"] == "tensor chat (a JSON array)"
    assert models["m"]["chat"] == "messages are sent as they are"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--dialect", "m=nothing"], "'nothing' is none of the dialects: anyserve,"),
        (["--dialect", "m"], "does not have the form model=dialect"),
        (["--mapping", "missing.toml"], "'missing.toml' can't be read"),
    ],
)
def test_mistakes_are_errors_at_the_start(arguments: list[str], problem: str) -> None:
    result = CliRunner().invoke(command(lambda _: None), ["check", *arguments])
    assert result.exit_code == 2
    assert problem in result.output


async def test_a_model_that_takes_chats_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    is_good, models = await report_of(ChatServer(m=ChatModel()), capsys)
    assert is_good
    report = models["m"]
    assert report["dialect"] == "chat: it has the messages and the answer of a chat in this project's contract"
    assert report["messages"] == "tensor messages (a JSON array, as in OpenAI's chat)"
    assert report["refused"] == "prompts, logprobs"
    assert report["chat"] == "messages are sent as they are"
    assert report["one token"] == "not tried: the model takes no prompt"
