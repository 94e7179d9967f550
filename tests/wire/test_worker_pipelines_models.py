"""Pipelines with several models, whose names and states change while the worker runs."""

import json
from pathlib import Path

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError

from anyserve_worker.service.repository import Repository
from protos import contract
from protos import grpc_predict_v2_pb2 as pb
from tests.anyserve_worker.pipelines.scripted_server import Call, scripted_server
from tests.wire.pipelines import WORDS, Server, request, serving, text_of, write

RESPONSES = """
    import json

    class PipelineWrapper:
        def run_response(self, model, input_items, body):
            return json.dumps(input_items)
    """


async def reply(call: Call) -> None:
    await call.reply({"choices": [{"message": {"content": call.json["model"]}, "finish_reason": "stop"}]})


def upstream(folder: Path, url: str, name: str = "upstream") -> None:
    path = folder / name
    path.mkdir()
    settings = f'kind = "openai"\n[openai]\nbase_url = "{url}"\nmodels = "*"\ncheck_interval = 1'
    (path / "pipeline.toml").write_text(settings)


def repository(server: Server) -> Repository:
    return server.worker.repository


def names(server: Server) -> list[str]:
    return [model.name for model in repository(server) if model.ready]


@pytest.mark.slow
async def test_models_of_an_upstream_come_and_go_with_its_list(tmp_path: Path) -> None:
    async with scripted_server(reply) as api:
        api.models = {"data": [{"id": "a"}, {"id": "b"}]}
        upstream(tmp_path, api.url)
        write(tmp_path, "words", WORDS)
        async with serving(tmp_path) as server:
            assert names(server) == ["a", "b", "words"]
            assert text_of(await server.infer(request("b"))) == "b"
            api.models = {"data": [{"id": "b"}, {"id": "c"}]}
            await server.until(lambda: names(server) == ["b", "c", "words"])
            assert text_of(await server.infer(request("c"))) == "c"
            with pytest.raises(AioRpcError) as caught:
                await server.infer(request("a"))
            assert caught.value.code() is StatusCode.NOT_FOUND
            api.check_status = 503
            await server.until(lambda: names(server) == ["words"])
            states = await server.states()
            assert states["b"] == ("UNAVAILABLE", "The upstream is not ready (HTTP 503).")
            with pytest.raises(AioRpcError) as caught:
                await server.infer(request("b"))
            assert caught.value.code() is StatusCode.UNAVAILABLE
            assert (await server.stub.ServerReady(pb.ServerReadyRequest())).ready
            api.check_status = 200
            await server.until(lambda: names(server) == ["b", "c", "words"])


@pytest.mark.slow
async def test_an_upstream_that_is_away_at_the_start_is_served_later(tmp_path: Path) -> None:
    async with scripted_server(reply) as api:
        api.check_status = 500
        upstream(tmp_path, api.url)
        async with serving(tmp_path) as server:
            state, reason = (await server.states())["upstream"]
            assert (state, bool(reason)) == ("UNAVAILABLE", True)
            api.check_status = 200
            await server.until(lambda: names(server) == ["model"])
            assert list(await server.states()) == ["model"]


async def test_an_upstream_cannot_take_the_name_of_a_pipeline(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with scripted_server(reply) as api:
        api.models = {"data": [{"id": "words"}, {"id": "other"}]}
        upstream(tmp_path, api.url)
        write(tmp_path, "words", WORDS)
        async with serving(tmp_path) as server:
            assert names(server) == ["other", "words"]
            assert text_of(await server.infer(request("words"))) == "Hello, hi"
            assert caplog.text.count("model 'words' of pipeline 'upstream' is not served") == 1


@pytest.mark.slow
async def test_a_name_in_two_lists_is_that_of_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with scripted_server(reply) as api:
        upstream(tmp_path, api.url, "a")
        upstream(tmp_path, api.url, "b")
        async with serving(tmp_path) as server:
            assert names(server) == ["model"]
            assert caplog.text.count("model 'model' of pipeline 'b' is not served") == 1


async def test_names_that_no_model_can_have_leave_the_others_alone(tmp_path: Path) -> None:
    async with scripted_server(reply) as api:
        unusable = ("\ud800", "b\nc", "x" * 5000, *contract.ANYSERVE_CAPABILITIES)
        api.models = {"data": [{"id": name} for name in (*unusable, "a")]}
        upstream(tmp_path, api.url)
        async with serving(tmp_path) as server:
            assert list(await server.states()) == ["a"]


async def test_a_pipeline_with_responses_alone_has_that_task(tmp_path: Path) -> None:
    write(tmp_path, "agent", RESPONSES)
    async with serving(tmp_path) as server:
        items = [{"type": "message", "content": "x"}]
        events = await server.infer(request("agent", input_items=[json.dumps(items).encode()]))
        assert json.loads(text_of(events)) == items
        config = (await server.stub.ModelConfig(pb.ModelConfigRequest(name="agent"))).config
        assert config.parameters["tasks"].string_value == "responses"
        assert float(config.parameters["loaded_at"].string_value) > 0
