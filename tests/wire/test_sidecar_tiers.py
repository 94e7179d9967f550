"""`service_tier`, from HTTP to a scripted worker over real gRPC."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response

from openai_server.access.keys import ANYBODY
from openai_server.api.lines import Lines
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.wire.fake_worker import ALL_INPUTS, FakeWorker, first_token, inputs_of, last_token, streams, whole
from tests.wire.foreign_server import ForeignModel, ForeignServer, answer, serving
from tests.wire.sidecar import Reply, Sidecar, app_for, for_all, running

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "hi"}]},
    RESPONSES: {"input": "hi"},
}
PATHS = list(BODIES)
PLAIN = for_all("{{ messages[0].content }}")
URGENT, FLEX = [contract.URGENT_PRIORITY], [contract.FLEX_PRIORITY]
TIERS = [
    ("auto", "default", None),
    ("default", "default", None),
    ("scale", "default", None),
    ("flex", "flex", FLEX),
    ("priority", "priority", URGENT),
    ("fast", "priority", URGENT),
    ("ultrafast", "priority", URGENT),
]
MEMORY = "sqlite://"


class Doors(FakeWorker):
    """Answers each request when the test opens it, in the order of their arrival."""

    def __init__(self) -> None:
        super().__init__(self._wait)
        self._doors: list[asyncio.Event] = []

    async def _wait(self, _: ModelInferRequest) -> ModelInferResponse:
        door = asyncio.Event()
        self._doors.append(door)
        await door.wait()
        return whole("yes")

    async def next(self) -> list[int] | None:
        """Waits for the next request, and returns its priority."""
        await asyncio.wait_for(self.arrived.get(), 10)
        return inputs_of(self.requests[-1]).get("priority")

    def open(self, number: int) -> None:
        self._doors[number].set()


def plain(worker: FakeWorker, **config: Any) -> Any:
    return running(worker, chat_template=PLAIN, **config)


async def send(sidecar: Sidecar, path: str, **fields: Any) -> Reply:
    return await sidecar.send("POST", path, {**BODIES[path], **fields})


def start(sidecar: Sidecar, path: str, **fields: Any) -> Any:
    return sidecar.start("POST", path, {**BODIES[path], **fields})


async def n_waiting(sidecar: Sidecar, n: int) -> None:
    """Waits until `n` requests are in the queue for a slot."""
    async with asyncio.timeout(10):
        while sidecar.app.gate.admission.waiting != n:  # noqa: ASYNC110  # the queue has no event
            await asyncio.sleep(0.01)


async def ended(*calls: Any) -> list[Any]:
    """Returns the tiers of the responses."""
    await asyncio.wait_for(asyncio.gather(*(call.task for call in calls)), 10)
    return [call.reply.json.get("service_tier") for call in calls]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("requested", "reported", "priority"), TIERS)
async def test_a_tier_sets_the_priority_and_is_reported(
    path: str, requested: str, reported: str, priority: list[int] | None
) -> None:
    worker = FakeWorker()
    async with plain(worker) as sidecar:
        reply = await send(sidecar, path, service_tier=requested)
    (ChatCompletion if path == CHAT else Response).model_validate_json(reply.body, strict=True)
    assert reply.json["service_tier"] == reported
    assert inputs_of(worker.requests[0]).get("priority") == priority


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("requested", ["flex", "auto"])
async def test_a_stream_reports_the_tier(path: str, requested: str) -> None:
    reported = "flex" if requested == "flex" else "default"
    worker = FakeWorker(stream=streams(first_token("a"), last_token("b")))
    async with plain(worker) as sidecar:
        options = {"stream_options": {"include_usage": True}} if path == CHAT else {}
        reply = await send(sidecar, path, service_tier=requested, stream=True, **options)
    if path == CHAT:
        for event in reply.events:
            assert ChatCompletionChunk.model_validate(event, strict=True).service_tier == reported
    else:
        events = [json.loads(line[6:]) for line in reply.body.split(b"\n") if line.startswith(b"data: {")]
        tiers = {event["response"]["service_tier"] for event in events if "response" in event}
        assert tiers == {reported}
    assert inputs_of(worker.requests[0]).get("priority") == (FLEX if requested == "flex" else None)


@pytest.mark.parametrize("fields", [{}, {"service_tier": None}])
async def test_without_a_tier_a_chat_has_none_and_a_response_the_default(fields: dict[str, Any]) -> None:
    worker = FakeWorker(stream=streams(last_token("b")))
    async with plain(worker) as sidecar:
        chat, response = [await send(sidecar, path, **fields) for path in PATHS]
        stream = await send(sidecar, CHAT, stream=True, **fields)
    assert "service_tier" not in chat.json
    assert b"service_tier" not in stream.body
    assert response.json["service_tier"] == "default"
    assert all("priority" not in inputs_of(request) for request in worker.requests)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("value", ["turbo", "", "Flex", 1, {}, ["flex"]])
async def test_other_values_are_refused(path: str, value: object) -> None:
    worker = FakeWorker()
    async with plain(worker) as sidecar:
        reply = await send(sidecar, path, service_tier=value)
    assert (reply.status, reply.error["param"]) == (400, "service_tier")
    assert not worker.requests


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("requested", ["flex", "priority"])
async def test_a_model_without_priorities_gets_none(path: str, requested: str) -> None:
    worker = FakeWorker(inputs={*ALL_INPUTS} - {"priority"})
    async with plain(worker) as sidecar:
        reply = await send(sidecar, path, service_tier=requested)
        explicit = await send(sidecar, path, service_tier=requested, priority=1)
    assert (reply.status, reply.json["service_tier"]) == (200, requested)
    assert (explicit.status, explicit.error["param"]) == (400, "priority")


@pytest.mark.parametrize(
    ("tier", "priority", "sent"),
    [
        ("flex", 5, FLEX),
        ("flex", contract.FLEX_PRIORITY + 5, [contract.FLEX_PRIORITY + 5]),
        ("priority", 5, URGENT),
        ("default", 5, [5]),
        (None, contract.FLEX_PRIORITY, FLEX),
    ],
)
async def test_the_priority_of_a_request_stays_within_its_tier(tier: str, priority: int, sent: list[int]) -> None:
    worker = FakeWorker()
    async with plain(worker) as sidecar:
        await send(sidecar, CHAT, service_tier=tier, priority=priority)
        negative = await send(sidecar, CHAT, priority=-1)
    assert inputs_of(worker.requests[0])["priority"] == sent
    assert (negative.status, negative.error["param"]) == (400, "priority")


@pytest.mark.parametrize("path", PATHS)
async def test_further_priority_requests_run_as_default(path: str) -> None:
    worker = Doors()
    async with plain(worker, max_priority_requests=1) as sidecar:
        first = start(sidecar, path, service_tier="priority")
        assert await worker.next() == URGENT
        second = start(sidecar, path, service_tier="priority")
        assert await worker.next() is None
        worker.open(0)
        assert await ended(first) == ["priority"]
        third = start(sidecar, path, service_tier="priority")
        assert await worker.next() == URGENT
        worker.open(1)
        worker.open(2)
        assert await ended(second, third) == ["default", "priority"]


@pytest.mark.parametrize("path", PATHS)
async def test_further_flex_requests_are_refused(path: str) -> None:
    worker = Doors()
    async with plain(worker, max_flex_requests=1) as sidecar:
        first = start(sidecar, path, service_tier="flex")
        assert await worker.next() == FLEX
        refused = await send(sidecar, path, service_tier="flex")
        worker.open(0)
        assert await ended(first) == ["flex"]
        again = start(sidecar, path, service_tier="flex")
        assert await worker.next() == FLEX
        worker.open(1)
        assert await ended(again) == ["flex"]
    assert (refused.status, refused.error["code"]) == (429, "resource_unavailable")
    assert int(refused.headers["retry-after"]) >= 1


async def test_a_client_that_leaves_frees_its_place() -> None:
    worker = Doors()
    async with plain(worker, max_flex_requests=1) as sidecar:
        first = start(sidecar, CHAT, service_tier="flex")
        await worker.next()
        first.disconnect()
        await asyncio.wait_for(first.task, 10)
        start(sidecar, CHAT, service_tier="flex")
        assert await worker.next() == FLEX


async def test_flex_leaves_slots_to_others() -> None:
    worker = Doors()
    async with plain(worker, max_concurrency=2) as sidecar:
        flex = [start(sidecar, CHAT, service_tier="flex") for _ in range(2)]
        assert await worker.next() == FLEX
        chat = start(sidecar, CHAT)
        assert await worker.next() is None  # while the second one waits
        worker.open(0)
        assert await ended(flex[0]) == ["flex"]
        worker.open(1)
        await ended(chat)
        assert await worker.next() == FLEX
        worker.open(2)
        assert await ended(flex[1]) == ["flex"]


async def test_an_urgent_request_gets_the_next_slot() -> None:
    worker = Doors()
    async with plain(worker, max_concurrency=1) as sidecar:
        chats = [start(sidecar, CHAT, user=str(n)) for n in range(2)]
        await worker.next()
        await n_waiting(sidecar, 1)
        urgent = start(sidecar, CHAT, service_tier="priority")
        await n_waiting(sidecar, 2)
        worker.open(0)
        assert await worker.next() == URGENT
        worker.open(1)
        await ended(urgent)
        await worker.next()
        worker.open(2)
        await ended(*chats)


async def test_flex_that_gets_no_slot_gets_openais_error() -> None:
    worker = Doors()
    async with plain(worker, max_concurrency=2, max_queue=0) as sidecar:
        first = start(sidecar, CHAT, service_tier="flex")
        await worker.next()
        reply = await send(sidecar, CHAT, service_tier="flex")
        worker.open(0)
        await ended(first)
    assert (reply.status, reply.error["code"]) == (429, "resource_unavailable")


@pytest.mark.parametrize(("requested", "priority"), [("flex", FLEX), ("priority", URGENT)])
async def test_a_background_response_has_a_tier(requested: str, priority: list[int]) -> None:
    worker = FakeWorker(stream=streams(first_token("a"), last_token("b")))
    async with plain(worker, store=MEMORY, max_flex_requests=0, max_priority_requests=1) as sidecar:
        queued = await send(sidecar, RESPONSES, service_tier=requested, background=True)
        followed = await sidecar.get(f"{RESPONSES}/{queued.json['id']}?stream=true")
        final = (await sidecar.get(f"{RESPONSES}/{queued.json['id']}")).json
    assert followed.status == 200
    assert (queued.json["service_tier"], final["status"], final["service_tier"]) == (requested, "completed", requested)
    assert inputs_of(worker.requests[0])["priority"] == priority


async def test_a_stored_response_keeps_the_tier_in_which_it_ran() -> None:
    async with plain(FakeWorker(), store=MEMORY, max_priority_requests=0) as sidecar:
        id = (await send(sidecar, RESPONSES, service_tier="priority")).json["id"]
        assert (await sidecar.get(f"{RESPONSES}/{id}")).json["service_tier"] == "default"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("requested", ["flex", "priority", "auto"])
async def test_a_line_of_a_batch_keeps_its_tier(path: str, requested: str) -> None:
    worker = FakeWorker()
    async with plain(worker, max_flex_requests=0) as sidecar:
        lines = Lines(sidecar.app.services, sidecar.app.gate.enter_line)
        line = await lines.answer(path, json.dumps({**BODIES[path], "service_tier": requested}).encode(), ANYBODY)
    assert (line.status, json.loads(line.body)["service_tier"]) == (200, "default")
    assert inputs_of(worker.requests[0])["priority"] == [contract.BATCH_PRIORITY]


async def test_lines_wait_while_others_have_the_slots() -> None:
    worker = Doors()
    async with plain(worker, max_concurrency=1) as sidecar:
        chat = start(sidecar, CHAT)
        await worker.next()
        lines = Lines(sidecar.app.services, sidecar.app.gate.enter_line)
        line = asyncio.create_task(lines.answer(CHAT, json.dumps(BODIES[CHAT]).encode(), ANYBODY))
        await n_waiting(sidecar, 1)
        metrics = (await sidecar.get("/metrics")).body.decode()
        assert "\nopenai_server_requests_queued 0.0" in metrics
        assert "\nopenai_server_requests_deferred 1.0" in metrics
        worker.open(0)
        await ended(chat)
        assert await worker.next() == [contract.BATCH_PRIORITY]
        worker.open(1)
        assert (await asyncio.wait_for(line, 10)).status == 200


# ---- Models of other servers


@pytest.mark.parametrize(
    ("place", "alone", "explicit"),
    [
        ('{ tensor = "rank" }', [contract.BATCH_PRIORITY], [contract.BATCH_PRIORITY]),
        ('{ tensor = "rank", max = 100 }', None, [7]),
        ('{ tensor = "rank", type = "INT16" }', None, [7]),
    ],
)
async def test_a_number_that_a_model_cannot_hold_is_not_sent(
    place: str, alone: list[int] | None, explicit: list[int], tmp_path: Path
) -> None:
    mapping = tmp_path / "own.toml"
    mapping.write_text(f'models = ["m"]\n[inputs]\nprompt = "p"\npriority = {place}\n[outputs]\ntext = "t"\n')
    datatype = "INT16" if "INT16" in place else "INT32"
    model = ForeignModel(
        inputs=f"p:BYTES rank:{datatype}", outputs="t:BYTES", decoupled=False, answers=[answer(t="yes")]
    )
    server = ForeignServer("triton", m=model)
    async with serving(server) as port, app_for(port, mapping=(mapping,)) as sidecar:
        lines = Lines(sidecar.app.services, sidecar.app.gate.enter_line)
        for fields in ({}, {"priority": 7}):
            line = await lines.answer("/v1/completions", json.dumps({"prompt": "hi", **fields}).encode(), ANYBODY)
            assert line.status == 200
    assert [inputs_of(request).get("rank") for request in server.requests] == [alone, explicit]
