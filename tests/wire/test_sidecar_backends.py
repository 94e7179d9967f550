"""Several backends with different models, over real gRPC: which backend gets a request, and which models are listed."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from openai_server.backends import catalog, inventory, pool
from openai_server.backends.calls import Backend
from openai_server.backends.pool import Address, Pool
from openai_server.telemetry.observer import Observer
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from scripts.ports import free_port, refusing_port
from tests.wire.exposition import Scrape
from tests.wire.fake_worker import (
    ALL_INPUTS,
    PROMPT_TASKS,
    FakeWorker,
    Refusal,
    echo,
    echo_stream,
    hangs_midway,
    inputs_of,
    refuses,
    serving,
    streams,
)
from tests.wire.sidecar import Reply, Sidecar, app_for
from tests.wire.test_sidecar_tasks import EVERYTHING, infer, task_of

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
ALL_TASKS = ",".join(PROMPT_TASKS)


@pytest.fixture(params=["whole", "stream a request", "step batches"])
def stream(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether responses are streamed; for "step batches", the backends send step batches."""
    before, FakeWorker.STEP_BATCHES = FakeWorker.STEP_BATCHES, request.param == "step batches"
    yield request.param != "whole"
    FakeWorker.STEP_BATCHES = before


@asynccontextmanager
async def sidecar_for(*workers: FakeWorker | int, **config: Any) -> AsyncIterator[Sidecar]:
    """Yields a sidecar with these backends, in this order; a number is a port, where a backend may start later or
    never."""
    async with AsyncExitStack() as stack:
        ports = [
            worker if isinstance(worker, int) else await stack.enter_async_context(serving(worker))
            for worker in workers
        ]
        endpoints = tuple(f"127.0.0.1:{port}" for port in ports)
        yield await stack.enter_async_context(app_for(0, anyserve_endpoint=endpoints, **config))


async def listed(sidecar: Sidecar) -> list[str]:
    reply = await sidecar.get("/v1/models")
    assert reply.status == 200, reply.body
    return [model["id"] for model in reply.json["data"]]


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def send_completion(sidecar: Sidecar, model: str | None = None, *, stream: bool = False, **body: Any) -> Reply:
    named = {"model": model} if model is not None else {}
    return await sidecar.complete(prompt="x", stream=stream, **named, **body)


async def until_shared(sidecar: Sidecar, workers: Iterable[FakeWorker], model: str) -> None:
    """Sends requests until each of the workers has received one for the model, then clears their lists."""

    async def all_have_one() -> bool:
        assert (await send_completion(sidecar, model)).status == 200
        return all(any(request.model_name == model for request in worker.requests) for worker in workers)

    await eventually(all_have_one)
    for worker in workers:
        worker.requests.clear()


def unavailable(reply: Reply) -> bool:
    if reply.status != 503:
        return False
    assert reply.headers["retry-after"] == "1"
    assert (reply.error["type"], reply.error["code"]) == ("server_error", "backend_unavailable")
    return True


def unknown(reply: Reply) -> bool:
    return (reply.status, reply.error["code"], reply.error["param"]) == (404, "model_not_found", "model")


# ---- Which backend gets a request


async def test_each_model_is_served_by_its_backend(stream: bool) -> None:
    workers = [FakeWorker(models=["a"]), FakeWorker(models=["b"]), FakeWorker(models=["c"])]
    async with sidecar_for(*workers) as sidecar:
        for model, path in [(m, p) for m in "cabcab" for p in ("/v1/completions", "/v1/chat/completions")]:
            body = {"prompt": "x"} if path == "/v1/completions" else CHAT
            reply = await sidecar.send("POST", path, {**body, "model": model, "stream": stream})
            assert (reply.events[0] if stream else reply.json)["model"] == model
    for worker, model in zip(workers, "abc", strict=True):
        assert [request.model_name for request in worker.requests] == [model] * 4


