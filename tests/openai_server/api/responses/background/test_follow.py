"""Followers of a background response, with a scripted store and a client that keeps what it gets."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.types import Message

from openai_server.api.responses.background import follow as module
from openai_server.api.responses.background.follow import follow
from openai_server.api.responses.background.news import News
from openai_server.api.services import Services
from openai_server.core.events import Content, Event, Finish
from openai_server.core.request_context import RequestContext
from openai_server.core.store_errors import ResponseNotFound, StoreAway
from openai_server.core.usage import Usage
from openai_server.http import sse
from openai_server.store.records import EventBatch, Progress, Status, StoredResponse
from tests.openai_server.api.responses.background.test_replay import BACKGROUND, body_of, recorded
from tests.openai_server.api.responses.output.streams import IDENTITY
from tests.openai_server.exchange import FakeExchange


def log_of(*texts: str) -> tuple[list[EventBatch], list[bytes]]:
    """A batch for each record of a response with these texts, and the events of its stream."""
    script: list[Sequence[Event]] = [*([Content(text)] for text in texts), [Finish("stop")]]
    response = recorded(script, Usage(3, 4, 1))
    lines = response.log.splitlines(keepends=True)
    return [EventBatch(i, record) for i, record in enumerate(lines)], response.stream


class ScriptedStore:
    """Returns what the test sets; each call of `progress` calls the next of `steps` before."""

    def __init__(self) -> None:
        self.status: Status = "queued"
        self.attempt = 0
        self.batches: list[EventBatch] = []
        self.body = body_of(BACKGROUND)
        self.delivered: list[int] = []
        self.is_gone = False
        self.steps: list[Any] = []
        self.refuses_attempt: int | None = None
        """The attempt that has been replaced when `deliver` is called for it."""

    async def progress(self, owner: str, id: str, attempt: int, number: int) -> Progress:
        if self.steps:
            self.steps.pop(0)()
        if self.is_gone:
            raise ResponseNotFound(id)
        after = number if attempt == self.attempt else -1
        response = StoredResponse(
            id=IDENTITY.id,
            owner=owner,
            created_at=IDENTITY.created,
            model=IDENTITY.model,
            status=self.status,
            body=self.body,
            is_background=True,
        )
        return Progress(response=response, attempt=self.attempt, batches=self.batches[after + 1 :][:2])

    async def deliver(self, owner: str, id: str, attempt: int) -> bool:
        self.delivered.append(attempt)
        return attempt != self.refuses_attempt

    def set(self, status: Status, attempt: int, batches: Sequence[EventBatch] = ()) -> Any:
        """A step that sets these."""

        def step() -> None:
            self.status, self.attempt, self.batches = status, attempt, list(batches)

        return step


@pytest.fixture(autouse=True)
def short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.001)


async def written(store: ScriptedStore, after: int | None = None) -> bytes:
    """The body of the stream. Pings are left out."""
    background = SimpleNamespace(news=News(), runner=SimpleNamespace(has=lambda id: False))
    services = SimpleNamespace(store=store, background=background, generator=SimpleNamespace(ping_interval=1000.0))
    context = RequestContext(access=cast(Any, SimpleNamespace(owner="", hold=lambda _: None)))
    response = await follow(cast(Services, services), context, IDENTITY.id, after)
    body = b""

    async def send(message: Message) -> None:
        nonlocal body
        body += message.get("body", b"")

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    await asyncio.wait_for(response(FakeExchange().scope, receive, send), 10)
    return body


async def test_a_follower_gets_each_event_once_however_they_are_stored() -> None:
    log, stream = log_of("a", "b", "c", "d")
    store = ScriptedStore()
    store.steps = [
        store.set("queued", 0),
        store.set("queued", 0),
        store.set("in_progress", 1),
        *(store.set("in_progress", 1, log[:n]) for n in range(1, len(log))),
        store.set("completed", 1, log),
    ]
    assert await written(store) == b"".join(stream) + sse.DONE
    assert store.delivered == [1]


async def test_nothing_is_recorded_as_delivered_before_the_first_output() -> None:
    log, stream = log_of("a")
    store = ScriptedStore()
    store.steps = [store.set("in_progress", 1, log[:1])] * 3 + [store.set("cancelled", 1, log[:1])]
    assert await written(store) == b"".join(stream[:3]) + sse.DONE
    assert store.delivered == []


async def test_a_response_that_has_ended_is_not_recorded_as_delivered() -> None:
    log, stream = log_of("a")
    store = ScriptedStore()
    store.set("completed", 1, log)()
    assert await written(store) == b"".join(stream) + sse.DONE
    assert store.delivered == []


async def test_the_next_attempt_is_rendered_from_the_event_that_the_client_has() -> None:
    """The first attempt was replaced when its first output was about to be sent."""
    (first, _), (second, stream) = log_of("lost"), log_of("kept")
    store = ScriptedStore()
    store.refuses_attempt = 1
    store.steps = [
        store.set("in_progress", 1, first[:1]),
        store.set("in_progress", 1, first[:3]),
        store.set("queued", 1),
        store.set("in_progress", 2, second[:2]),
        store.set("completed", 2, second),
    ]
    assert await written(store) == b"".join(stream) + sse.DONE
    assert store.delivered == [1, 2]


async def test_a_deleted_response_ends_with_an_error() -> None:
    log, stream = log_of("a", "b")
    store = ScriptedStore()

    def delete() -> None:
        store.is_gone = True

    store.steps = [store.set("in_progress", 1, log[:2]), store.set("in_progress", 1, log[:2]), delete]
    body = await written(store)
    sent = b"".join(stream[:6])
    assert body.startswith(sent)
    assert body[len(sent) :].startswith(
        b'event: error\ndata: {"type":"error","sequence_number":5,"code":"response_not_found"'
    )
    assert body.endswith(sse.DONE)


async def test_a_store_that_is_away_ends_the_stream_with_an_error() -> None:
    log, _ = log_of("a", "b")
    store = ScriptedStore()

    def lose() -> None:
        raise StoreAway

    store.steps = [store.set("in_progress", 1, log[:2]), store.set("in_progress", 1, log[:2]), lose]
    assert b'"code":"store_unavailable"' in await written(store)


async def test_a_failure_without_a_record_has_the_error_of_the_response() -> None:
    log, stream = log_of("a", "b")
    store = ScriptedStore()
    store.body = store.body.replace(b'"error":null', b'"error":{"code":"server_error","message":"It ended."}')
    store.set("failed", 2, log[:2])()
    body = await written(store, after=4)
    assert body.startswith(stream[5])
    assert body.count(b"\n\n") == 4
    assert b'"error":{"code":"server_error","message":"It ended."}' in body
