"""Background responses over real gRPC: run, followed, resumed, cancelled, and shared by two sidecars."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from openai.types.responses import Response

from openai_server.api import lone_request
from openai_server.api.responses.background import log_sink, work
from openai_server.core.store_errors import StoreAway
from openai_server.http import sse
from openai_server.store.store import Store
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.openai_server.api.responses.output.streams import EVENT_TYPES, EXTENSIONS, events
from tests.ops.able_worker import able_worker
from tests.shapes import exact
from tests.wire.fake_worker import (
    FakeWorker,
    Refusal,
    answers,
    first_token,
    inputs_of,
    last_token,
    serving,
    streams,
    token,
    whole,
)
from tests.wire.sidecar import Reply, Sidecar, app_for, running

MEMORY = "sqlite://"
PATH = "/v1/responses"
ENCRYPTED = {"include": ["reasoning.encrypted_content"]}
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}}
REQUESTS: list[dict[str, Any]] = [
    {},
    {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
    {"tools": [FUNCTION], "enable_thinking": True, **ENCRYPTED},
    {"input": [{"role": "user", "content": "hi"}, {"type": "compaction_trigger"}]},
]


class PacedWorker(FakeWorker):
    """Streams what the test passes to `send_tokens`, to all calls."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(answers(whole("yes")), self._paced, **settings)
        self._sent: list[ModelInferResponse] = []
        self._grew = asyncio.Condition()

    async def send_tokens(self, *responses: ModelInferResponse) -> None:
        async with self._grew:
            self._sent += responses
            self._grew.notify_all()

    async def _paced(self, _: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        for n in count():
            response = await self._nth(n)
            yield response
            if response.parameters:
                return

    async def _nth(self, n: int) -> ModelInferResponse:
        async with self._grew:
            await self._grew.wait_for(lambda: len(self._sent) > n)
        return self._sent[n]

    async def call(self) -> str:
        """Waits for the next call, and returns its id."""
        return await asyncio.wait_for(self.arrived.get(), 10)


async def create(
    sidecar: Sidecar, input: Any = "hi", headers: Mapping[str, str] | None = None, **body: Any
) -> dict[str, Any]:
    reply = await sidecar.send("POST", PATH, {"input": input, "background": True, **body}, headers)
    assert reply.status == 200, reply.body
    exact(Response, reply.json, EXTENSIONS)
    return dict(reply.json)


async def get(sidecar: Sidecar, id: str) -> dict[str, Any]:
    reply = await sidecar.get(f"{PATH}/{id}")
    assert reply.status == 200, reply.body
    exact(Response, reply.json, EXTENSIONS)
    return dict(reply.json)


async def followed(sidecar: Sidecar, id: str, after: int | None = None) -> Reply:
    query = "" if after is None else f"&starting_after={after}"
    reply = await sidecar.get(f"{PATH}/{id}?stream=true{query}")
    assert reply.status == 200, reply.body
    return reply


def parts_of(reply: Reply) -> list[bytes]:
    """The events of a stream without pings, as bytes."""
    *parts, rest = reply.body.split(sse.END)
    assert rest == b""
    return [part + sse.END for part in parts if part + sse.END != sse.PING]


@asynccontextmanager
async def two_sidecars(
    worker: FakeWorker, store: Path, *, both_run: bool = False, **config: Any
) -> AsyncIterator[tuple[Sidecar, Sidecar]]:
    """Yields two sidecars with one store. Only the first one takes runs, unless both do."""
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(serving(worker))
        url = f"sqlite:///{store / 'store.db'}"
        first, second = [await stack.enter_async_context(app_for(port, store=url, **config)) for _ in range(2)]
        if not both_run:
            background_of(second).runner.drain()
        yield first, second


def background_of(sidecar: Sidecar) -> Any:
    background = sidecar.app.services.background
    assert background is not None
    return background


# ---- Created and followed


@pytest.mark.parametrize("body", REQUESTS)
async def test_a_response_is_queued_and_its_stream_ends_with_what_is_stored(body: dict[str, Any]) -> None:
    async with running(able_worker(), store=MEMORY) as sidecar:
        queued = await create(sidecar, **body)
        assert (queued["status"], queued["background"], queued["store"]) == ("queued", True, True)
        assert (queued["output"], queued["usage"], queued["model"]) == ([], None, "tiny")
        stream = (await followed(sidecar, queued["id"])).events
        assert [event["sequence_number"] for event in stream] == list(range(len(stream)))
        for event in stream:
            exact(EVENT_TYPES[event["type"]], event, EXTENSIONS)
        stored = await get(sidecar, queued["id"])
    assert stream[0]["response"] == queued
    last = stream[-1]["response"]
    assert stored["status"] == "completed"
    assert {**stored, "output": []} == {**last, "output": []}
    assert [item["id"] for item in stored["output"]] == [item["id"] for item in last["output"]]


@pytest.mark.parametrize("body", REQUESTS)
async def test_the_stream_of_its_request_is_the_same_as_later_ones(body: dict[str, Any]) -> None:
    async with running(able_worker(), store=MEMORY) as sidecar:
        first = await sidecar.send("POST", PATH, {"input": "hi", **body, "background": True, "stream": True})
        parts = parts_of(first)
        id = json.loads(parts[0].split(b"data: ")[1])["response"]["id"]
        assert parts_of(await followed(sidecar, id)) == parts
        for after in range(len(parts) + 1):
            assert parts_of(await followed(sidecar, id, after)) == [*parts[after + 1 : -1], sse.DONE]


async def test_a_stream_can_be_resumed_while_it_goes_on() -> None:
    worker = PacedWorker()
    async with running(worker, store=MEMORY) as sidecar:
        id = (await create(sidecar))["id"]
        await worker.call()
        await worker.send_tokens(first_token("a"), token("b"), token("c"))
        whole_stream = sidecar.start("GET", f"{PATH}/{id}?stream=true")
        await whole_stream.until(b'"delta":"c"')
        resumed = [sidecar.start("GET", f"{PATH}/{id}?stream=true&starting_after={n}") for n in range(12)]
        for n in range(7):  # the events up to the delta "c"
            await resumed[n].until(b'"delta":"c"')
        await worker.send_tokens(token("d"), last_token())
        await asyncio.wait_for(asyncio.gather(whole_stream.task, *(call.task for call in resumed)), 10)
    parts = parts_of(whole_stream.reply)
    assert len(parts) == 14
    for n, call in enumerate(resumed):
        assert parts_of(call.reply) == parts[n + 1 :]


async def test_a_client_that_leaves_changes_nothing() -> None:
    worker = PacedWorker()
    async with running(worker, store=MEMORY) as sidecar:
        call = sidecar.start("POST", PATH, {"input": "hi", "background": True, "stream": True})
        await worker.call()
        await worker.send_tokens(first_token("a"))
        await call.until(b'"delta":"a"')
        id = json.loads(call.reply.body.split(b"\n")[1].removeprefix(b"data: "))["response"]["id"]
        call.disconnect()
        await call.task
        await worker.send_tokens(token("b"), last_token())
        await followed(sidecar, id)
        response = await get(sidecar, id)
    assert (response["status"], response["output"][0]["content"][0]["text"]) == ("completed", "ab")
    assert worker.cancelled.empty()


async def test_a_silent_stream_gets_pings() -> None:
    worker = PacedWorker()
    async with running(worker, store=MEMORY, ping_interval=0.02) as sidecar:
        id = (await create(sidecar))["id"]
        call = sidecar.start("GET", f"{PATH}/{id}?stream=true")
        await call.until(sse.PING)
        await worker.send_tokens(last_token("a"))
        await asyncio.wait_for(call.task, 10)
    assert events(b"".join(parts_of(call.reply)))[-1]["type"] == "response.completed"


async def test_the_next_response_continues_a_background_response() -> None:
    template = "{% for m in messages %}[{{ m.role }}:{{ m.content }}]{% endfor %}"
    worker = FakeWorker(answers(whole("ok")), streams(last_token("yes")), parameters={"chat_template": template})
    async with running(worker, store=MEMORY) as sidecar:
        first = await create(sidecar)
        await followed(sidecar, first["id"])
        second = await create(sidecar, "and?", previous_response_id=first["id"])
        await followed(sidecar, second["id"])
    prompt = worker.requests[-1]
    assert b"[user:hi][assistant:yes][user:and?]" in prompt.SerializeToString()


async def test_its_items_are_appended_to_its_conversation() -> None:
    async with running(FakeWorker(answers(whole("ok")), streams(last_token("yes"))), store=MEMORY) as sidecar:
        conversation = (await sidecar.send("POST", "/v1/conversations", {})).json["id"]
        response = await create(sidecar, conversation=conversation)
        assert response["conversation"] == {"id": conversation}
        await followed(sidecar, response["id"])
        items = (await sidecar.get(f"/v1/conversations/{conversation}/items?order=asc")).json["data"]
    assert [item["role"] for item in items] == ["user", "assistant"]


# ---- Failures


async def test_a_failure_ends_the_response() -> None:
    failing = FakeWorker(stream=streams(token("a"), fails=Refusal("INTERNAL", "the model broke")))
    async with running(failing, store=MEMORY) as sidecar:
        id = (await create(sidecar))["id"]
        parts = parts_of(await followed(sidecar, id))
        response = await get(sidecar, id)
        assert parts_of(await followed(sidecar, id, 3)) == parts[4:]
    stream = events(b"".join(parts))
    assert [event["type"] for event in stream[-2:]] == ["error", "response.failed"]
    assert response["status"] == "failed"
    assert response["error"] == stream[-1]["response"]["error"]
    assert response["error"]["code"] == "server_error"


async def test_a_refusal_before_the_first_token_ends_the_response() -> None:
    worker = FakeWorker(stream=streams(fails=Refusal("INVALID_ARGUMENT", "no", tensor="temperature")))
    async with running(worker, store=MEMORY) as sidecar:
        id = (await create(sidecar))["id"]
        stream = events(b"".join(parts_of(await followed(sidecar, id))))
        assert (await get(sidecar, id))["error"]["code"] == "invalid_prompt"
    kinds = [event["type"] for event in stream]
    assert kinds == ["response.created", "response.queued", "response.in_progress", "error", "response.failed"]


async def test_a_conversation_that_was_deleted_meanwhile_fails_it() -> None:
    async with running(FakeWorker(stream=streams(last_token("a"))), store=MEMORY) as sidecar:
        conversation = (await sidecar.send("POST", "/v1/conversations", {})).json["id"]
        background_of(sidecar).runner._is_draining = True  # the response waits
        id = (await create(sidecar, conversation=conversation))["id"]
        await sidecar.send("DELETE", f"/v1/conversations/{conversation}")
        background_of(sidecar).runner._is_draining = False
        background_of(sidecar).runner.wake()
        await followed(sidecar, id)
        assert (await get(sidecar, id))["status"] == "failed"


@pytest.mark.parametrize(
    ("config", "body", "param"),
    [
        ({}, {"background": True}, "background"),
        ({"store": MEMORY}, {"background": True, "store": False}, "background"),
        ({"store": MEMORY}, {"background": True, "temperature": 9}, "temperature"),
        ({"store": MEMORY}, {"background": True, "model": "unknown"}, None),
    ],
)
async def test_a_request_that_can_not_be_queued_is_refused(
    config: dict[str, Any], body: dict[str, Any], param: str | None
) -> None:
    async with running(FakeWorker(), **config) as sidecar:
        reply = await sidecar.send("POST", PATH, {"input": "hi", **body})
    assert reply.status == (404 if param is None else 400)
    assert param is None or reply.error["param"] == param


async def test_only_background_responses_can_be_followed_and_cancelled() -> None:
    async with running(FakeWorker(), store=MEMORY) as sidecar:
        id = (await sidecar.send("POST", PATH, {"input": "hi"})).json["id"]
        stream = await sidecar.get(f"{PATH}/{id}?stream=true")
        cancel = await sidecar.send("POST", f"{PATH}/{id}/cancel")
    assert (stream.status, stream.error["param"], cancel.status) == (400, "stream", 400)


@pytest.mark.parametrize("config", [{}, {"store": MEMORY}])
async def test_an_unknown_response_can_not_be_followed_or_cancelled(config: dict[str, Any]) -> None:
    async with running(FakeWorker(), **config) as sidecar:
        assert (await sidecar.get(f"{PATH}/resp_1?stream=true")).status == 404
        assert (await sidecar.send("POST", f"{PATH}/resp_1/cancel")).status == 404


# ---- Cancelled and deleted


async def test_a_running_response_is_cancelled_at_once() -> None:
    worker = PacedWorker()
    async with running(worker, store=MEMORY) as sidecar:
        id = (await create(sidecar))["id"]
        call = await worker.call()
        await worker.send_tokens(first_token("a"))
        stream = sidecar.start("GET", f"{PATH}/{id}?stream=true")
        await stream.until(b'"delta":"a"')
        cancelled = await sidecar.send("POST", f"{PATH}/{id}/cancel")
        assert await asyncio.wait_for(worker.cancelled.get(), 1) == call
        await asyncio.wait_for(stream.task, 1)
        again = await sidecar.send("POST", f"{PATH}/{id}/cancel")
        assert parts_of(await followed(sidecar, id)) == parts_of(stream.reply)
    exact(Response, cancelled.json, EXTENSIONS)
    assert (cancelled.status, cancelled.json["status"]) == (200, "cancelled")
    assert again.json == cancelled.json
    assert b"".join(parts_of(stream.reply)).endswith(b'"delta":"a"}\n\ndata: [DONE]\n\n')


async def test_a_deleted_response_ends_its_streams_and_its_run() -> None:
    worker = PacedWorker()
    async with running(worker, store=MEMORY) as sidecar:
        id = (await create(sidecar))["id"]
        await worker.call()
        await worker.send_tokens(first_token("a"))
        stream = sidecar.start("GET", f"{PATH}/{id}?stream=true")
        await stream.until(b'"delta":"a"')
        await sidecar.send("DELETE", f"{PATH}/{id}")
        await asyncio.wait_for(stream.task, 10)
        await asyncio.wait_for(worker.cancelled.get(), 10)
    *_, error, done = parts_of(stream.reply)
    event = json.loads(error.split(b"data: ")[1])
    assert (event["type"], event["code"], event["sequence_number"]) == ("error", "response_not_found", 5)
    assert done == sse.DONE


# ---- Two sidecars


async def test_another_sidecar_follows_and_cancels(tmp_path: Path) -> None:
    worker = PacedWorker()
    async with two_sidecars(worker, tmp_path) as (a, b):
        id = (await create(a))["id"]
        call = await worker.call()
        await worker.send_tokens(first_token("a"))
        streams_of_both = [sidecar.start("GET", f"{PATH}/{id}?stream=true") for sidecar in (a, b)]
        for stream in streams_of_both:
            await stream.until(b'"delta":"a"')
        await worker.send_tokens(token("b"))
        for stream in streams_of_both:
            await stream.until(b'"delta":"b"')
        await b.send("POST", f"{PATH}/{id}/cancel")
        assert await asyncio.wait_for(worker.cancelled.get(), 1) == call
        await asyncio.wait_for(asyncio.gather(*(stream.task for stream in streams_of_both)), 10)
        assert (await get(a, id))["status"] == "cancelled"
    first, second = streams_of_both
    assert parts_of(first.reply) == parts_of(second.reply)


async def test_each_response_runs_once(tmp_path: Path) -> None:
    worker = FakeWorker(stream=streams(token("a"), last_token()))
    async with two_sidecars(worker, tmp_path, both_run=True, max_background=2) as (a, b):
        created = await asyncio.gather(*(create(sidecar, str(i)) for i in range(8) for sidecar in (a, b)))
        for response, sidecar in zip(created, [b, a] * 8, strict=True):
            await followed(sidecar, response["id"])
            assert (await get(sidecar, response["id"]))["status"] == "completed"
    assert len(worker.requests) == 16


async def test_a_sidecar_that_ends_finishes_its_runs_within_the_drain(tmp_path: Path) -> None:
    worker = PacedWorker()
    async with serving(worker) as port:
        url = f"sqlite:///{tmp_path / 'store.db'}"
        async with app_for(port, store=url) as sidecar:
            id = (await create(sidecar))["id"]
            await worker.call()
            sidecar.app.services.drain()
            await worker.send_tokens(last_token("a"))
        async with app_for(port, store=url) as sidecar:
            assert (await get(sidecar, id))["status"] == "completed"
    assert len(worker.requests) == 1


async def test_a_run_that_does_not_end_within_the_drain_runs_again_unless_a_client_has_seen_it(tmp_path: Path) -> None:
    worker = PacedWorker()
    async with serving(worker) as port:
        url = f"sqlite:///{tmp_path / 'store.db'}"
        async with app_for(port, store=url, drain_timeout=0) as sidecar:
            unseen, seen = (await create(sidecar))["id"], (await create(sidecar))["id"]
            await worker.call(), await worker.call()
            await worker.send_tokens(first_token("a"))
            stream = sidecar.start("GET", f"{PATH}/{seen}?stream=true")
            await stream.until(b'"delta":"a"')
            sidecar.app.services.drain()
        await worker.send_tokens(last_token("b"))
        async with app_for(port, store=url) as sidecar:
            await followed(sidecar, unseen)
            again, failed = await get(sidecar, unseen), await get(sidecar, seen)
            resumed = parts_of(await followed(sidecar, seen, 5))
    assert (again["status"], again["output"][0]["content"][0]["text"]) == ("completed", "ab")
    assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
    assert "ended" in failed["error"]["message"]
    kinds = [json.loads(part.split(b"data: ")[1])["type"] for part in resumed[:-1]]
    assert kinds == ["error", "response.failed"]
    assert stream.reply.body.startswith(b"event: response.created")


async def test_a_run_goes_on_when_the_store_answers_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(log_sink, "RETRY_SECONDS", 0.01)
    failures: list[str] = []

    def failing_twice(name: str) -> Any:
        method = getattr(Store, name)

        async def call(self: Store, *arguments: Any, **options: Any) -> Any:
            if failures.count(name) < 2:
                failures.append(name)
                raise StoreAway
            return await method(self, *arguments, **options)

        return call

    for name in ("add_events", "finish_run"):
        monkeypatch.setattr(Store, name, failing_twice(name))
    worker = PacedWorker()
    async with running(worker, store=MEMORY) as sidecar:
        id = (await create(sidecar))["id"]
        stream = sidecar.start("GET", f"{PATH}/{id}?stream=true")
        await worker.send_tokens(first_token("a"))
        await stream.until(b'"delta":"a"')
        await worker.send_tokens(last_token("b"))
        await asyncio.wait_for(stream.task, 10)
        response = await get(sidecar, id)
    assert sorted(failures) == ["add_events"] * 2 + ["finish_run"] * 2
    assert (response["status"], response["output"][0]["content"][0]["text"]) == ("completed", "ab")
    assert len(worker.requests) == 1


# ---- Limits and telemetry


async def test_a_run_waits_for_a_slot() -> None:
    worker = PacedWorker()
    async with running(worker, store=MEMORY, max_concurrency=1, max_queue=0) as sidecar:
        other = sidecar.start(
            "POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "stream": True}
        )
        await worker.call()
        id = (await create(sidecar))["id"]
        stream = sidecar.start("GET", f"{PATH}/{id}?stream=true")
        await stream.until(b"response.queued")
        await worker.send_tokens(last_token("a"))
        await asyncio.wait_for(asyncio.gather(other.task, stream.task), 10)
        assert (await get(sidecar, id))["status"] == "completed"


async def test_a_run_pays_its_tokens_and_its_request_is_counted_once() -> None:
    worker = FakeWorker(stream=streams(last_token("a")))  # which counts 5 tokens
    async with running(worker, store=MEMORY, requests_per_minute=6, tokens_per_minute=6) as sidecar:
        gate = sidecar.app.gate
        account = gate.rates.account("", gate.clock())
        assert account.requests is not None
        assert account.tokens is not None
        id = (await create(sidecar, max_output_tokens=20))["id"]
        after_request = account.requests.level(gate.clock())
        assert after_request < 6
        await followed(sidecar, id)
        assert account.tokens.level(gate.clock()) < 6
        assert account.requests.level(gate.clock()) > after_request - 1.5  # the stream alone was another request


async def test_a_run_waits_for_the_tokens_of_its_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lone_request, "MAX_REST", 0.05)
    monkeypatch.setattr(lone_request, "RETRY_SECONDS", 0.05)
    worker = PacedWorker()
    async with running(worker, store=MEMORY, tokens_per_minute=60) as sidecar:
        first = (await create(sidecar, max_output_tokens=40))["id"]
        await worker.call()
        second = (await create(sidecar, max_output_tokens=40))["id"]
        stream = sidecar.start("GET", f"{PATH}/{second}?stream=true")
        await stream.until(b"response.queued")
        assert worker.arrived.empty()
        await worker.send_tokens(last_token("a"))
        await followed(sidecar, first)
        await asyncio.wait_for(stream.task, 10)
        assert (await get(sidecar, second))["status"] == "completed"
    assert b"response.failed" not in stream.reply.body