async def test_tasks_other_than_generate_go_to_the_backend_of_their_model() -> None:
    chat = FakeWorker(models=["chat"], parameters={"tasks": "generate", "chat_template": "chat's"})
    texts = FakeWorker(infer, models=["texts"], inputs=EVERYTHING, parameters={"tasks": ALL_TASKS})
    requests: list[tuple[str, Mapping[str, Any], str]] = [
        ("/v1/embeddings", {"input": ["x", "y"]}, contract.TASK_EMBED),
        ("/v1/rerank", {"query": "q", "documents": ["1", "2"]}, contract.TASK_RANK),
        ("/tokenize", {"prompt": "x"}, contract.TASK_TOKENIZE),
        ("/detokenize", {"tokens": [120]}, contract.TASK_DETOKENIZE),
    ]
    async with sidecar_for(chat, texts) as sidecar:
        for path, body, task in requests:
            reply = await sidecar.send("POST", path, {**body, "model": "texts"})
            assert reply.status == 200, reply.body
            assert task_of(texts.requests[-1]) == task
            reply = await sidecar.send("POST", path, {**body, "model": "chat"})
            assert (reply.status, reply.error["code"]) == (400, "unsupported_task")
        applied = await sidecar.send("POST", "/apply-template", {**CHAT, "model": "chat"})
        assert applied.json == {"prompt": "chat's"}
        assert (await sidecar.chat(model="chat")).status == 200
        described = {model["id"]: model["capabilities"] for model in (await sidecar.get("/v1/models")).json["data"]}
        assert list(described) == ["chat", "texts"]
        assert "embedding" in str(described["texts"])
        assert "embedding" not in str(described["chat"])
    assert len(chat.requests) == 1


async def test_the_least_loaded_backend_with_the_model_gets_the_request(stream: bool) -> None:
    async def hangs(_: ModelInferRequest) -> ModelInferResponse:
        await asyncio.Event().wait()
        raise AssertionError

    idle, *workers = FakeWorker(models=["b"]), *(FakeWorker(models=["a", "b"]) for _ in range(2))
    async with sidecar_for(idle, *workers) as sidecar:
        await until_shared(sidecar, workers, "a")
        for worker in workers:
            worker._infer, worker._stream = hangs, hangs_midway
        calls = []
        for k in range(6):
            body = {"prompt": "x", "model": "a", "stream": stream}
            calls.append(sidecar.start("POST", "/v1/completions", body))
            async with asyncio.timeout(10):
                while sum(len(worker.requests) for worker in workers) <= k:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        assert [len(worker.requests) for worker in workers] == [3, 3]
        for call in calls:
            call.disconnect()
            await asyncio.wait_for(call.task, 10)
    assert not any(request.model_name == "a" for request in idle.requests)


@pytest.mark.usefixtures("both_kinds_of_stream")
async def test_each_backend_has_one_shared_stream() -> None:
    workers = [FakeWorker(models=["a"]), FakeWorker(models=["b"])]
    async with sidecar_for(*workers) as sidecar:
        replies = await asyncio.gather(*(send_completion(sidecar, model, stream=True) for model in "abab"))
    assert [reply.events[0]["model"] for reply in replies] == list("abab")
    for worker in workers:
        assert worker.n_streams == (1 if worker.step_batches else 2)


# ---- Names


async def test_the_list_is_the_union_in_the_order_of_endpoints_and_lists() -> None:
    workers = [FakeWorker(models=["m", "a"]), FakeWorker(models=["z", "a", "b"]), FakeWorker(models=["b", "m"])]
    async with sidecar_for(*workers, model_alias={"gpt-4o": "b", "gone": "nothing"}) as sidecar:
        assert await listed(sidecar) == ["m", "a", "z", "b"]
        for model, expected in ((None, "m"), ("llamacpp", "m"), ("gpt-4o", "b"), ("z", "z")):
            assert (await send_completion(sidecar, model)).json["model"] == expected
            assert (await send_completion(sidecar, model, stream=True)).events[0]["model"] == expected
        assert (await sidecar.get("/v1/models/gpt-4o")).json["id"] == "b"
        for model in ("gone", "nothing", "other"):
            assert unknown(await send_completion(sidecar, model))
            assert unknown(await send_completion(sidecar, model, stream=True))
            assert unknown(await sidecar.get(f"/v1/models/{model}"))


