"""A lookup of the model list or of a model, with a slow backend, delays only the requests that need it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.wire.fake_worker import FakeWorker, Refusal, echo, inputs_of
from tests.wire.sidecar import Call, Reply, Sidecar, running

TINY = {"prompt": "x", "model": "tiny"}
CHAT = {"messages": [{"role": "user", "content": "x"}]}
UNKNOWN_NAME_SECONDS = 1.0
"""Seconds for which the sidecar remembers that a model name is unknown."""


async def wait_for_reply(call: Call) -> Reply:
    await asyncio.wait_for(call.task, 30)
    return call.reply


def complete(sidecar: Sidecar, model: str) -> Call:
    return sidecar.start("POST", "/v1/completions", {"prompt": "x", "model": model})


@asynccontextmanager
async def slow_sidecar(worker: FakeWorker, *calls: str) -> AsyncIterator[tuple[Sidecar, asyncio.Event]]:
    """Yields a sidecar that has looked up its models, and an event; `calls` are held until the event is set."""
    async with running(worker, lookup_timeout=30) as sidecar:
        assert (await sidecar.get("/v1/models")).status == 200
        may_answer = asyncio.Event()
        worker.held = dict.fromkeys(calls, may_answer)
        while not worker.looked_up.empty():
            worker.looked_up.get_nowait()
        worker.lookups.clear()
        try:
            yield sidecar, may_answer
        finally:
            may_answer.set()


async def check_known_models(sidecar: Sidecar) -> None:
    for model in ("tiny", "second", "llamacpp", "alias", None):
        assert (await sidecar.complete(prompt="x", model=model)).status == 200
        assert (await sidecar.chat(model=model)).status == 200
        assert (await sidecar.chat(model=model, stream=True)).events
    assert (
        await sidecar.send("POST", "/apply-template", {"messages": [{"role": "user", "content": "x"}]})
    ).status == 200
    assert (await sidecar.get("/v1/models/tiny")).status == 200
    assert (await sidecar.get("/readyz")).status == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/models", None),
        ("GET", "/models", None),
        ("GET", "/v1/models/unknown", None),
        ("POST", "/v1/completions", {"prompt": "x", "model": "unknown"}),
        ("POST", "/v1/completions", {"prompt": "x", "model": "unknown", "stream": True}),
        ("POST", "/v1/chat/completions", {**CHAT, "model": "unknown"}),
        ("POST", "/v1/embeddings", {"input": "x", "model": "unknown"}),
        ("POST", "/v1/rerank", {"query": "x", "documents": ["x"], "model": "unknown"}),
        ("POST", "/tokenize", {"prompt": "x", "model": "unknown"}),
        ("POST", "/detokenize", {"tokens": [1], "model": "unknown"}),
        ("POST", "/v1/completions", {"prompt": "x", "model": "alias-of-nothing"}),
    ],
)
async def test_a_known_model_does_not_wait_for_a_lookup(
    method: str, path: str, body: Mapping[str, object] | None
) -> None:
    aliases = {"alias": "second", "alias-of-nothing": "gone"}
    worker = FakeWorker(models=["tiny", "second"])
    async with running(worker, lookup_timeout=30, model_alias=aliases) as sidecar:
        await check_known_models(sidecar)
        worker.held["RepositoryIndex"] = may_answer = asyncio.Event()
        n_before = worker.lookups.count("RepositoryIndex")
        waiting = [sidecar.start(method, path, body) for _ in range(3)]
        while worker.lookups.count("RepositoryIndex") == n_before:
            await worker.looked_up.get()
        await check_known_models(sidecar)
        assert not any(call.task.done() for call in waiting)
        may_answer.set()
        assert {(await wait_for_reply(call)).status for call in waiting} == (
            {404} if "unknown" in f"{path}{body}" or body else {200}
        )
        assert worker.lookups.count("RepositoryIndex") == n_before + 1


async def test_a_hundred_unknown_names_at_once_are_one_lookup() -> None:
    async with slow_sidecar(worker := FakeWorker(), "RepositoryIndex") as (sidecar, may_answer):
        calls = [complete(sidecar, f"unknown-{k}") for k in range(100)]
        assert await worker.looked_up.get() == "RepositoryIndex"
        may_answer.set()
        for call in calls:
            reply = await wait_for_reply(call)
            assert (reply.status, reply.error["code"], reply.error["param"]) == (404, "model_not_found", "model")
        assert worker.lookups == ["RepositoryIndex"]


async def test_continuous_unknown_names_are_one_lookup_a_second() -> None:
    async with slow_sidecar(worker := FakeWorker()) as (sidecar, _):
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for k in range(300):
            assert (await sidecar.complete(prompt="x", model=f"unknown-{k}")).status == 404
        assert 1 <= len(worker.lookups) <= 1 + (loop.time() - begun) / UNKNOWN_NAME_SECONDS


@pytest.mark.slow
async def test_an_unknown_name_is_found_once_it_is_listed() -> None:
    async with slow_sidecar(worker := FakeWorker()) as (sidecar, _):
        assert (await sidecar.complete(prompt="x", model="later")).status == 404
        worker.models = ("tiny", "later")
        await wait_until_known(sidecar, "later")
        worker.models = ("tiny", "last")
        assert [model["id"] for model in (await sidecar.get("/v1/models")).json["data"]] == ["tiny", "last"]
        assert (await sidecar.complete(prompt="x", model="last")).status == 200
        assert (await sidecar.complete(prompt="x", model="later")).status == 404


async def wait_until_known(sidecar: Sidecar, model: str) -> None:
    async with asyncio.timeout(30):  # takes a second
        while True:
            if (await sidecar.complete(prompt="x", model=model)).status == 200:
                return
            await asyncio.sleep(0.1)


async def test_requests_for_the_list_share_one_lookup() -> None:
    async with slow_sidecar(worker := FakeWorker(), "RepositoryIndex") as (sidecar, may_answer):
        calls = [sidecar.start("GET", "/v1/models") for _ in range(50)]
        assert await worker.looked_up.get() == "RepositoryIndex"
        worker.models = ("tiny", "new")
        may_answer.set()
        for call in calls:
            assert [model["id"] for model in (await wait_for_reply(call)).json["data"]] == ["tiny", "new"]
        assert worker.lookups.count("RepositoryIndex") == 1


async def test_a_client_that_disconnects_does_not_end_the_lookup_for_others() -> None:
    async with slow_sidecar(worker := FakeWorker(), "RepositoryIndex") as (sidecar, may_answer):
        first = complete(sidecar, "unknown")
        assert await worker.looked_up.get() == "RepositoryIndex"
        other_calls = [complete(sidecar, "new"), sidecar.start("GET", "/v1/models")]
        await asyncio.sleep(0)
        first.disconnect()
        await wait_for_reply(first)
        worker.models = ("tiny", "new")
        may_answer.set()
        assert [(await wait_for_reply(call)).status for call in other_calls] == [200, 200]
        assert worker.lookups.count("RepositoryIndex") == 1


async def test_a_failed_lookup_is_an_error_only_where_it_is_needed() -> None:
    async with slow_sidecar(worker := FakeWorker(models=["tiny", "second"]), "RepositoryIndex") as (
        sidecar,
        may_answer,
    ):
        worker.failing.add("RepositoryIndex")
        calls = [sidecar.start("GET", "/v1/models"), complete(sidecar, "unknown"), complete(sidecar, "other")]
        assert await worker.looked_up.get() == "RepositoryIndex"
        may_answer.set()
        for reply in [await wait_for_reply(call) for call in calls] + [
            await sidecar.complete(prompt="x", model="third")
        ]:
            assert (reply.status, reply.error["code"]) == (503, "backend_unavailable")
        assert (await sidecar.complete(**TINY)).status == 200
        assert (await sidecar.chat(model="second")).status == 200
        worker.failing.clear()
        assert (await sidecar.get("/v1/models")).status == 200
        assert (await sidecar.complete(prompt="x", model="third")).status == 404


async def test_a_slow_model_does_not_delay_another_models_lookup() -> None:
    worker = FakeWorker(models=["tiny", "slow"])
    worker.held["ModelConfig slow"] = may_answer = asyncio.Event()
    async with running(worker, lookup_timeout=30) as sidecar:
        waiting = [complete(sidecar, "slow"), complete(sidecar, "slow"), sidecar.start("GET", "/v1/models")]
        assert (await sidecar.complete(**TINY)).status == 200
        assert (await sidecar.complete(prompt="x", model="unknown")).status == 404
        assert not any(call.task.done() for call in waiting)
        waiting[0].disconnect()
        may_answer.set()
        assert [(await wait_for_reply(call)).status for call in waiting[1:]] == [200, 200]
    assert worker.lookups.count("ModelConfig") == 2


@pytest.mark.parametrize("status", ["NOT_FOUND", "UNAVAILABLE"])
async def test_one_models_errors_clear_nothing_for_others(status: str) -> None:
    async def infer(request: ModelInferRequest) -> ModelInferResponse:
        if request.model_name == "broken-model":
            raise Refusal(status, "not loaded")
        return await echo(request)

    async with slow_sidecar(
        worker := FakeWorker(infer, models=["tiny", "broken-model"]), "RepositoryIndex", "ModelConfig", "ModelMetadata"
    ) as (sidecar, _):
        for _ in range(20):
            assert (await sidecar.complete(prompt="x", model="broken-model")).status in (404, 503)
            assert (await sidecar.complete(**TINY)).status == 200
            assert (await sidecar.chat()).status == 200
        assert worker.lookups.count("RepositoryIndex") == 1  # in the background, where it hangs


async def test_a_template_that_was_replaced_behind_a_proxy_is_found() -> None:
    """The connection is never lost: a failed call is the only sign."""
    failing = True

    async def infer(request: ModelInferRequest) -> ModelInferResponse:
        if failing:
            raise Refusal("UNAVAILABLE", "restarting")
        return await echo(request)

    worker = FakeWorker(infer, parameters={"chat_template": "old"})
    async with running(worker) as sidecar:
        assert (await sidecar.chat()).status == 503
        failing, worker.parameters = False, {"chat_template": "new"}
        async with asyncio.timeout(30):  # takes a second
            while True:
                if (await sidecar.chat()).status == 200 and inputs_of(worker.requests[-1])["prompt"] == [b"new"]:
                    return
                await asyncio.sleep(0.1)