async def test_a_run_has_an_access_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="openai_server.access")
    async with running(FakeWorker(stream=streams(first_token("a"), last_token())), store=MEMORY) as sidecar:
        id = (await create(sidecar, headers={"x-request-id": "req_mine"}))["id"]
        await followed(sidecar, id)
        sidecar.app.observer.report()
        metrics = (await sidecar.get("/metrics")).body.decode()
    [line] = [record for record in caplog.records if record.getMessage().startswith("BACKGROUND")]
    assert line.getMessage().startswith(f"BACKGROUND {PATH}/{id}")
    fields = line.__dict__["fields"]
    assert (fields["request_id"], fields["status"], fields["completion_tokens"]) == ("req_mine", 200, 2)
    assert 'openai_server_completion_tokens_total{endpoint="/v1/responses (background)",model="tiny"} 2.0' in metrics


async def test_a_response_of_another_key_does_not_exist() -> None:
    async with running(FakeWorker(stream=streams(last_token("a"))), store=MEMORY, api_key=("one", "two")) as sidecar:
        first, second = ({"authorization": f"Bearer {key}"} for key in ("one", "two"))
        id = (await create(sidecar, headers=first))["id"]
        for method, path in (("GET", f"{PATH}/{id}?stream=true"), ("POST", f"{PATH}/{id}/cancel")):
            assert (await sidecar.send(method, path, headers=second)).status == 404
        assert (await sidecar.send("GET", f"{PATH}/{id}?stream=true", headers=first)).status == 200