async def test_backends_without_a_list_serve_the_served_models_that_they_have() -> None:
    class Unlisted(FakeWorker):
        """Serves its models, but has no RepositoryIndex."""

        def __init__(self, model: str) -> None:
            super().__init__(models=[model], unimplemented=["RepositoryIndex"])

    async with AsyncExitStack() as departing:
        workers = [Unlisted("a"), Unlisted("b"), FakeWorker(models=["c"])]
        port = await departing.enter_async_context(serving(workers[0]))
        served, aliases = ("b", "a"), {"alias": "a"}
        async with sidecar_for(port, *workers[1:], served_model=served, model_alias=aliases) as sidecar:
            for model in ("a", "b", "c", "alias", "b", "a"):
                assert (await send_completion(sidecar, model)).status == 200
            assert await listed(sidecar) == ["a", "b", "c"]
            assert (await send_completion(sidecar)).json["model"] == "a"
            await departing.aclose()
            assert unavailable(await send_completion(sidecar, "alias"))
            assert (await send_completion(sidecar, "b")).status == 200
    assert [{request.model_name for request in worker.requests} for worker in workers] == [{"a"}, {"b"}, {"c"}]
    async with sidecar_for(Unlisted("a"), served_model=("b",)) as sidecar:
        reply = await send_completion(sidecar, "b")
        assert unavailable(reply)
        assert "--served-model" in reply.error["message"]


async def test_the_default_model_does_not_depend_on_the_order_of_responses() -> None:
    slow, fast = FakeWorker(models=["slow"]), FakeWorker(models=["fast"])
    slow.held["RepositoryIndex"] = may_answer = asyncio.Event()
    async with sidecar_for(slow, fast) as sidecar:
        assert (await send_completion(sidecar, "fast")).json["model"] == "fast"  # doesn't wait for the slow backend
        call = sidecar.start("POST", "/v1/completions", {"prompt": "x"})
        await asyncio.sleep(0.1)
        may_answer.set()
        await asyncio.wait_for(call.task, 10)
        assert call.reply.json["model"] == "slow"


# ---- Slow and absent backends


