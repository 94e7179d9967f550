"""`/v1/responses` with a store, over real gRPC: what the model reads, what is stored, and when."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from openai.types.responses import Response

from openai_server.api.responses.output.writer import ResponsesWriter
from openai_server.api.responses.settings import ResponsesRequest
from openai_server.api.responses.storage import history, keeping
from openai_server.core.store_errors import StoreAway, StoreQuotaExceeded
from openai_server.store.records import Item, NewResponse
from openai_server.store.store import Store
from protos import contract
from tests.openai_server.api.responses.output.streams import EXTENSIONS
from tests.ops.able_worker import PARAMETERS, able_worker
from tests.shapes import exact
from tests.wire.fake_worker import (
    FakeWorker,
    Refusal,
    answers,
    hangs_midway,
    inputs_of,
    last_token,
    refuses,
    streams,
    token,
    whole,
)
from tests.wire.sidecar import Reply, Sidecar, running

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}:{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<{{ c.function.name }}{{ c.function.arguments }}>{% endfor %}]{% endfor %}"
)
MEMORY = "sqlite://"


def worker_that_says(*texts: str, **settings: Any) -> FakeWorker:
    """A worker that answers whole requests with these texts, one after the other, and streams the words "a", " b"."""
    replies = answers(*(whole(text) for text in texts or ("yes",)))
    stream = settings.pop("stream", streams(token("a"), token(" b"), last_token()))
    return FakeWorker(replies, stream, parameters={"chat_template": TEMPLATE}, **settings)


@asynccontextmanager
async def storing(worker: FakeWorker | None = None, **config: Any) -> AsyncIterator[tuple[Sidecar, FakeWorker]]:
    worker = worker or worker_that_says()
    async with running(worker, store=MEMORY, **config) as sidecar:
        yield sidecar, worker


async def respond(sidecar: Sidecar, input: Any = "hi", headers: Mapping[str, str] | None = None, **body: Any) -> Reply:
    return await sidecar.send("POST", "/v1/responses", {"input": input, **body}, headers)


async def created(sidecar: Sidecar, input: Any = "hi", **body: Any) -> Any:
    reply = await respond(sidecar, input, **body)
    assert reply.status == 200, reply.body
    exact(Response, reply.json, EXTENSIONS)
    return reply.json


async def conversation(sidecar: Sidecar, **body: Any) -> str:
    reply = await sidecar.send("POST", "/v1/conversations", body)
    assert reply.status == 200, reply.body
    return str(reply.json["id"])


async def items(sidecar: Sidecar, id: str) -> list[Any]:
    """Returns the items of a conversation as pairs of role or type and text."""
    reply = await sidecar.get(f"/v1/conversations/{id}/items?order=asc&limit=100")
    return [(item.get("role", item["type"]), text_of(item)) for item in reply.json["data"]]


def text_of(item: Mapping[str, Any]) -> str:
    return "".join(part["text"] for part in item.get("content") or ()) + str(item.get("output", ""))


def prompt_of(worker: FakeWorker) -> str:
    """Returns the prompt of the last request."""
    return str(inputs_of(worker.requests[-1])["prompt"][0].decode())


# ---- History


async def test_a_response_continues_another_one() -> None:
    async with storing(worker_that_says("one", "two", "three", "four")) as (sidecar, worker):
        first = await created(sidecar, "A", instructions="Be brief.")
        assert (first["store"], first["previous_response_id"]) == (True, None)
        assert prompt_of(worker) == "[system:Be brief.][user:A]"
        second = await created(sidecar, "B", previous_response_id=first["id"])
        assert second["previous_response_id"] == first["id"]
        assert prompt_of(worker) == "[user:A][assistant:one][user:B]", "instructions are those of the request"
        await created(sidecar, "C", previous_response_id=second["id"], instructions="Now!")
        assert prompt_of(worker) == "[system:Now!][user:A][assistant:one][user:B][assistant:two][user:C]"
        await created(sidecar, "D", previous_response_id=first["id"])
        assert prompt_of(worker) == "[user:A][assistant:one][user:D]", "a branch"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_is_stored_as_it_was_returned(stream: bool) -> None:
    async with storing() as (sidecar, _):
        reply = await respond(sidecar, stream=stream, metadata={"a": "b"})
        response = reply.events[-1]["response"] if stream else reply.json
        assert response["store"] is True
        stored = (await sidecar.get(f"/v1/responses/{response['id']}")).json
        assert stored == response
        exact(Response, stored, EXTENSIONS)


async def test_a_tool_call_and_its_result_are_continued() -> None:
    texts = ['<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>', "done"]

    async def stream(_: Any) -> AsyncIterator[Any]:
        yield token(texts.pop(0))
        yield last_token()

    worker = FakeWorker(stream=stream, parameters=PARAMETERS)
    tools = [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}]
    async with storing(worker) as (sidecar, _):
        first = await created(sidecar, "go", tools=tools)
        [item] = [item for item in first["output"] if item["type"] == "function_call"]
        result = {"type": "function_call_output", "call_id": item["call_id"], "output": "sunny"}
        second = await created(sidecar, [result], tools=tools, previous_response_id=first["id"])
        assert second["output"][0]["content"][0]["text"] == "done"
        prompt = prompt_of(worker)
        assert prompt.index("go") < prompt.index('"x":') < prompt.index("sunny")


async def test_compacting_continues_too() -> None:
    async with storing(worker_that_says("one", "the summary")) as (sidecar, worker):
        first = await created(sidecar, "A")
        body = {"previous_response_id": first["id"], "model": "tiny"}
        compacted = await sidecar.send("POST", "/v1/responses/compact", body)
        assert compacted.status == 200, compacted.body
        assert prompt_of(worker).startswith("[user:A][assistant:one][user:Summarize")
        user, summary = compacted.json["output"]
        assert (text_of(user), summary["type"]) == ("A", "compaction")
        assert (await sidecar.get(f"/v1/responses/{compacted.json['id']}")).status == 404


async def test_counting_continues_too() -> None:
    async with storing(able_worker()) as (sidecar, worker):
        first = await created(sidecar, "A")
        body = {"previous_response_id": first["id"], "input": "B"}
        counted = await sidecar.send("POST", "/v1/responses/input_tokens", body)
        assert counted.status == 200, counted.body
        [text] = inputs_of(worker.requests[-1])[contract.TEXT_TO_TOKENIZE.name]
        assert text.decode().startswith("user: A\nassistant: well")
        assert text.decode().endswith("user: B\n")


async def test_a_summary_replaces_the_items_before_it() -> None:
    async with storing(worker_that_says("one", "the summary", "two", "three")) as (sidecar, worker):
        first = await created(sidecar, "A")
        second = await created(sidecar, [{"type": "compaction_trigger"}], previous_response_id=first["id"])
        assert second["output"][0]["type"] == "compaction"
        third = await created(sidecar, "B", previous_response_id=second["id"])
        assert "the summary" in prompt_of(worker)
        assert "one" not in prompt_of(worker)
        await created(sidecar, "C", previous_response_id=third["id"])
        assert prompt_of(worker).endswith("the summary][user:B][assistant:two][user:C]")
        listed = await sidecar.get(f"/v1/responses/{third['id']}/input_items?order=asc")
        assert [text_of(item) for item in listed.json["data"]] == ["A", "one", "", "B"]


async def test_items_are_referred_to_by_their_ids() -> None:
    """The AI SDK sends the answers of earlier turns as references."""
    async with storing(worker_that_says("one", "two", "three", "four")) as (sidecar, worker):
        first = await created(sidecar, "A")
        answer = first["output"][0]["id"]
        history = [{"role": "user", "content": "A"}, {"type": "item_reference", "id": answer}]
        second = await created(sidecar, [*history, {"role": "user", "content": "B"}])
        assert prompt_of(worker) == "[user:A][assistant:one][user:B]"
        listed = await sidecar.get(f"/v1/responses/{second['id']}/input_items?order=asc")
        assert [text_of(item) for item in listed.json["data"]] == ["A", "one", "B"]
        await created(sidecar, [{"id": answer}, {"role": "user", "content": "C"}], previous_response_id=first["id"])
        assert prompt_of(worker) == "[user:A][assistant:one][user:C]", "it is part of the history"
        unknown = await respond(sidecar, [*history, {"type": "item_reference", "id": "msg_nowhere"}])
        assert (unknown.status, unknown.error["param"], unknown.error["code"]) == (404, "input[2]", "item_not_found")


async def test_what_does_not_exist_cannot_be_continued() -> None:
    async with storing() as (sidecar, worker):
        for name, code in (("previous_response_id", "previous_response_not_found"), ("conversation", None)):
            reply = await sidecar.send("POST", "/v1/responses", {"input": "hi", name: "x_1"})
            assert (reply.status, reply.error["param"]) == (404, name)
            assert reply.error["code"] == code or code is None
        assert not worker.requests


async def test_a_history_has_a_limit() -> None:
    limits = {"max_body_bytes": 4096, "max_inflight_body_bytes": 1 << 20}
    async with storing(worker_that_says("x" * 3000), **limits) as (sidecar, worker):
        first = await created(sidecar)
        second = await created(sidecar, previous_response_id=first["id"])
        reply = await respond(sidecar, previous_response_id=second["id"])
        assert reply.status == 400
        assert (reply.error["param"], reply.error["code"]) == ("previous_response_id", "context_length_exceeded")
        assert len(worker.requests) == 2


async def test_a_large_history_is_read_beside_the_event_loop() -> None:
    async with storing(worker_that_says("x" * 50_000, "two")) as (sidecar, worker):
        first = await created(sidecar, "A")
        await created(sidecar, "B", previous_response_id=first["id"])
        assert prompt_of(worker) == f"[user:A][assistant:{'x' * 50_000}][user:B]"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("body", [{}, {"background": True}])
async def test_a_large_input_is_prepared_for_the_store_beside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch, body: dict[str, Any], stream: bool
) -> None:
    threads = []

    def record(request: ResponsesRequest) -> Sequence[Item]:
        threads.append(threading.current_thread())
        return input_items(request)

    input_items = history._input_items
    monkeypatch.setattr(history, "_input_items", record)
    async with storing() as (sidecar, _):
        for size, is_beside in ((10, False), (50_000, True)):
            assert (await respond(sidecar, "x" * size, stream=stream, **body)).status == 200
            assert (threads.pop() is not threading.main_thread()) == is_beside
    assert not threads


async def test_errors_name_the_items_of_the_request() -> None:
    async with storing() as (sidecar, _):
        first = await created(sidecar, [{"role": "user", "content": str(i)} for i in range(3)])
        tools = {"type": "additional_tools", "role": "developer", "tools": [{"type": "function", "name": "a b"}]}
        reply = await respond(sidecar, [{"role": "user", "content": "x"}, tools], previous_response_id=first["id"])
        assert reply.status == 400
        assert str(reply.error["param"]).startswith("input[1].tools[0]")


# ---- Conversations


async def test_a_conversation_gets_input_and_output_once() -> None:
    async with storing(worker_that_says("one", "two")) as (sidecar, worker):
        id = await conversation(sidecar, items=[{"role": "system", "content": "S"}])
        first = await created(sidecar, "A", conversation=id)
        assert first["conversation"] == {"id": id}
        assert prompt_of(worker) == "[system:S][user:A]"
        assert await items(sidecar, id) == [("system", "S"), ("user", "A"), ("assistant", "one")]
        await created(sidecar, "B", conversation={"id": id})
        assert prompt_of(worker) == "[system:S][user:A][assistant:one][user:B]"
        assert [text for _, text in await items(sidecar, id)] == ["S", "A", "one", "B", "two"]
        await created(sidecar, "C", previous_response_id=first["id"])
        assert prompt_of(worker) == "[system:S][user:A][assistant:one][user:C]", "the conversation as it was"


async def test_a_streamed_response_is_appended_before_it_is_announced() -> None:
    async with storing() as (sidecar, _):
        id = await conversation(sidecar)
        call = sidecar.start("POST", "/v1/responses", {"input": "A", "conversation": id, "stream": True})
        await call.until(b"event: response.completed")
        assert await items(sidecar, id) == [("user", "A"), ("assistant", "a b")]
        await call.task


async def test_a_conversation_gets_the_items_of_a_response_that_is_not_stored() -> None:
    async with storing() as (sidecar, _):
        id = await conversation(sidecar)
        first = await created(sidecar, "A", conversation=id, store=False)
        assert first["store"] is False
        assert (await sidecar.get(f"/v1/responses/{first['id']}")).status == 404
        events = (await respond(sidecar, "B", conversation=id, store=False, stream=True)).events
        assert events[-1]["response"]["store"] is False
        assert [text for _, text in await items(sidecar, id)] == ["A", "yes", "B", "a b"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failed_response_adds_nothing_to_its_conversation(stream: bool) -> None:
    refusal = Refusal("INTERNAL", "broken")
    worker = FakeWorker(refuses(refusal), streams(token("a"), fails=refusal), parameters={"chat_template": TEMPLATE})
    async with storing(worker) as (sidecar, _):
        id = await conversation(sidecar)
        await respond(sidecar, "A", conversation=id, stream=stream)
        assert await items(sidecar, id) == []


# ---- What is stored


async def test_a_response_in_progress_can_be_retrieved() -> None:
    async with storing(worker_that_says(stream=hangs_midway)) as (sidecar, _):
        call = sidecar.start("POST", "/v1/responses", {"input": "A", "stream": True})
        await call.until(b"one")
        begun = json.loads(call.reply.body.split(b"data: ")[1].split(b"\n\n")[0])["response"]
        stored = (await sidecar.get(f"/v1/responses/{begun['id']}")).json
        assert stored == begun
        assert stored["status"] == "in_progress"
        reply = await respond(sidecar, previous_response_id=begun["id"])
        assert (reply.status, reply.error["code"]) == (400, "previous_response_not_finished")
        call.disconnect()
        await call.task


async def test_what_a_client_leaves_is_stored_as_cancelled() -> None:
    async with storing(worker_that_says("more", stream=hangs_midway)) as (sidecar, worker):
        id = await conversation(sidecar)
        call = sidecar.start("POST", "/v1/responses", {"input": "A", "stream": True, "conversation": id})
        await call.until(b"one")
        call.disconnect()
        await call.task
        assert await asyncio.wait_for(worker.cancelled.get(), 5)
        while sidecar.app.services.storing:
            await asyncio.wait(sidecar.app.services.storing)
        begun = json.loads(call.reply.body.split(b"data: ")[1].split(b"\n\n")[0])["response"]
        stored = (await sidecar.get(f"/v1/responses/{begun['id']}")).json
        exact(Response, stored, EXTENSIONS)
        assert (stored["status"], stored["output"][0]["status"]) == ("cancelled", "incomplete")
        assert text_of(stored["output"][0]) == "one"
        assert await items(sidecar, id) == []
        await created(sidecar, "B", previous_response_id=begun["id"])
        assert prompt_of(worker) == "[user:A][assistant:one][user:B]"


async def test_a_stream_that_fails_is_stored_as_failed() -> None:
    worker = worker_that_says(stream=streams(token("a"), fails=Refusal("INTERNAL", "broken")))
    async with storing(worker) as (sidecar, _):
        events = (await respond(sidecar, stream=True)).events
        failed = events[-1]["response"]
        assert failed["status"] == "failed"
        assert (await sidecar.get(f"/v1/responses/{failed['id']}")).json == failed


async def test_a_stream_that_fails_for_an_unknown_reason_is_stored_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ResponsesWriter, "_closed", fail)
    async with storing() as (sidecar, _):
        failed = (await respond(sidecar, stream=True)).events[-1]["response"]
        stored = (await sidecar.get(f"/v1/responses/{failed['id']}")).json
        assert (stored["status"], stored["error"]["code"]) == ("failed", "server_error")


async def test_a_stream_that_fails_before_its_first_event_leaves_nothing() -> None:
    worker = worker_that_says(stream=streams(fails=Refusal("INTERNAL", "broken")))
    async with storing(worker) as (sidecar, _):
        assert (await respond(sidecar, stream=True)).status >= 500
        sizes = await store_of(sidecar).sizes()
        assert (sizes.responses, sizes.running, sizes.bytes) == (0, 0, 0)


async def test_an_incomplete_response_is_continued() -> None:
    worker = FakeWorker(answers(whole("cut", reason="length"), whole("yes")), parameters={"chat_template": TEMPLATE})
    async with storing(worker) as (sidecar, _):
        id = await conversation(sidecar)
        first = await created(sidecar, "A", conversation=id)
        assert first["status"] == "incomplete"
        await created(sidecar, "B", conversation=id)
        assert prompt_of(worker) == "[user:A][assistant:cut][user:B]"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_need_not_be_stored(stream: bool) -> None:
    async with storing() as (sidecar, _):
        first = await created(sidecar, "A")
        reply = await respond(sidecar, store=False, stream=stream, previous_response_id=first["id"])
        response = reply.events[-1]["response"] if stream else reply.json
        assert (response["store"], response["previous_response_id"]) == (False, first["id"])
        assert (await sidecar.get(f"/v1/responses/{response['id']}")).status == 404
        assert (await store_of(sidecar).sizes()).responses == 1


async def test_a_response_that_is_deleted_while_it_streams_stays_deleted() -> None:
    release = asyncio.Event()

    async def stream(_: Any) -> AsyncIterator[Any]:
        yield token("a")
        await release.wait()
        yield last_token()

    async with storing(worker_that_says(stream=stream)) as (sidecar, _):
        call = sidecar.start("POST", "/v1/responses", {"input": "A", "stream": True})
        await call.until(b'"delta":"a"')
        id = json.loads(call.reply.body.split(b"data: ")[1].split(b"\n\n")[0])["response"]["id"]
        assert (await sidecar.send("DELETE", f"/v1/responses/{id}")).status == 200
        release.set()
        await call.task
        assert call.reply.events[-1]["response"]["store"] is False
        assert (await sidecar.get(f"/v1/responses/{id}")).status == 404
        assert (await store_of(sidecar).sizes()).bytes == 0


async def test_a_summary_outlives_the_process_that_sealed_it(tmp_path: Path) -> None:
    worker, url = worker_that_says("one", "the summary", "two"), f"sqlite:///{tmp_path}/store.db"
    async with running(worker, store=url) as sidecar:
        first = await created(sidecar, "A")
        second = await created(sidecar, [{"type": "compaction_trigger"}], previous_response_id=first["id"])
    async with running(worker, store=url) as sidecar:
        await created(sidecar, "B", previous_response_id=second["id"])
        assert prompt_of(worker).endswith("the summary][user:B]")


# ---- Owners


async def test_a_response_belongs_to_the_name_of_its_key(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("alice: key-a\nalice: key-b\nbob: key-c\n")
    a, b, c = ({"authorization": f"Bearer key-{name}"} for name in "abc")
    async with storing(api_key_file=keys) as (sidecar, _):
        first = (await respond(sidecar, "A", a)).json
        assert (await respond(sidecar, "B", b, previous_response_id=first["id"])).status == 200
        assert (await respond(sidecar, "B", c, previous_response_id=first["id"])).status == 404
        reference = [{"type": "item_reference", "id": first["output"][0]["id"]}, {"role": "user", "content": "x"}]
        assert (await respond(sidecar, reference, b)).status == 200
        assert (await respond(sidecar, reference, c)).status == 404
        for headers, status in ((b, 200), (c, 404)):
            assert (await sidecar.send("GET", f"/v1/responses/{first['id']}", None, headers)).status == status


# ---- Without a store


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"background": True}, "background"),
        ({"input": [{"role": "user", "content": "x"}, {"id": "msg_1"}]}, "input[1]"),
    ],
)
@pytest.mark.parametrize("path", ["", "/compact", "/input_tokens"])
async def test_without_a_store_nothing_can_be_continued(body: dict[str, Any], param: str, path: str) -> None:
    worker = worker_that_says()
    async with running(worker) as sidecar:
        reply = await sidecar.send("POST", f"/v1/responses{path}", {"input": "hi", "model": "tiny", **body})
        assert (reply.status, reply.error["param"]) == (400, param)
        assert "stores nothing" in reply.error["message"] or path == "/compact"
        assert (await respond(sidecar, store=True)).json["store"] is False


class Failing:
    """Makes the methods of a store raise an error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: type[Exception], *names: str) -> None:
        async def fail(*_: Any, **__: Any) -> None:
            raise error("too much") if error is StoreQuotaExceeded else error()

        for name in names:
            monkeypatch.setattr(Store, name, fail)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("failing", [("begin", "finish"), ("finish",)])
