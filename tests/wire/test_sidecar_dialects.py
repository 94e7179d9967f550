"""Servers of other projects behind the sidecar: which models it lists and calls, how, and what a client sees."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from openai_server.backends import catalog, inventory
from protos import tensors
from protos.grpc_predict_v2_pb2 import ModelStreamInferResponse, RepositoryIndexResponse
from tests.wire.foreign_server import ForeignModel, ForeignServer, answer, serving
from tests.wire.sidecar import Sidecar, app_for

VLLM = ForeignModel(
    inputs="text_input:BYTES stream:BOOL sampling_parameters:BYTES exclude_input_in_output:BOOL "
    "return_finish_reason:BOOL return_num_input_tokens:BOOL return_num_output_tokens:BOOL",
    outputs="text_output:BYTES finish_reason:BYTES num_input_tokens:UINT32 num_output_tokens:UINT32",
    backend="vllm",
    decoupled=True,
    answers=[
        answer(
            False,
            text_output="one",
            finish_reason="None",
            num_input_tokens=("UINT32", [3]),
            num_output_tokens=("UINT32", [1]),
        ),
        answer(
            True,
            text_output=" two",
            finish_reason="stop",
            num_input_tokens=("UINT32", [3]),
            num_output_tokens=("UINT32", [2]),
        ),
    ],
)
IDS = ForeignModel(inputs="INPUT_IDS:INT32", outputs="OUTPUT_IDS:INT32", backend="python", decoupled=False)
PLAIN = ForeignModel(answers=[answer(text_output="one two")], decoupled=False)


@asynccontextmanager
async def running(server: ForeignServer, **config: Any) -> AsyncIterator[Sidecar]:
    async with serving(server) as port, app_for(port, **config) as sidecar:
        yield sidecar


def text_of(events: list[Any]) -> str:
    return "".join(event["choices"][0]["text"] for event in events if event["choices"])


async def names_of(sidecar: Sidecar) -> list[str]:
    return [model["id"] for model in (await sidecar.get("/v1/models")).json["data"]]


async def test_whole_answers_of_a_decoupled_model_come_from_a_stream() -> None:
    server = ForeignServer("triton", vllm=VLLM)
    async with running(server) as sidecar:
        whole = await sidecar.complete(prompt="Hi", max_tokens=3)
        [choice] = whole.json["choices"]
        assert (choice["text"], choice["finish_reason"]) == ("one two", "stop")
        assert whole.json["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
        stream = await sidecar.complete(prompt="Hi", stream=True)
        assert text_of(stream.events) == "one two"
        assert [event["choices"][0]["finish_reason"] for event in stream.events] == [None, "stop"]


async def test_only_text_models_are_listed_and_the_default_is_the_first_of_them() -> None:
    server = ForeignServer("triton", a_preprocessing=IDS, vllm=VLLM, zz=PLAIN)
    async with running(server) as sidecar:
        assert (await sidecar.complete(prompt="Hi")).json["model"] == "vllm"
        assert await names_of(sidecar) == ["vllm", "zz"]
        assert (await sidecar.get("/readyz")).status == 200
        refused = await sidecar.complete(prompt="Hi", model="a_preprocessing")
        assert (refused.status, refused.error["code"], refused.error["param"]) == (400, "unsupported_model", "model")
        assert "--mapping" in refused.error["message"]


async def test_the_tensors_of_an_unknown_model_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with running(ForeignServer("triton", ids=IDS)) as sidecar:
            for _ in range(2):
                refused = await sidecar.complete(prompt="Hi")
                assert (refused.status, refused.error["code"]) == (400, "unsupported_model")
                assert await names_of(sidecar) == []
            assert (await sidecar.get("/readyz")).status == 503
    [line] = [record.message for record in caplog.records if "no dialect fits its tensors" in record.message]
    assert "INPUT_IDS INT32[1]" in line
    assert "OUTPUT_IDS INT32[1]" in line


async def test_the_default_model_stays_the_default_while_it_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "LOOKUP_INTERVAL", 0)
    first = ForeignModel(answers=PLAIN.answers, decoupled=False)
    server = ForeignServer("triton", first=first, second=PLAIN)
    async with running(server) as sidecar:
        assert (await sidecar.complete(prompt="Hi")).json["model"] == "first"
        first.states = ("UNAVAILABLE",)
        assert await names_of(sidecar) == ["second"]
        refused = await sidecar.complete(prompt="Hi")
        assert (refused.status, refused.error["code"]) == (503, "backend_unavailable")
        assert (await sidecar.complete(prompt="Hi", model="second")).status == 200
        assert (await sidecar.get("/readyz")).status == 503
        first.states = ("READY",)
        assert (await sidecar.complete(prompt="Hi")).json["model"] == "first"


async def test_a_default_model_that_is_gone_is_replaced_with_a_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = ForeignServer("triton", first=PLAIN, second=PLAIN)
    with caplog.at_level(logging.WARNING):
        async with running(server) as sidecar:
            assert (await sidecar.complete(prompt="Hi")).json["model"] == "first"
            del server.models["first"]
            assert await names_of(sidecar) == ["second"]
            assert (await sidecar.complete(prompt="Hi")).json["model"] == "second"
    assert "the default model is 'second' now; 'first' is gone" in caplog.text


async def test_a_broken_model_does_not_make_the_others_unready() -> None:
    broken = ForeignModel(states=("UNAVAILABLE",))
    async with running(ForeignServer("triton", ready=False, broken=broken, good=PLAIN)) as sidecar:
        assert (await sidecar.complete(prompt="Hi")).json["model"] == "good"
        assert (await sidecar.get("/readyz")).status == 200


@pytest.mark.parametrize("state", ["READY", "State.READY", ""])
async def test_states_of_other_servers_are_understood(state: str) -> None:
    model = ForeignModel(answers=PLAIN.answers, states=(state,))
    async with running(ForeignServer("mlserver", m=model)) as sidecar:
        assert (await sidecar.complete(prompt="Hi")).json["model"] == "m"


async def test_versions_are_addressable() -> None:
    model = ForeignModel(answers=PLAIN.answers, decoupled=False, states=("READY", "UNAVAILABLE", "READY"))
    server = ForeignServer("triton", m=model)
    async with running(server, model_alias={"gpt": "m@3"}) as sidecar:
        assert await names_of(sidecar) == ["m"]
        for requested, name, version in (("m", "m", ""), ("m@1", "m@1", "1"), ("gpt", "m@3", "3")):
            assert (await sidecar.complete(prompt="Hi", model=requested)).json["model"] == name
            request = server.requests[-1]
            assert (request.model_name, request.model_version) == ("m", version)
        for missing in ("m@2", "m@9", "m@", "@1"):
            assert (await sidecar.complete(prompt="Hi", model=missing)).status == 404


async def test_a_server_without_an_index_needs_an_option_that_the_error_names() -> None:
    server = ForeignServer("kserve", lacks=["RepositoryIndex", "ModelStreamInfer"], m=PLAIN)
    async with running(server) as sidecar:
        refused = await sidecar.complete(prompt="Hi")
        assert refused.status == 503
        assert "--served-model" in refused.error["message"]
    async with running(server, served_model=("m",)) as sidecar:
        assert text_of((await sidecar.complete(prompt="Hi", stream=True)).events) == "one two"
        assert await names_of(sidecar) == ["m"]


async def test_a_server_without_streams_answers_a_stream_as_a_whole() -> None:
    server = ForeignServer("", lacks=["ModelStreamInfer", "ServerMetadata"], m=ForeignModel(answers=PLAIN.answers))
    async with running(server) as sidecar:
        for _ in range(2):
            assert text_of((await sidecar.complete(prompt="Hi", stream=True)).events) == "one two"


async def test_a_model_with_this_contract_that_answers_a_stream_with_text_is_read() -> None:
    model = ForeignModel(
        inputs="prompt:BYTES", outputs="text:BYTES", decoupled=False, answers=[answer(True, text="one")]
    )
    async with running(ForeignServer("triton", m=model)) as sidecar:
        events = (await sidecar.complete(prompt="Hi", stream=True)).events
        assert text_of(events) == "one"
        [choice] = (await sidecar.complete(prompt="Hi")).json["choices"]
        assert (choice["text"], choice["finish_reason"]) == ("one", None)


async def test_bare_streams_are_read_with_a_mapping(tmp_path: Path) -> None:
    mapping = tmp_path / "own.toml"
    mapping.write_text('models = ["m*"]\nrpc = "bare_stream"\n[inputs]\nprompt = "p"\n[outputs]\ntext = "t"\n')
    first = answer(t="one")
    first.model_name = "m"  # the field that is the error message of other streams
    model = ForeignModel(inputs="p:BYTES", outputs="t:BYTES", answers=[first, answer(t=" two")])
    server = ForeignServer("mlserver", is_bare=True, m=model)
    async with running(server, mapping=(mapping,)) as sidecar:
        assert text_of((await sidecar.complete(prompt="Hi", stream=True)).events) == "one two"
        model.answers = [answer(t="one"), grpc.StatusCode.INTERNAL]
        failed = await sidecar.complete(prompt="Hi")
        assert (failed.status, failed.error["code"]) == (500, "backend_error")


async def test_seldons_chats_are_columns() -> None:
    piece: Any = {"role": "assistant", "type": "text"}
    model = ForeignModel(
        inputs="role:BYTES content:BYTES type:BYTES",
        outputs="role:BYTES content:BYTES type:BYTES",
        answers=[answer(content="one two", **piece)],
    )
    server = ForeignServer("mlserver", is_bare=True, m=model)
    async with running(server) as sidecar:
        [choice] = (await sidecar.chat()).json["choices"]
        assert choice["message"]["content"] == "one two"
        model.answers = [answer(content="one", **piece), answer(content=" two", **piece)]
        chunks = (await sidecar.chat(stream=True)).events
        assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == "one two"
        sent = tensors.read_inputs(server.requests[-1])
        assert {name: list(tensor.elements) for name, tensor in sent.items()} == {
            "content": [b"hi"],
            "role": [b"user"],
            "type": [b"text"],
        }
        function = {"type": "function", "function": {"name": "f"}}
        for field, body in (("tools", {"tools": [function]}), ("temperature", {"temperature": 0.5})):
            refused = await sidecar.chat(**body)
            assert (refused.status, refused.error["param"]) == (400, field)


async def test_a_model_without_a_finish_reason_can_stream() -> None:
    model = ForeignModel(answers=[answer(text_output="one"), answer(text_output=" two")])
    async with running(ForeignServer("other", m=model)) as sidecar:
        events = (await sidecar.complete(prompt="Hi", stream=True)).events
        assert text_of(events) == "one two"
        assert "error" not in events[-1]


async def test_text_after_the_end_of_a_choice_is_an_error() -> None:
    answers = [
        answer(False, text_output="Hel", finish_reason="stop"),
        answer(True, text_output="lo", finish_reason="None"),
    ]
    model = ForeignModel(**{**vars(VLLM), "answers": answers})
    async with running(ForeignServer("triton", m=model)) as sidecar:
        failed = await sidecar.complete(prompt="Hi")
        assert (failed.status, failed.error["code"]) == (502, "backend_error")
        assert "after the end of a choice" in failed.error["message"]


async def test_the_model_of_anyserves_first_server_is_found() -> None:
    info = ForeignModel(inputs="", outputs="", answers=[answer(model_name="tiny", n_ctx=("INT32", [512]))])
    text = ForeignModel(inputs="", outputs="", answers=[answer(text="one", model="tiny")])
    stream = ForeignModel(
        inputs="",
        outputs="",
        answers=[answer(token="one", finish_reason="null"), answer(token="", finish_reason="stop")],
    )
    server = ForeignServer(
        "anyserve",
        lacks=["RepositoryIndex", "ModelConfig"],
        model_info=info,
        generate=text,
        generate_stream=stream,
        tiny=ForeignModel(inputs="", outputs="", platform="anyserve"),
    )
    async with running(server) as sidecar:
        [model] = (await sidecar.get("/v1/models")).json["data"]
        assert (model["id"], model["max_model_len"]) == ("tiny", 512)
        reply = await sidecar.complete(prompt="Hi", max_tokens=1)
        assert (reply.json["model"], reply.json["choices"][0]["text"]) == ("tiny", "one")
        assert reply.json["choices"][0]["finish_reason"] is None
        assert text_of((await sidecar.complete(prompt="Hi", stream=True)).events) == "one"
        refused = await sidecar.complete(prompt="Hi", stop="x")
        assert (refused.status, refused.error["param"]) == (400, "stop")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_traceback_of_a_backend_is_not_shown(stream: bool) -> None:
    text = (
        'Error generating stream: Traceback (most recent call last):\n  File "/opt/model.py", line 3\nValueError: boom'
    )
    model = ForeignModel(**{**vars(VLLM), "answers": [*VLLM.answers[:1], text]})
    async with running(ForeignServer("triton", m=model)) as sidecar:
        failed = await sidecar.complete(prompt="Hi", stream=stream)
        assert b"Traceback" not in failed.body
        assert b"/opt" not in failed.body
        assert b"Error generating stream" in failed.body
        assert (failed.status == 200) == stream


async def test_a_field_is_refused_before_anything_is_sent() -> None:
    server = ForeignServer("triton", vllm=VLLM)
    async with running(server) as sidecar:
        for body, field in (({"logit_bias": {"1": 1}}, "logit_bias"), ({"suffix": "x"}, "suffix")):
            refused = await sidecar.complete(prompt="Hi", **body)
            assert (refused.status, refused.error["param"]) == (400, field)
        refused = await sidecar.complete(prompt=[1, 2])
        assert (refused.status, refused.error["param"]) == (400, "prompt")
    assert not server.requests


async def test_a_chat_can_be_sent_as_messages(tmp_path: Path) -> None:
    mapping = tmp_path / "chat.toml"
    mapping.write_text('models = ["m"]\nmessages = "messages"\n[outputs]\ntext = "reply"\n')
    model = ForeignModel(inputs="messages:BYTES", outputs="reply:BYTES", answers=[answer(reply="one")])
    server = ForeignServer("kserve", lacks=["ModelStreamInfer"], m=model)
    async with running(server, mapping=(mapping,)) as sidecar:
        reply = await sidecar.chat({"role": "user", "content": "hi"})
        assert reply.json["choices"][0]["message"]["content"] == "one"
        [request] = server.requests
        assert request.inputs[0].contents.bytes_contents[0] == b'[{"role":"user","content":"hi"}]'
        refused = await sidecar.complete(prompt="Hi")
        assert (refused.status, refused.error["param"]) == (400, "prompt")


async def test_anthropics_messages_can_be_sent_as_messages(tmp_path: Path) -> None:
    mapping = tmp_path / "chat.toml"
    mapping.write_text('models = ["m"]\nmessages = "chat"\ninputs.max_tokens = "limit"\noutputs.text = "reply"\n')
    model = ForeignModel(inputs="chat:BYTES limit:INT32", outputs="reply:BYTES", answers=[answer(reply="one")])
    async with running(ForeignServer("kserve", m=model), mapping=(mapping,)) as sidecar:
        body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
        reply = await sidecar.send("POST", "/v1/messages", body)
        assert (reply.status, reply.json["content"][0]["text"]) == (200, "one")


async def test_a_client_that_leaves_cancels_the_call() -> None:
    hung = asyncio.Event()

    class Slow(ForeignServer):
        async def ModelStreamInfer(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
            async for response in super().ModelStreamInfer(request_iterator, context):
                yield response
                try:
                    await asyncio.Event().wait()
                finally:
                    hung.set()

    async with running(Slow("triton", vllm=VLLM)) as sidecar:
        for stream in (True, False):
            hung.clear()
            call = sidecar.start("POST", "/v1/completions", {"prompt": "Hi", "stream": stream})
            if stream:
                await call.until(b"one")
            else:
                await asyncio.sleep(0.1)
            call.disconnect()
            await asyncio.wait_for(hung.wait(), 10)


# ---- Faults


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND])
@pytest.mark.parametrize("model", ["m@1", "m"])
async def test_a_version_that_fails_is_called_once(stream: bool, status: grpc.StatusCode, model: str) -> None:
    failing = ForeignModel(**{**vars(VLLM), "answers": [status]})
    server = ForeignServer("triton", m=failing)
    async with running(server) as sidecar:
        assert (await sidecar.complete(prompt="Hi", model=model, stream=stream)).status in (404, 503)
    assert len(server.requests) == 1


async def test_a_stream_that_breaks_is_not_repeated_as_a_whole_answer() -> None:
    model = ForeignModel(answers=[answer(text_output="abc"), grpc.StatusCode.UNIMPLEMENTED])
    server = ForeignServer("own", m=model)
    async with running(server) as sidecar:
        call = sidecar.start("POST", "/v1/completions", {"prompt": "Hi", "stream": True})
        await asyncio.wait_for(call.task, 10)
        assert call.reply.body.count(b"abc") == 1
        assert b"not_implemented" in call.reply.body


async def test_a_model_without_streams_leaves_others_theirs() -> None:
    class Mixed(ForeignServer):
        async def ModelStreamInfer(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
            async for request in request_iterator:
                if request.model_name == "whole":
                    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no stream")
                yield ModelStreamInferResponse(infer_response=answer(text_output="a"))
                yield ModelStreamInferResponse(infer_response=answer(text_output="b"))

    server = Mixed("own", whole=ForeignModel(answers=[answer(text_output="w")]), parts=ForeignModel())
    async with running(server) as sidecar:
        for model, texts in (("whole", ["w"]), ("parts", ["a", "b"]), ("whole", ["w"])):
            events = (await sidecar.complete(prompt="Hi", model=model, stream=True)).events
            assert [event["choices"][0]["text"] for event in events] == texts


async def test_a_server_with_streams_only_answers_as_a_whole() -> None:
    class Streaming(ForeignServer):
        async def ModelInfer(self, request: Any, context: Any) -> Any:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "streams only")

    async with running(Streaming("own", m=ForeignModel(answers=[answer(text_output="one")]))) as sidecar:
        for _ in range(2):
            assert (await sidecar.complete(prompt="Hi")).json["choices"][0]["text"] == "one"


async def test_a_stream_ends_with_its_mark_though_the_server_keeps_it_open() -> None:
    class Open(ForeignServer):
        async def ModelStreamInfer(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
            async for response in super().ModelStreamInfer(request_iterator, context):
                yield response
            await asyncio.Event().wait()

    last = answer(True, token="one")
    model = ForeignModel(inputs="prompt:BYTES", outputs="token:BYTES", decoupled=True, answers=[last])
    async with running(Open("triton", m=model)) as sidecar:
        assert text_of((await asyncio.wait_for(sidecar.complete(prompt="Hi", stream=True), 10)).events) == "one"


async def test_a_model_without_metadata_does_not_keep_the_others_from_being_the_default(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(ForeignServer):
        async def ModelMetadata(self, request: Any, context: Any) -> Any:
            if request.name == "first":
                await context.abort(grpc.StatusCode.INTERNAL, "no metadata")
            return await super().ModelMetadata(request, context)

    with caplog.at_level(logging.WARNING):
        async with running(Broken("triton", first=PLAIN, second=PLAIN)) as sidecar:
            assert (await sidecar.complete(prompt="Hi")).json["model"] == "second"
            assert (await sidecar.get("/readyz")).status == 200
            assert await names_of(sidecar) == ["second"]
    assert caplog.text.count("can't look up the model 'first': no metadata") == 1


@pytest.mark.parametrize("call", ["ServerMetadata", "ModelConfig"])
async def test_lookups_that_are_restricted_are_done_without(call: str) -> None:
    class Restricted(ForeignServer):
        async def _check(self, name: str, context: Any) -> None:
            if name == call:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "This protocol is restricted, expecting header")
            await super()._check(name, context)

    async with running(Restricted("own", m=ForeignModel(answers=PLAIN.answers))) as sidecar:
        assert (await sidecar.complete(prompt="Hi")).status == 200


@pytest.mark.parametrize("index", ["refused", "empty"])
async def test_served_models_replace_an_index_that_is_refused_or_empty(index: str) -> None:
    class Unlisted(ForeignServer):
        async def RepositoryIndex(self, request: Any, context: Any) -> Any:
            if index == "refused":
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no")
            return RepositoryIndexResponse()

    server = Unlisted("triton", m=PLAIN)
    async with running(server, served_model=("m@1",)) as sidecar:
        assert await names_of(sidecar) == ["m@1"]
        assert (await sidecar.complete(prompt="Hi")).json["model"] == "m@1"
        assert (server.requests[-1].model_name, server.requests[-1].model_version) == ("m", "1")


async def test_names_with_an_at_sign_are_whole_names() -> None:
    server = ForeignServer("triton")
    server.models["user@model"] = PLAIN
    async with running(server) as sidecar:
        assert (await sidecar.complete(prompt="Hi")).json["model"] == "user@model"
        assert (await sidecar.get("/readyz")).status == 200
        assert (server.requests[-1].model_name, server.requests[-1].model_version) == ("user@model", "")


async def test_a_model_that_is_loaded_with_other_tensors_is_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "LOOKUP_INTERVAL", 0)

    class Checking(ForeignServer):
        async def ModelInfer(self, request: Any, context: Any) -> Any:
            known = {word.split(":")[0] for word in self.models["m"].inputs.split()}
            if not {tensor.name for tensor in request.inputs} <= known:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "unexpected inference input")
            return await super().ModelInfer(request, context)

    model = ForeignModel(answers=PLAIN.answers, decoupled=False)
    async with running(Checking("triton", m=model)) as sidecar:
        assert (await sidecar.complete(prompt="Hi")).status == 200
        model.inputs = "text_input:BYTES"
        assert (await sidecar.complete(prompt="Hi")).status == 400
        for _ in range(100):
            reply = await sidecar.complete(prompt="Hi")
            if reply.status == 200:
                break
            await asyncio.sleep(0.01)
        assert reply.status == 200


async def test_a_model_that_a_server_has_in_a_form_of_no_use_is_used_from_another() -> None:
    async with serving(ForeignServer("triton", m=IDS)) as bad, serving(ForeignServer("triton", m=PLAIN)) as good:
        for ports in ((bad, good), (good, bad)):
            endpoints = tuple(f"127.0.0.1:{port}" for port in ports)
            async with app_for(bad, anyserve_endpoint=endpoints) as sidecar:
                assert await names_of(sidecar) == ["m"]
                for _ in range(4):
                    assert (await sidecar.complete(prompt="Hi", model="m")).status == 200


async def test_a_model_like_ours_with_further_inputs_is_not_taken_for_ours() -> None:
    model = ForeignModel(
        inputs="prompt:BYTES max_tokens:INT32 stop:BYTES exclude_input_in_output:BOOL",
        outputs="text:BYTES",
        decoupled=False,
        answers=[answer(text="one END two")],
    )
    server = ForeignServer("triton", m=model)
    async with running(server) as sidecar:
        reply = await sidecar.complete(prompt="Hi", stop="END")
        assert reply.json["choices"][0]["text"] == "one "
        assert "exclude_input_in_output" in {tensor.name for tensor in server.requests[-1].inputs}


async def test_a_model_that_its_chosen_dialect_does_not_fit_is_of_no_use(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with running(ForeignServer("triton", ids=IDS, good=PLAIN), dialect={"ids": "trtllm"}) as sidecar:
            assert await names_of(sidecar) == ["good"]
            refused = await sidecar.complete(prompt="Hi", model="ids")
            assert (refused.status, refused.error["code"]) == (400, "unsupported_model")
            assert (await sidecar.complete(prompt="Hi")).json["model"] == "good"
    assert "the model 'ids' can't be used: " in caplog.text
    assert "INPUT_IDS INT32[1]" in caplog.text