@asynccontextmanager
async def black_hole() -> AsyncIterator[int]:
    """Yields a port that accepts connections and never responds."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield silent.getsockname()[1]


@pytest.mark.slow
async def test_slow_and_dead_backends_do_not_delay_others() -> None:
    with refusing_port() as dead:
        async with black_hole() as silent:
            slow, ready_worker = FakeWorker(models=["slow"]), FakeWorker(models=["a"])
            slow.held = dict.fromkeys(("RepositoryIndex", "ModelMetadata", "ModelConfig"), asyncio.Event())
            async with (
                sidecar_for(silent, dead, slow, ready_worker, lookup_timeout=60) as sidecar,
                asyncio.timeout(15),
            ):
                for stream in (False, True):
                    assert (await send_completion(sidecar, "a", stream=stream)).status == 200
                assert await listed(sidecar) == ["a"]
                assert (await send_completion(sidecar)).json["model"] == "a"
                assert (await sidecar.get("/readyz")).status == 200
                assert (await send_completion(sidecar, "b")).status in (404, 503)  # the slow backend may have it
                slow.held["RepositoryIndex"].set()
                await eventually(lambda: has(sidecar, "slow"))


async def has(sidecar: Sidecar, model: str) -> bool:
    return model in await listed(sidecar)


@pytest.mark.slow
async def test_a_backend_that_stops_responding_to_lookups_keeps_its_models_and_delays_no_request() -> None:
    slow, ready_worker = FakeWorker(models=["b"]), FakeWorker(models=["a"])
    async with sidecar_for(slow, ready_worker, lookup_timeout=60) as sidecar:
        assert await listed(sidecar) == ["b", "a"]
        slow.held["RepositoryIndex"] = asyncio.Event()
        async with asyncio.timeout(15):
            assert await listed(sidecar) == ["b", "a"]
            assert unknown(await send_completion(sidecar, "other"))
            for model in "ab":
                assert (await send_completion(sidecar, model)).status == 200
        slow.held.pop("RepositoryIndex").set()


async def test_a_model_whose_only_backend_is_away_is_a_503_not_a_404(stream: bool) -> None:
    async with AsyncExitStack() as departing:
        port = await departing.enter_async_context(serving(FakeWorker(models=["b"])))
        async with sidecar_for(FakeWorker(models=["a"]), port, model_alias={"alias": "b"}) as sidecar:
            assert (await send_completion(sidecar, "b", stream=stream)).status == 200
            assert unknown(await send_completion(sidecar, "c", stream=stream))
            await departing.aclose()
            for _ in range(3):
                for model in ("b", "alias"):
                    assert unavailable(await send_completion(sidecar, model, stream=stream))
                    assert unavailable(await sidecar.chat(model=model, stream=stream))
                    assert unavailable(await sidecar.get(f"/v1/models/{model}"))
                assert unavailable(await sidecar.send("POST", "/v1/embeddings", {"input": "x", "model": "b"}))
                assert unavailable(await sidecar.send("POST", "/tokenize", {"prompt": "x", "model": "b"}))
                assert unavailable(await sidecar.send("POST", "/apply-template", {**CHAT, "model": "b"}))
            assert unknown(await send_completion(sidecar, "c", stream=stream))
            assert (await send_completion(sidecar, "a", stream=stream)).status == 200
            assert await listed(sidecar) == ["a"]
            async with serving(FakeWorker(models=["b"]), port):
                await eventually(lambda: answers(sidecar, "b"))
                assert await listed(sidecar) == ["a", "b"]


async def answers(sidecar: Sidecar, model: str | None) -> bool:
    return (await send_completion(sidecar, model)).status == 200


@pytest.mark.slow
async def test_the_models_of_a_backend_are_forgotten_some_time_after_it_has_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inventory, "MEMORY_SECONDS", 1.0)
    monkeypatch.setattr(catalog, "REFRESH_INTERVAL", 0.05)
    async with AsyncExitStack() as departing:
        port = await departing.enter_async_context(serving(FakeWorker(models=["b"])))
        async with sidecar_for(port, FakeWorker(models=["a"])) as sidecar:
            assert (await send_completion(sidecar)).json["model"] == "b"
            await departing.aclose()
            assert unavailable(await send_completion(sidecar, "b"))
            assert unavailable(await send_completion(sidecar))
            await eventually(lambda: is_unknown(sidecar, "b"))
            assert (await send_completion(sidecar)).json["model"] == "a"


async def is_unknown(sidecar: Sidecar, model: str) -> bool:
    reply = await send_completion(sidecar, model)
    return unknown(reply) or not unavailable(reply)


# ---- Readiness


async def test_readiness_means_that_a_backend_of_the_default_model_is_ready() -> None:
    async with AsyncExitStack() as departing:
        first = FakeWorker(models=["a"])
        port = await departing.enter_async_context(serving(first))
        async with sidecar_for(port, FakeWorker(models=["b"])) as sidecar:
            for path in ("/readyz", "/health"):
                assert (await sidecar.get(path)).status == 200
            first.unready.add("a")
            reply = await sidecar.get("/readyz")
            assert unavailable(reply)
            assert "'a'" in reply.error["message"]
            first.unready.clear()
            assert (await sidecar.get("/readyz")).status == 200
            await departing.aclose()
            for path in ("/readyz", "/health"):
                reply = await sidecar.get(path)
                assert unavailable(reply)
                assert "'a'" in reply.error["message"]
            assert (await send_completion(sidecar, "b")).status == 200
            async with serving(FakeWorker(models=["a"]), port):
                await eventually(lambda: is_ready(sidecar))


async def is_ready(sidecar: Sidecar) -> bool:
    return (await sidecar.get("/readyz")).status == 200


async def test_one_ready_backend_of_the_default_model_is_enough() -> None:
    workers = [FakeWorker(models=["a"]), FakeWorker(models=["a", "b"]), FakeWorker(models=["b"])]
    async with sidecar_for(*workers) as sidecar:
        await until_shared(sidecar, workers[:2], "a")
        workers[0].ready = False
        assert (await sidecar.get("/readyz")).status == 200
        workers[1].unready.add("a")
        assert unavailable(await sidecar.get("/readyz"))


# ---- Models come and go


async def test_a_model_that_a_backend_adds_or_removes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "REFRESH_INTERVAL", 0.05)
    first, second = FakeWorker(models=["a"]), FakeWorker(models=["b"])
    async with sidecar_for(first, second) as sidecar:
        assert await listed(sidecar) == ["a", "b"]
        second.models = ("b", "a", "new")  # "a" only by the refresh: no request causes a lookup of it
        await until_shared(sidecar, [first, second], "a")
        assert (await send_completion(sidecar, "new")).status == 200
        first.models = ("a", "last")
        second.models = ("a",)
        assert await listed(sidecar) == ["a", "last"]
        assert unknown(await send_completion(sidecar, "b"))
        assert (await send_completion(sidecar, "last")).status == 200


async def test_a_new_name_is_found_on_any_backend() -> None:
    workers = [FakeWorker(models=["a"]), FakeWorker(models=["b"])]
    async with sidecar_for(*workers) as sidecar:
        assert await listed(sidecar) == ["a", "b"]
        workers[1].models = ("b", "later")
        assert (await send_completion(sidecar, "later")).json["model"] == "later"


async def test_a_request_moves_on_if_the_backend_has_unloaded_the_model(stream: bool) -> None:
    """The backend returns NOT_FOUND, and another one that has the model gets the request."""

    def check_loaded(request: ModelInferRequest) -> None:
        if is_unloaded:
            raise Refusal("NOT_FOUND", "unloaded")

    async def infer(request: ModelInferRequest) -> ModelInferResponse:
        check_loaded(request)
        return await echo(request)

    async def infer_stream(request: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        check_loaded(request)
        async for response in echo_stream(request):
            yield response

    is_unloaded = False
    workers = [FakeWorker(infer, infer_stream, models=["a"]), FakeWorker(models=["a"])]
    async with sidecar_for(*workers) as sidecar:
        await until_shared(sidecar, workers, "a")
        is_unloaded = True
        for model in ("a", None, "a", None):
            assert (await send_completion(sidecar, model, stream=stream)).status == 200
        assert 1 <= len(workers[0].requests) < 4
        workers[1].models = ()
        workers[1]._infer, workers[1]._stream = infer, infer_stream
        assert unknown(await send_completion(sidecar, "a", stream=stream))


# ---- Rolling updates


def old_worker(**options: Any) -> FakeWorker:
    inputs = [name for name in ALL_INPUTS if name != contract.MIN_P.name]
    return FakeWorker(models=["m"], inputs=inputs, parameters={"chat_template": "old", "loaded_at": "1"}, **options)


def new_worker(**options: Any) -> FakeWorker:
    return FakeWorker(models=["m"], parameters={"chat_template": "new", "loaded_at": "2"}, **options)


def differences(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Returns the log lines about metadata, in their order."""
    words = ("report different metadata", "report the same metadata")
    return [word for record in caplog.records for word in words if word in record.getMessage()]