@pytest.mark.parametrize(("error", "status"), [(StoreAway, 503), (StoreQuotaExceeded, 403)])
async def test_only_requests_that_need_the_store_fail_with_it(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], status: int, failing: tuple[str, ...], stream: bool
) -> None:
    async with storing() as (sidecar, _):
        first = await created(sidecar)
        Failing(monkeypatch, error, *failing)
        reply = await respond(sidecar, stream=stream)
        response = reply.events[-1]["response"] if stream else reply.json
        assert (response["status"], response["store"]) == ("completed", False)
        for body in ({"store": True}, {"previous_response_id": first["id"]}):
            reply = await respond(sidecar, stream=stream, **body)
            if stream and "begin" not in failing:
                assert reply.events[-1]["response"]["status"] == "failed"
            else:
                assert reply.status == status
        monkeypatch.undo()


@pytest.mark.parametrize(("slow", "stream"), [("begin", True), ("finish", True), ("finish", False)])
async def test_only_requests_that_need_the_store_wait_for_it(
    monkeypatch: pytest.MonkeyPatch, slow: str, stream: bool
) -> None:
    """A response that was announced as not stored is deleted if a slow store has stored it in the end."""
    method, may_go_on, ids = getattr(Store, slow), asyncio.Event(), asyncio.Queue[str]()

    async def wait(self: Store, response: NewResponse, *args: Any, **kwargs: Any) -> None:
        await may_go_on.wait()
        await method(self, response, *args, **kwargs)
        ids.put_nowait(response.id)

    monkeypatch.setattr(keeping, "OPTIONAL_SECONDS", 0.5)  # `begin` takes less
    monkeypatch.setattr(Store, slow, wait)
    async with storing() as (sidecar, _):
        reply = await respond(sidecar, stream=stream)
        response = reply.events[-1]["response"] if stream else reply.json
        assert (response["status"], response["store"]) == ("completed", False)
        needed = sidecar.start("POST", "/v1/responses", {"input": "hi", "stream": stream, "store": True})
        may_go_on.set()
        async with asyncio.timeout(10):
            while await ids.get() != response["id"]:
                pass
        while tasks := sidecar.app.services.storing:
            await asyncio.wait_for(asyncio.wait(tasks), 10)
        assert (await sidecar.get(f"/v1/responses/{response['id']}")).status == 404
        await asyncio.wait_for(needed.task, 10)
        response = needed.reply.events[-1]["response"] if stream else needed.reply.json
        assert response["store"] is True
        assert (await sidecar.get(f"/v1/responses/{response['id']}")).status == 200


