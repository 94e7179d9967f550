"""Lines of batches, answered without a connection, with a scripted worker over real gRPC."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from anthropic.types import Message
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from openai_server.access.keys import ANYBODY, Caller, keys_from_file
from openai_server.api.lines import LINE_URLS, LineAnswer, Lines
from openai_server.api.lost_lines import MAX_LOSSES
from openai_server.jobs.runner import NotNow
from openai_server.store.batch_records import BatchUsage
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.ops.proxy import proxy
from tests.wire.fake_worker import (
    ALL_INPUTS,
    FakeWorker,
    Infer,
    Refusal,
    hangs,
    hangs_midway,
    inputs_of,
    last_token,
    message,
    refuses,
    serving,
    streams,
    whole,
)
from tests.wire.sidecar import Sidecar, app_for, running

CHATS = {"chat_template": "{{ messages[0].content }}", "tasks": "generate,embed"}
MESSAGES = [{"role": "user", "content": "hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "hi"},
    "/v1/embeddings": {"input": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 9, "model": "tiny"},
}
INPUTS = {*ALL_INPUTS, *(spec.name for spec in contract.TASKS[contract.TASK_EMBED].inputs)}
KEYS = "ann: key-of-ann\nbob: key-of-bob\n"
MEMORY = "sqlite://"


async def infer(request: ModelInferRequest) -> ModelInferResponse:
    if request.parameters[contract.PARAM_TASK].string_param == contract.TASK_EMBED:
        return message((contract.EMBEDDING, [1.0, 0.5]), (contract.PROMPT_TOKENS, [3]))
    return whole("yes")


@asynccontextmanager
async def lines(
    script: Infer = infer, *, inputs: Iterable[str] = INPUTS, **config: Any
) -> AsyncIterator[tuple[Lines, FakeWorker, Sidecar]]:
    worker = FakeWorker(script, parameters=CHATS, inputs=inputs)
    async with running(worker, **config) as sidecar:
        yield Lines(sidecar.app.services, sidecar.app.gate.enter_line), worker, sidecar


async def answer(lines: Lines, url: str, caller: Caller = ANYBODY, key: str = "", **fields: Any) -> LineAnswer:
    return await lines.answer(url, json.dumps({**BODIES[url], **fields}).encode(), caller, key=key)


def without_ids(value: Any) -> Any:
    """Returns the value with the ids and times in it emptied, which differ in each answer."""
    if isinstance(value, Mapping):
        changing = ("id", "created", "created_at", "completed_at")
        return {name: None if name in changing else without_ids(item) for name, item in value.items()}
    return [without_ids(item) for item in value] if isinstance(value, list) else value


def test_every_line_url_is_tested() -> None:
    assert set(BODIES) == set(LINE_URLS)


@pytest.mark.parametrize("url", LINE_URLS)
async def test_a_line_is_answered_as_a_request_is(url: str) -> None:
    async with lines() as (service, worker, sidecar):
        line = await answer(service, url)
        reply = await sidecar.send("POST", url, BODIES[url], {"anthropic-version": "2023-06-01"})
    assert (line.status, reply.status) == (200, 200)
    body = json.loads(line.body)
    if url == "/v1/messages":
        assert Message.model_validate_json(line.body, strict=True).usage.service_tier == body["usage"]["service_tier"]
        assert body["usage"]["service_tier"] == "batch"
        body["usage"]["service_tier"] = "standard"
    assert without_ids(body) == without_ids(reply.json)
    output = 0 if url == "/v1/embeddings" else 2
    assert line.usage == BatchUsage(input=3, cached=1 if output else 0, output=output)
    assert line.request_id.startswith("req_")
    assert [inputs_of(request).get("priority") for request in worker.requests] == [[contract.BATCH_PRIORITY], None]


@pytest.mark.parametrize(
    ("url", "type"),
    [
        ("/v1/chat/completions", ChatCompletion),
        ("/v1/completions", Completion),
        ("/v1/embeddings", CreateEmbeddingResponse),
        ("/v1/responses", Response),
    ],
)
async def test_a_lines_answer_has_the_types_of_the_openai_package(url: str, type: Any) -> None:
    async with lines(store=MEMORY) as (service, _, _):
        type.model_validate_json((await answer(service, url)).body, strict=True)


@pytest.mark.parametrize("url", LINE_URLS)
async def test_a_model_without_priorities_gets_none(url: str) -> None:
    async with lines(inputs=INPUTS - {"priority"}) as (service, worker, _):
        line = await answer(service, url)
        explicit = await answer(service, url, priority=7)
    assert line.status == 200
    assert "priority" not in inputs_of(worker.requests[0])
    assert explicit.status == 400
    assert "'priority'" in json.loads(explicit.body)["error"]["message"]


@pytest.mark.parametrize("url", LINE_URLS)
async def test_a_line_cannot_choose_its_priority(url: str) -> None:
    async with lines() as (service, worker, _):
        assert (await answer(service, url, priority=0)).status == 200
        assert (await answer(service, url, priority=7)).status == 200
    assert [inputs_of(request)["priority"] for request in worker.requests] == [[contract.BATCH_PRIORITY]] * 2


@pytest.mark.parametrize("url", LINE_URLS)
async def test_errors_have_the_form_of_the_api(url: str) -> None:
    async with lines() as (service, worker, _):
        unknown = await answer(service, url, model="other")
        broken = await service.answer(url, b"{", ANYBODY)
    for line, status, kind in ((unknown, 404, "not_found_error"), (broken, 400, "invalid_request_error")):
        error = json.loads(line.body)["error"]
        assert line.status == status
        if url == "/v1/messages":
            assert json.loads(line.body)["request_id"] == line.request_id
            assert error["type"] == kind
        else:
            assert error.keys() == {"message", "type", "param", "code"}
        assert line.usage == BatchUsage()
    assert not worker.requests


@pytest.mark.parametrize("url", sorted({*LINE_URLS} - {"/v1/embeddings"}))
async def test_a_line_is_no_stream(url: str) -> None:
    async with lines(store=MEMORY) as (service, worker, _):
        line = await answer(service, url, stream=True)
    assert line.status == 400
    assert "'stream'" in json.loads(line.body)["error"]["message"]
    assert not worker.requests


async def test_a_line_does_not_run_in_the_background() -> None:
    async with lines(store=MEMORY) as (service, worker, _):
        line = await answer(service, "/v1/responses", background=True)
    assert (line.status, json.loads(line.body)["error"]["param"]) == (400, "background")
    assert not worker.requests


@pytest.mark.parametrize("url", LINE_URLS)
@pytest.mark.parametrize("status", ["INTERNAL", "INVALID_ARGUMENT", "UNKNOWN", "DEADLINE_EXCEEDED"])
async def test_a_model_that_fails_on_a_line_is_its_response(url: str, status: str) -> None:
    expected = {"INTERNAL": 500, "INVALID_ARGUMENT": 400, "UNKNOWN": 502, "DEADLINE_EXCEEDED": 504}[status]
    async with lines(refuses(Refusal(status, "this one"))) as (service, _, _):
        assert (await answer(service, url)).status == expected


@pytest.mark.parametrize("url", LINE_URLS)
@pytest.mark.parametrize(
    "refusal",
    [
        Refusal("UNAVAILABLE", "going", reason=contract.REASON_DRAINING),
        Refusal("RESOURCE_EXHAUSTED", "full", reason=contract.REASON_QUEUE_FULL),
        Refusal("UNAUTHENTICATED", "who?"),
    ],
    ids=lambda refusal: refusal.status,
)
async def test_a_line_waits_for_a_backend_that_takes_no_requests(url: str, refusal: Refusal) -> None:
    async with lines(refuses(refusal)) as (service, _, sidecar):
        with pytest.raises(NotNow) as caught:
            await answer(service, url)
        assert 0 < caught.value.seconds <= 5
        assert not sidecar.app.gate.admission.running


@pytest.mark.parametrize("step_batches", [False, True])
async def test_a_line_that_ends_the_backend_fails_in_the_end(step_batches: bool) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    fields: dict[str, Any] = {"tools": tools} if step_batches else {}  # such an answer comes as a stream
    worker = FakeWorker(hangs, hangs_midway, parameters=CHATS, step_batches=step_batches)
    n_attempts = 0
    async with serving(worker) as port:
        with proxy(f"127.0.0.1:{port}") as link:
            async with app_for(int(link.address.rpartition(":")[2])) as sidecar:
                service = Lines(sidecar.app.services, sidecar.app.gate.enter_line)
                while True:
                    line = asyncio.create_task(answer(service, "/v1/chat/completions", **fields))
                    arrival = asyncio.create_task(worker.arrived.get())
                    await asyncio.wait((line, arrival), return_when=asyncio.FIRST_COMPLETED, timeout=10)
                    n_attempts += arrival.done()
                    arrival.cancel()
                    link.cut()
                    try:
                        assert (await line).status == 503
                    except NotNow:
                        continue
                    break
    assert 1 < n_attempts <= MAX_LOSSES


async def test_equal_lines_that_lose_the_backend_together_are_all_tried_again() -> None:
    worker, n = FakeWorker(hangs, parameters=CHATS), 2 * MAX_LOSSES
    async with serving(worker) as port:
        with proxy(f"127.0.0.1:{port}") as link:
            async with app_for(int(link.address.rpartition(":")[2])) as sidecar:
                service = Lines(sidecar.app.services, sidecar.app.gate.enter_line)
                running = [
                    asyncio.create_task(answer(service, "/v1/completions", key=f"line {number}")) for number in range(n)
                ]
                for _ in range(n):
                    await asyncio.wait_for(worker.arrived.get(), 10)
                link.cut()
                outcomes = await asyncio.gather(*running, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [NotNow] * n


async def test_a_line_waits_for_a_backend_that_is_away() -> None:
    worker = FakeWorker(infer, parameters=CHATS)
    async with AsyncExitStack() as servers:
        port = await servers.enter_async_context(serving(worker))
        async with app_for(port) as sidecar:
            service = Lines(sidecar.app.services, sidecar.app.gate.enter_line)
            assert (await answer(service, "/v1/completions")).status == 200
            await servers.aclose()
            for _ in range(2 * MAX_LOSSES):
                with pytest.raises(NotNow):
                    await answer(service, "/v1/completions")


async def test_a_line_waits_for_a_slot() -> None:
    async with lines(max_inflight_body_bytes=1) as (service, worker, _):
        with pytest.raises(NotNow):
            await answer(service, "/v1/chat/completions")
    assert not worker.requests


async def test_a_line_has_no_time_limit() -> None:
    door = asyncio.Event()

    async def waits(_: ModelInferRequest) -> ModelInferResponse:
        await door.wait()
        return whole("yes")

    async with lines(waits, request_timeout=0.2) as (service, worker, sidecar):
        line = asyncio.create_task(answer(service, "/v1/completions"))
        await asyncio.wait_for(worker.arrived.get(), 10)
        assert (await sidecar.complete(prompt="hi")).status == 504
        door.set()
        assert (await line).status == 200


async def test_a_line_on_a_shared_stream_has_no_time_limit() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    fields = {"messages": MESSAGES, "tools": tools}
    worker = FakeWorker(infer, streams(last_token("yes")), parameters=CHATS, step_batches=True)
    async with running(worker, request_timeout=100) as sidecar:
        service = Lines(sidecar.app.services, sidecar.app.gate.enter_line)
        line = await service.answer("/v1/chat/completions", json.dumps(fields).encode(), ANYBODY)
        reply = await sidecar.send("POST", "/v1/chat/completions", fields)
    assert (line.status, reply.status) == (200, 200)
    limits = [request.parameters[contract.PARAM_TIMEOUT].int64_param for request in worker.requests]
    assert limits == [0, 100_000_000]


async def test_lines_do_not_use_up_the_limits_of_their_owner(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(KEYS)
    ann = keys_from_file(KEYS).caller([(b"authorization", b"Bearer key-of-ann")])
    async with lines(api_key_file=path, requests_per_minute=1, tokens_per_minute=100) as (service, worker, sidecar):
        for url in LINE_URLS:
            assert (await answer(service, url, ann, **limit_of(url))).status == 200
        reply = await sidecar.send(
            "POST", "/v1/completions", {"prompt": "hi", "max_tokens": 90}, {"authorization": "Bearer key-of-ann"}
        )
    assert reply.status == 200
    assert {request.parameters[contract.PARAM_CALLER].string_param for request in worker.requests} == {ann.label}


def limit_of(url: str) -> dict[str, Any]:
    return {
        "/v1/embeddings": {},
        "/v1/responses": {"max_output_tokens": 100},
    }.get(url, {"max_tokens": 100})


async def test_a_lines_response_is_stored_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(KEYS)
    ann = keys_from_file(KEYS).caller([(b"authorization", b"Bearer key-of-ann")])
    async with lines(api_key_file=path, store=MEMORY) as (service, _, sidecar):
        first = json.loads((await answer(service, "/v1/responses", ann)).body)
        second = await answer(service, "/v1/responses", ann, previous_response_id=first["id"])
        replies = [
            await sidecar.send("GET", f"/v1/responses/{first['id']}", headers={"authorization": f"Bearer {key}"})
            for key in ("key-of-ann", "key-of-bob")
        ]
    assert (first["store"], second.status) == (True, 200)
    assert [reply.status for reply in replies] == [200, 404]


@pytest.mark.parametrize("store", [True, False])
async def test_a_line_that_runs_again_stores_nothing_twice(store: bool) -> None:
    async with lines(store=MEMORY) as (service, worker, sidecar):
        conversation = (await sidecar.send("POST", "/v1/conversations", {})).json["id"]
        fields = {"conversation": conversation, "store": store, "key": "ab" * 16}
        first, second = [await answer(service, "/v1/responses", **fields) for _ in range(2)]
        items = (await sidecar.get(f"/v1/conversations/{conversation}/items")).json["data"]
        stored = await sidecar.get(f"/v1/responses/resp_{'ab' * 16}")
    assert len(items) == 2
    assert first.usage == second.usage == BatchUsage(input=3, cached=1, output=2)
    ids = [json.loads(line.body)["id"] for line in (first, second)]
    assert ids == [f"resp_{'ab' * 16}"] * 2
    if store:
        assert len(worker.requests) == 1
        assert json.loads(first.body) == json.loads(second.body) == stored.json


async def test_lines_have_their_own_name_in_metrics_and_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="openai_server.access")
    async with lines() as (service, _, sidecar):
        line = await answer(service, "/v1/chat/completions")
        sidecar.app.observer.report()
        metrics = (await sidecar.get("/metrics")).body.decode()
    assert 'endpoint="/v1/chat/completions (batch)"' in metrics
    [record] = [record for record in caplog.records if line.request_id in str(record.__dict__)]
    assert record.getMessage().startswith("BATCH /v1/chat/completions")