async def test_tensors_are_built_for_the_backend_that_gets_them(stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    old, new = old_worker(), new_worker()
    async with sidecar_for(old, new) as sidecar:
        await until_shared(sidecar, [old, new], "m")
        for _ in range(6):
            assert (await sidecar.chat(stream=stream)).status == 200
        assert [len(worker.requests) for worker in (old, new)] == [3, 3]
        for worker, template in ((old, b"old"), (new, b"new")):
            assert [inputs_of(request)["prompt"] for request in worker.requests] == [[template]] * 3
        for _ in range(3):  # the old version has no input for it
            assert (await sidecar.chat(stream=stream, min_p=0.1)).status == 200
        assert [len(worker.requests) for worker in (old, new)] == [3, 6]
        assert all("min_p" in inputs_of(request) for request in new.requests[3:])
    assert differences(caplog) == ["report different metadata"]
    [warning] = [record for record in caplog.records if "report different metadata" in record.getMessage()]
    assert warning.levelno == logging.WARNING
    assert "'m'" in warning.getMessage()
    assert "inputs, chat_template" in warning.getMessage()


async def test_a_field_that_no_version_supports_is_refused(stream: bool) -> None:
    old, new = old_worker(), new_worker()
    new.inputs = old.inputs
    async with sidecar_for(old, new) as sidecar:
        await until_shared(sidecar, [old, new], "m")
        for _ in range(4):
            reply = await sidecar.chat(stream=stream, min_p=0.1)
            assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "unsupported_parameter", "min_p")