async def test_followers_count_against_the_bytes_of_bodies() -> None:
    text = "x" * 30_000
    worker = FakeWorker(stream=streams(first_token(text), last_token()))
    async with running(worker, store=MEMORY, max_body_bytes=1 << 16, max_inflight_body_bytes=1 << 16) as sidecar:
        id = (await create(sidecar))["id"]
        assert (await followed(sidecar, id)).events[-1]["type"] == "response.completed"
        gate = sidecar.app.gate
        assert gate.held == 0
        gate.held = gate._held_by[""] = 50_000
        last = (await followed(sidecar, id)).events[-1]
        assert (last["type"], last["error"]["code"]) == ("error", "server_overloaded")
        assert gate.held == 50_000


async def test_a_queued_response_keeps_what_it_continues() -> None:
    worker = PacedWorker(parameters={"chat_template": "{% for m in messages %}[{{ m.content }}]{% endfor %}"})
    async with running(worker, store=MEMORY, max_background=1) as sidecar:
        first = (await sidecar.send("POST", PATH, {"input": "A"})).json
        await worker.call()
        reference = {"type": "item_reference", "id": first["output"][0]["id"]}
        await create(sidecar, "blocks the only place")
        await worker.call()
        for body in (
            {"previous_response_id": first["id"], "input": "B"},
            {"input": [reference, {"role": "user", "content": "C"}]},
        ):
            await create(sidecar, **body)
        assert (await sidecar.send("DELETE", f"{PATH}/{first['id']}")).status == 200
        await worker.send_tokens(first_token("x"), last_token())
        prompts = []
        for _ in range(2):
            await worker.call()
            prompts.append(inputs_of(worker.requests[-1])["prompt"][0].decode())
        assert sorted(prompts) == ["[A][yes][B]", "[yes][C]"]