@pytest.mark.parametrize(
    "body",
    [
        {"store": True},
        {"previous_response_id": "first"},
        {"conversation": "conversation"},
        {"conversation": "conversation", "store": False},
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_that_can_not_be_stored_is_not_generated(body: dict[str, Any], stream: bool) -> None:
    async with storing(store_max_objects=2) as (sidecar, worker):
        ids = {"first": (await created(sidecar))["id"], "conversation": await conversation(sidecar)}
        n_requests = len(worker.requests)
        named = {name: ids.get(str(value), value) for name, value in body.items()}
        reply = await respond(sidecar, stream=stream, **named)
        assert (reply.status, reply.error["code"]) == (403, "store_quota_exceeded")
        assert len(worker.requests) == n_requests
        default = await respond(sidecar, stream=stream)
        assert (default.events[-1]["response"] if stream else default.json)["store"] is False


async def test_a_store_that_is_known_to_be_away_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    async with storing() as (sidecar, worker):
        first = await created(sidecar)
        n_requests = len(worker.requests)
        monkeypatch.setattr(Store, "is_away", True)
        for body in ({"store": True}, {"previous_response_id": first["id"]}, {"background": True}):
            reply = await respond(sidecar, **body)
            assert (reply.status, reply.error["code"]) == (503, "store_unavailable")
        assert len(worker.requests) == n_requests
        assert (await created(sidecar))["store"] is False
        ready = await sidecar.get("/readyz")
        assert (ready.status, ready.json) == (200, {"status": "ok", "store": "unavailable"})
        monkeypatch.undo()
        assert (await sidecar.get("/readyz")).json == {"status": "ok", "store": "ok"}


def store_of(sidecar: Sidecar) -> Store:
    store = sidecar.app.services.store
    assert store is not None
    return store