async def test_a_task_is_sent_to_the_version_that_supports_it() -> None:
    old = FakeWorker(infer, models=["m"], inputs=EVERYTHING, parameters={"tasks": "generate"})
    new = FakeWorker(infer, models=["m"], inputs=EVERYTHING, parameters={"tasks": ALL_TASKS})
    async with sidecar_for(old, new) as sidecar:
        assert await listed(sidecar) == ["m"]
        await eventually(lambda: embeds(sidecar))
        for _ in range(4):
            assert await embeds(sidecar)
    assert not old.requests


async def embeds(sidecar: Sidecar) -> bool:
    return (await sidecar.send("POST", "/v1/embeddings", {"input": "x", "model": "m"})).status == 200


DRAINING = Refusal("UNAVAILABLE", "draining", reason="draining")


def refuse(worker: FakeWorker, refusal: Refusal) -> asyncio.Event:
    """Makes the worker refuse all requests; the first refusal sets the event. A draining worker isn't ready either."""
    refused = asyncio.Event()

    async def infer(request: ModelInferRequest) -> ModelInferResponse:
        refused.set()
        return await refuses(refusal)(request)

    async def stream(request: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        refused.set()
        async for response in streams(fails=refusal)(request):
            yield response

    worker._infer, worker._stream, worker.ready = infer, stream, refusal is not DRAINING
    return refused


async def test_a_rolling_update_is_one_warning_and_no_error(stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with AsyncExitStack() as stack:
        ports, old_workers, stops = [free_port() for _ in range(3)], [old_worker() for _ in range(3)], []
        for port, worker in zip(ports, old_workers, strict=True):
            stops.append(AsyncExitStack())
            await stops[-1].enter_async_context(serving(worker, port))
        sidecar = await stack.enter_async_context(sidecar_for(*ports))
        await until_shared(sidecar, old_workers, "m")
        ended = asyncio.Event()
        replies: list[Reply] = []

        async def keep_requesting() -> None:
            while not ended.is_set():
                replies.append(await sidecar.chat(stream=stream))

        async def wait_for_requests(worker: FakeWorker) -> None:
            """Waits until the worker has received a request, and two more have been answered."""
            async with asyncio.timeout(20):
                while not worker.requests:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                n_replies = len(replies)
                while len(replies) < n_replies + 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

        request_loop = asyncio.create_task(keep_requesting())
        try:
            for port, old, stop in zip(ports, old_workers, stops, strict=True):
                await asyncio.wait_for(refuse(old, DRAINING).wait(), 20)
                await stop.aclose()
                new = new_worker()
                await stack.enter_async_context(serving(new, port))
                await wait_for_requests(new)
        finally:
            ended.set()
            await asyncio.wait_for(request_loop, 10)
        assert not [reply.body for reply in replies if reply.status != 200]
    assert differences(caplog) == ["report different metadata", "report the same metadata"]


async def test_a_request_that_one_version_refuses_is_rebuilt_for_the_other(stream: bool) -> None:
    """The refusing version is draining, as a worker is before it is replaced."""
    old, new = old_worker(), new_worker()
    async with sidecar_for(old, new) as sidecar:
        await until_shared(sidecar, [old, new], "m")
        refuse(old, DRAINING)
        for _ in range(4):
            reply = await sidecar.chat(stream=stream)
            assert reply.status == 200
            assert b'"new"' in reply.body
        assert [inputs_of(request)["prompt"] for request in old.requests] == [[b"old"]]
        assert [inputs_of(request)["prompt"] for request in new.requests] == [[b"new"]] * 4
        refuse(new, DRAINING)
        assert (await sidecar.chat(stream=stream)).status == 503
        assert len(old.requests) == 2  # each got the request once
        assert len(new.requests) == 5


async def test_all_prompts_of_a_request_are_rebuilt_for_the_other_version(stream: bool) -> None:
    full = Refusal("RESOURCE_EXHAUSTED", "full", reason="queue_full")
    old, new = old_worker(), new_worker()
    async with sidecar_for(old, new) as sidecar:
        await until_shared(sidecar, [old, new], "m")
        refuse(old, full)
        for _ in range(2):
            reply = await sidecar.complete(prompt=["x", "y"], n=2, stream=stream)
            choices = reply.events if stream else [reply.json]
            texts = {c["index"]: c["text"] for event in choices for c in event["choices"] if c["text"]}
            assert texts == {0: "x", 1: "x", 2: "y", 3: "y"}
        refuse(new, full)
        assert (await sidecar.complete(prompt=["x", "y"], stream=stream)).status == 429


async def test_a_backend_that_comes_back_with_other_models_is_noticed() -> None:
    async with AsyncExitStack() as departing:
        port = await departing.enter_async_context(serving(FakeWorker(models=["b"])))
        async with sidecar_for(FakeWorker(models=["a"]), port) as sidecar:
            assert await listed(sidecar) == ["a", "b"]
            await departing.aclose()
            async with serving(FakeWorker(models=["c"]), port):
                await eventually(lambda: answers(sidecar, "c"))
                assert unknown(await send_completion(sidecar, "b"))
                assert await listed(sidecar) == ["a", "c"]


async def test_addresses_of_a_name_may_serve_different_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "RESOLVE_INTERVAL", 0.02)
    old, new, other = FakeWorker(models=["m", "old"]), FakeWorker(models=["m", "new"]), FakeWorker(models=["z"])
    async with serving(old) as old_port, serving(new) as new_port, serving(other) as other_port:
        addresses = [Address(f"127.0.0.1:{old_port}", "workers")]

        async def resolve(_: str) -> list[Address]:
            return list(addresses)

        def open(address: Address) -> Backend:
            return Backend(address.target, timeout=10, lookup_timeout=5, name=address.name)

        backend_pool = Pool([f"127.0.0.1:{other_port}", "dns:///workers:1"], open, resolve=resolve)
        async with app_for(0, pool=backend_pool) as sidecar:
            assert await listed(sidecar) == ["z", "m", "old"]
            addresses.append(Address(f"127.0.0.1:{new_port}", "workers"))
            await until_shared(sidecar, [old, new], "m")
            assert set(await listed(sidecar)) == {"z", "m", "old", "new"}
            assert (
                (await send_completion(sidecar, "old")).status == (await send_completion(sidecar, "new")).status == 200
            )
            del addresses[0]
            await eventually(lambda: is_gone(sidecar, "old"))
            assert await listed(sidecar) == ["z", "m", "new"]
            assert unavailable(await send_completion(sidecar, "old"))  # another backend with it may come
            assert (await send_completion(sidecar, "m")).status == 200


@pytest.mark.slow
async def test_a_name_that_is_not_resolved_delays_no_request() -> None:
    async def resolve(_: str) -> list[Address]:
        await asyncio.Event().wait()
        raise AssertionError

    def open(address: Address) -> Backend:
        return Backend(address.target, timeout=10, lookup_timeout=60, name=address.name)

    async with AsyncExitStack() as stack, asyncio.timeout(15):
        port = await stack.enter_async_context(serving(FakeWorker(models=["a"])))
        backend_pool = Pool(["dns:///workers:1", f"127.0.0.1:{port}"], open, resolve=resolve)
        sidecar = await stack.enter_async_context(app_for(0, pool=backend_pool))
        assert (await send_completion(sidecar, "a")).status == 200
        assert (await send_completion(sidecar)).json["model"] == "a"
        assert await listed(sidecar) == ["a"]
        assert (await sidecar.get("/readyz")).status == 200


async def is_gone(sidecar: Sidecar, model: str) -> bool:
    return model not in await listed(sidecar)


# ---- Metrics


async def test_metrics_name_the_model_that_answered() -> None:
    observer = Observer.of(log_access=False, tracing=False)
    async with AsyncExitStack() as departing:
        port = await departing.enter_async_context(serving(FakeWorker(models=["b"])))
        async with sidecar_for(FakeWorker(models=["a"]), port, observer=observer) as sidecar:
            for model in "abb":
                for stream in (False, True):
                    assert (await send_completion(sidecar, model, stream=stream)).status == 200
            assert unknown(await send_completion(sidecar, "c"))
            await departing.aclose()
            assert unavailable(await send_completion(sidecar, "b"))
            observer.report()
            scrape = Scrape((await sidecar.get("/metrics")).body)
    requests = "openai_server_requests_total"
    assert scrape.value(requests, model="a", status="200") == 2
    assert scrape.value(requests, model="b", status="200") == 4
    assert scrape.value(requests, model="", status="404") == 1
    assert scrape.value(requests, status="503") == 1
    assert scrape.value("openai_server_completion_tokens_total", model="b") == 8
