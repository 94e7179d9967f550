"""Which model answers, and how the sidecar follows a backend that goes and comes back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from openai.types import Model

from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.wire.fake_worker import FakeWorker, Refusal, echo, echo_stream, serving
from tests.wire.sidecar import Sidecar, app_for, running

pytestmark = pytest.mark.usefixtures("both_kinds_of_stream")


async def test_the_models_that_are_ready_are_listed() -> None:
    worker = FakeWorker(models=["org/big", "small"], parameters={"loaded_at": "1700000000"})
    async with running(worker) as sidecar:
        reply = await sidecar.get("/v1/models")
    assert reply.json["object"] == "list"
    models = [Model.model_validate(model, strict=True) for model in reply.json["data"]]
    assert [(model.id, model.created, model.owned_by) for model in models] == [
        ("org/big", 1700000000, "anyserve"),
        ("small", 1700000000, "anyserve"),
    ]


async def test_anthropics_clients_find_models_and_aliases() -> None:
    worker = FakeWorker(models=["org/big", "small"], parameters={"context_length": "2048"})
    headers = {"anthropic-version": "2023-06-01", "x-api-key": "right"}
    async with running(worker, api_key=("right",), model_alias={"claude-x": "small"}) as sidecar:
        listed = await sidecar.send("GET", "/v1/models?limit=2", headers=headers)
        assert [model["id"] for model in listed.json["data"]] == ["org/big", "small"]
        assert listed.json["has_more"] is True
        listed = await sidecar.send("GET", "/v1/models?after_id=small&beta=true", headers=headers)
        assert [(model["id"], model["display_name"]) for model in listed.json["data"]] == [("claude-x", "small")]
        for name in ("small", "claude-x"):
            single = await sidecar.send("GET", f"/v1/models/{name}", headers=headers)
            assert (single.json["id"], single.json["max_input_tokens"]) == ("small", 2048)
        wrong = await sidecar.send("GET", "/v1/models?limit=0", headers=headers)
        assert (wrong.status, "'limit'" in wrong.json["error"]["message"]) == (400, True)


@pytest.mark.parametrize(("name", "expected"), [("org/big", "org/big"), ("small", "small"), ("llamacpp", "org/big")])
async def test_a_model_is_described_by_name_or_alias(name: str, expected: str) -> None:
    async with running(FakeWorker(models=["org/big", "small"])) as sidecar:
        reply = await sidecar.get(f"/v1/models/{name}")
    model = Model.model_validate_json(reply.body, strict=True)
    assert model.id == expected
    assert model.created > 0


async def test_an_unknown_model_is_not_described() -> None:
    async with running(FakeWorker()) as sidecar:
        reply = await sidecar.get("/v1/models/other")
    assert (reply.status, reply.error["code"], reply.error["param"]) == (404, "model_not_found", "model")


@pytest.mark.parametrize(("foreign", "status"), [(False, 503), (True, 404)])
async def test_a_model_that_is_not_ready_is_only_unknown_in_servers_that_list_unloaded_ones(
    foreign: bool, status: int
) -> None:
    async with running(FakeWorker(foreign=foreign)) as sidecar:
        described = await sidecar.get("/v1/models/broken")
        answers = [described, await sidecar.chat(model="broken"), await sidecar.chat(model="broken", stream=True)]
        assert "broken" not in [model["id"] for model in (await sidecar.get("/v1/models")).json["data"]]
    assert [answer.status for answer in answers] == [status] * 3


@pytest.mark.parametrize(
    ("model", "expected"),
    [(None, "tiny"), ("", "tiny"), ("tiny", "tiny"), ("llamacpp", "tiny"), ("gpt-3.5-turbo", "second")],
)
async def test_a_request_is_answered_by_its_model_or_alias(model: str | None, expected: str) -> None:
    worker = FakeWorker(models=["tiny", "second"])
    async with running(worker, model_alias={"gpt-3.5-turbo": "second"}) as sidecar:
        for reply in (await sidecar.complete(prompt="x", model=model), await sidecar.chat(model=model)):
            assert reply.json["model"] == expected
        assert (await sidecar.complete(prompt="x", model=model, stream=True)).events[0]["model"] == expected
    assert {request.model_name for request in worker.requests} == {expected}


@pytest.mark.parametrize("model", ["other", "alias-of-nothing"])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_unknown_model_does_not_answer(model: str, stream: bool) -> None:
    worker = FakeWorker()
    async with running(worker, model_alias={"alias-of-nothing": "gone"}) as sidecar:
        reply = await sidecar.complete(prompt="x", model=model, stream=stream)
    assert (reply.status, reply.error["code"], reply.error["param"]) == (404, "model_not_found", "model")
    assert worker.requests == []


async def test_the_model_can_be_in_the_path_as_in_old_clients() -> None:
    worker = FakeWorker(models=["tiny", "a/b"])
    async with running(worker) as sidecar:
        reply = await sidecar.send("POST", "/v1/engines/a/b/completions", {"prompt": "x"})
        chat = await sidecar.send(
            "POST", "/v1/engines/a/b/chat/completions", {"messages": [{"role": "user", "content": "x"}]}
        )
        other = await sidecar.send("POST", "/v1/engines/a/b/completions", {"prompt": "x", "model": "tiny"})
    assert (reply.json["model"], chat.json["object"], chat.json["model"]) == ("a/b", "chat.completion", "a/b")
    assert (other.status, other.error["param"]) == (400, "model")


async def test_a_backend_that_lists_no_models_needs_served_model() -> None:
    async with running(FakeWorker(models=None)) as sidecar:
        reply = await sidecar.complete(prompt="x")
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert "--served-model" in reply.error["message"]
    async with running(FakeWorker(models=None), served_model=("named",)) as sidecar:
        assert (await sidecar.complete(prompt="x")).json["model"] == "named"
        assert (await sidecar.complete(prompt="x", model="other")).status == 404


async def test_a_model_that_is_loaded_later_is_found() -> None:
    worker = FakeWorker()
    async with running(worker) as sidecar:
        assert (await sidecar.complete(prompt="x", model="later")).status == 404
        worker.models = ("tiny", "later")
        assert (await sidecar.complete(prompt="x", model="later")).json["model"] == "later"
        worker.models = ("tiny", "later", "last")
        assert [model["id"] for model in (await sidecar.get("/v1/models")).json["data"]] == list(worker.models)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_without_a_model_is_served_after_the_model_was_replaced(stream: bool) -> None:
    async def infer(request: ModelInferRequest) -> ModelInferResponse:
        if request.model_name != "new":
            raise Refusal("NOT_FOUND", "gone")
        return await echo(request)

    async def stream_infer(request: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        if request.model_name != "new":
            raise Refusal("NOT_FOUND", "gone")
        async for response in echo_stream(request):
            yield response

    worker = FakeWorker(infer, stream_infer, models=["old"])
    async with running(worker) as sidecar:
        assert (await sidecar.get("/v1/models/old")).status == 200
        worker.models = ("new",)
        reply = await sidecar.complete(prompt="x", stream=stream)
        named = await sidecar.complete(prompt="x", stream=stream, model="old")
    assert (reply.events[0] if stream else reply.json)["model"] == "new"
    assert (named.status, named.error["code"], named.error["param"]) == (404, "model_not_found", "model")


async def test_a_model_that_stays_away_is_a_404() -> None:
    async def infer(_: ModelInferRequest) -> ModelInferResponse:
        raise Refusal("NOT_FOUND", "gone")

    async with running(FakeWorker(infer)) as sidecar:
        assert (await sidecar.complete(prompt="x")).status == 404


async def test_a_models_metadata_is_requested_once() -> None:
    worker = FakeWorker()
    async with running(worker) as sidecar:
        await asyncio.gather(*(sidecar.complete(prompt="x") for _ in range(5)))
        await sidecar.complete(prompt="x")
    assert sorted(call for call in worker.lookups if call.startswith("Model")) == ["ModelConfig", "ModelMetadata"]


# ---- The backend goes and comes back


async def answering_model(sidecar: Sidecar) -> str:
    """Completes until a model answers, and returns its name."""
    async with asyncio.timeout(30):
        while True:
            reply = await sidecar.complete(prompt="x")
            if reply.status == 200:
                return str(reply.json["model"])
            assert (reply.status, reply.headers["retry-after"]) == (503, "1")
            assert (reply.error["type"], reply.error["code"]) == ("server_error", "backend_unavailable")
            await asyncio.sleep(0.05)


async def test_a_worker_that_comes_back_with_another_model_is_found() -> None:
    async with AsyncExitStack() as first:
        port = await first.enter_async_context(serving(FakeWorker(models=["first"])))
        async with app_for(port) as sidecar:
            assert await answering_model(sidecar) == "first"
            await first.aclose()
            async with serving(FakeWorker(models=["second"]), port):
                assert await answering_model(sidecar) == "second"


async def test_an_absent_backend_is_a_503_until_it_comes() -> None:
    async with serving(FakeWorker()) as port:
        pass
    async with app_for(port) as sidecar:
        for reply in (
            await sidecar.complete(prompt="x"),
            await sidecar.chat(stream=True),
            await sidecar.get("/v1/models"),
            await sidecar.get("/readyz"),
            await sidecar.get("/health"),
        ):
            assert (reply.status, reply.headers["retry-after"]) == (503, "1")
            assert reply.error["code"] == "backend_unavailable"
        assert (await sidecar.get("/livez")).status == 200
        async with serving(FakeWorker(), port):
            assert await answering_model(sidecar) == "tiny"
