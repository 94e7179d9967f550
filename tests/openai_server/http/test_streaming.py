"""Streamed responses, with a fake of ASGI's server side."""

import asyncio
import json
import logging

import pytest
from starlette.types import Message

from openai_server.core.errors import InvalidRequest
from openai_server.http import sse
from openai_server.http.streaming import ClientGone, EventStream, EventWriter, unless_gone
from tests.openai_server.exchange import FakeExchange

HEADERS = [(b"content-type", b"text/event-stream")]
START = {"type": "http.response.start", "status": 200, "headers": HEADERS}


class Client:
    """ASGI's server side for one request."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.is_sending = asyncio.Event()
        self.exchange = FakeExchange()

    async def send(self, message: Message) -> None:
        self.messages.append(message)
        self.is_sending.set()
        await self.reads.wait()

    async def receive(self) -> Message:
        raise AssertionError("nothing is received")

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)

    @property
    def types(self) -> list[str]:
        return [message["type"].removeprefix("http.response.") for message in self.messages]


# ---- EventWriter


async def test_the_head_is_sent_once_with_the_first_events() -> None:
    client = Client()
    writer = EventWriter(client.send, HEADERS, client.exchange)
    assert not writer.is_started
    assert not client.messages
    await writer.write(b"1")
    assert writer.is_started
    await writer.write(b"2", more=False)
    assert client.messages == [
        START,
        {"type": "http.response.body", "body": b"1", "more_body": True},
        {"type": "http.response.body", "body": b"2", "more_body": False},
    ]


# ---- EventStream


async def answered(stream: EventStream, client: Client) -> None:
    await stream(client.exchange.scope, client.receive, client.send)


async def test_a_stream_has_the_written_and_the_returned_events() -> None:
    async def events(writer: EventWriter) -> bytes:
        await writer.write(b"1")
        return b"2"

    client = Client()
    await answered(EventStream(events), client)
    assert client.types == ["start", "body", "body"]
    assert [message.get("more_body") for message in client.messages] == [None, True, False]
    assert client.body == b"12"
    names = [name for name, _ in client.messages[0]["headers"]]
    assert b"content-type" in names
    assert b"content-length" not in names


async def test_a_stream_may_write_at_once_where_the_server_can() -> None:
    client = Client()

    async def events(writer: EventWriter) -> bytes:
        await writer.write(b"1")
        writer.exchange.write_now(b"2")
        return b""

    await answered(EventStream(events), client)
    assert client.exchange.written == [b"2"]


async def test_an_error_before_the_first_event_is_raised_and_nothing_is_sent() -> None:
    async def events(_: EventWriter) -> bytes:
        raise InvalidRequest("no")

    client, stream = Client(), EventStream(events)
    with pytest.raises(InvalidRequest):
        await answered(stream, client)
    assert not client.messages
    assert not stream.is_started


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [(InvalidRequest("no"), 400, "no"), (ValueError("secret"), 500, "The server failed to process the request.")],
)
async def test_an_error_after_the_first_event_is_the_last_event(
    error: Exception, status: int, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def events(writer: EventWriter) -> bytes:
        await writer.write(b"1")
        raise error

    client, stream = Client(), EventStream(events)
    await answered(stream, client)
    assert client.types == ["start", "body", "body"]
    assert client.messages[-1]["more_body"] is False
    last = client.messages[-1]["body"]
    assert last.endswith(sse.DONE)
    assert json.loads(last.removeprefix(sse.DATA).partition(b"\n")[0])["error"]["message"] == message
    assert (stream.status_code, stream.is_started) == (status, True)
    assert [line.levelno for line in caplog.records] == ([logging.ERROR] if status == 500 else [])


async def test_a_disconnect_cancels_the_work_and_nothing_more_is_sent() -> None:
    was_cancelled = False
    client = Client()

    async def events(writer: EventWriter) -> bytes:
        nonlocal was_cancelled
        await writer.write(b"1")
        asyncio.get_running_loop().call_soon(client.exchange.leave)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            was_cancelled = True
            raise
        raise AssertionError

    stream = EventStream(events)
    await answered(stream, client)
    assert was_cancelled
    assert (client.body, stream.status_code) == (b"1", 499)


async def endless(writer: EventWriter) -> bytes:
    await writer.write(b"1")
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_stream_that_is_cancelled_midway_ends_with_an_event() -> None:
    client, stream = Client(), EventStream(endless)
    task = asyncio.create_task(answered(stream, client))
    await client.is_sending.wait()
    task.cancel()
    await task
    assert b"shutting down" in client.messages[-1]["body"]
    assert client.messages[-1]["more_body"] is False
    assert stream.status_code == 503


async def test_a_stream_that_is_cancelled_before_its_first_event_sends_nothing() -> None:
    is_working = asyncio.Event()

    async def events(_: EventWriter) -> bytes:
        is_working.set()
        await asyncio.Event().wait()
        raise AssertionError

    client = Client()
    task = asyncio.create_task(answered(EventStream(events), client))
    await is_working.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not client.messages


async def test_a_stream_cancelled_during_its_last_send_has_the_status_of_the_cancellation() -> None:
    client = Client()

    async def events(writer: EventWriter) -> bytes:
        await writer.write(b"1")
        client.reads.clear()
        client.is_sending.clear()
        return b"2"

    stream = EventStream(events)
    task = asyncio.create_task(answered(stream, client))
    await client.is_sending.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (stream.status_code, stream.is_started) == (503, True)


# ---- unless_gone


async def test_a_disconnect_does_not_cancel_the_task() -> None:
    exchange = FakeExchange()
    asyncio.get_running_loop().call_soon(exchange.leave)
    with pytest.raises(ClientGone):
        await unless_gone(exchange.scope, asyncio.Event().wait())
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_no_work_is_started_for_a_disconnected_client() -> None:
    exchange, is_started = FakeExchange(), False
    exchange.leave()

    async def work() -> None:
        nonlocal is_started
        is_started = True

    with pytest.raises(ClientGone):
        await unless_gone(exchange.scope, work())
    assert not is_started


async def test_a_cancellation_by_the_server_takes_precedence_over_a_disconnect() -> None:
    exchange = FakeExchange()
    is_cancelled = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:  # by the disconnect
            is_cancelled.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(unless_gone(exchange.scope, work()))
    await asyncio.sleep(0)
    exchange.leave()
    await is_cancelled.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("fails", [False, True])
async def test_disconnects_are_not_watched_after_the_work(fails: bool) -> None:
    exchange = FakeExchange()

    async def work() -> int:
        await asyncio.sleep(0)
        if fails:
            raise InvalidRequest("no")
        return 1

    try:
        assert await unless_gone(exchange.scope, work()) == 1
    except InvalidRequest:
        assert fails
    assert not exchange.is_watched
