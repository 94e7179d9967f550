"""Writes of an answer to the transport, and whether events may be written without waiting."""

import asyncio
import logging
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl

from openai_server.http.answering import Cycle, adapt

START = {"type": "http.response.start", "status": 200, "headers": [(b"a", b"1")]}
HEAD = b"HTTP/1.1 200 OK\r\na: 1\r\n"


class Transport:
    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.is_closed = False
        self.is_reading = True

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True


def cycle(method: str = "POST", version: str = "1.1", *, keep_alive: bool = True) -> tuple[Cycle, Transport]:
    transport = Transport()
    scope: Any = {"type": "http", "method": method, "http_version": version}
    cycle = Cycle(
        scope=scope,
        transport=transport,  # type: ignore[arg-type]  # all of it that a cycle uses
        flow=FlowControl(transport),  # type: ignore[arg-type]
        logger=logging.getLogger(),
        access_logger=logging.getLogger(),
        access_log=False,
        default_headers=[],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=keep_alive,
        on_response=lambda: None,
    )
    if version == "1.0":
        adapt(cycle)
    return cycle, transport


def body(data: bytes, *, more: bool = False) -> Any:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def test_head_and_body_are_one_write() -> None:
    answer, transport = cycle()
    await answer.send({**START, "headers": [(b"a", b"1"), (b"content-length", b"2")]})
    assert not transport.writes
    await answer.send(body(b"ok"))
    assert transport.writes == [HEAD + b"content-length: 2\r\n\r\nok"]


async def test_the_head_of_a_stream_is_written_with_its_first_event() -> None:
    answer, transport = cycle()
    await answer.send(START)
    for event in (b"one", b"two"):
        await answer.send(body(event, more=True))
    await answer.send(body(b"", more=False))
    chunks = [b"3\r\none\r\n", b"3\r\ntwo\r\n", b"0\r\n\r\n"]
    assert transport.writes == [HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunks[0], *chunks[1:]]


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("OPTIONS", 204)])
async def test_the_head_of_an_answer_without_a_body_is_written(method: str, status: int) -> None:
    answer, transport = cycle(method)
    await answer.send({**START, "status": status})
    await answer.send(body(b""))
    assert b"".join(transport.writes).startswith(b"HTTP/1.1 %d " % status)
    assert b"".join(transport.writes).endswith(b"\r\n\r\n")


async def test_the_head_is_written_before_the_connection_is_closed() -> None:
    answer, transport = cycle("HEAD", keep_alive=False)
    await answer.send(START)
    await answer.send(body(b""))
    assert transport.is_closed
    assert b"connection: close\r\n" in b"".join(transport.writes)


async def test_an_answer_that_fails_before_its_body_closes_the_connection() -> None:
    answer, transport = cycle()

    async def app(_: Any, __: Any, send: Any) -> None:
        await send(START)
        raise ZeroDivisionError

    await answer.run_asgi(app)
    assert transport.is_closed


async def test_events_are_written_without_waiting() -> None:
    answer, transport = cycle()
    assert not answer.is_free
    await answer.send(START)
    assert not answer.is_free
    await answer.send(body(b"one", more=True))
    assert answer.is_free
    answer.write_now(b"x" * 17)
    assert transport.writes[1:] == [b"11\r\n" + b"x" * 17 + b"\r\n"]
    answer.flow.pause_writing()
    assert not answer.is_free
    answer.flow.resume_writing()
    assert answer.is_free


@pytest.mark.parametrize("reason", ["complete", "disconnected", "plain"])
async def test_write_now_is_not_available(reason: str) -> None:
    """After the end, after a disconnect, or for HTTP/1.0, which has no chunks."""
    answer, _ = cycle(version="1.0" if reason == "plain" else "1.1")
    await answer.send(START)
    await answer.send(body(b"one", more=reason != "complete"))
    answer.disconnected = reason == "disconnected"
    assert not answer.is_free


# ---- The exchange


async def test_a_complete_body_is_taken_without_waiting() -> None:
    request, _ = cycle()
    request.body += b"one"
    assert request.take_body() is None
    request.body += b", two"
    request.more_body = False
    assert request.take_body() == b"one, two"
    assert request.take_body() == b""


@pytest.mark.parametrize("state", ["waiting_for_100_continue", "disconnected"])
async def test_a_body_is_not_taken_while_the_client_waits_or_has_disconnected(state: str) -> None:
    request, _ = cycle()
    request.more_body = False
    setattr(request, state, True)
    assert request.take_body() is None


async def test_the_connection_is_read_while_a_disconnect_is_waited_for() -> None:
    """A large body pauses reading, and the end of the connection is not noticed then."""
    request, transport = cycle()
    request.flow.pause_reading()
    request.when_gone(None)
    assert not transport.is_reading
    request.when_gone(lambda: None)
    assert transport.is_reading


async def test_a_disconnect_is_reported_once_and_nothing_is_written() -> None:
    answer, transport = cycle()
    n_calls = 0

    def count() -> None:
        nonlocal n_calls
        n_calls += 1

    assert not answer.is_gone
    answer.when_gone(count)
    answer.leave()
    answer.leave()
    assert answer.is_gone
    assert n_calls == 1
    await answer.send(START)
    await answer.send(body(b"one"))
    assert not transport.writes


async def test_a_removed_callback_is_not_called_at_a_disconnect() -> None:
    answer, _ = cycle()
    answer.when_gone(pytest.fail)
    answer.when_gone(None)
    answer.leave()


# ---- Wrong responses


@pytest.mark.parametrize(
    ("length", "parts"), [(1, [b"ab"]), (3, [b"ab"]), (3, [b"a", b"bcd"]), (3, [b"a", b"b"])], ids=str
)
async def test_a_body_must_have_the_length_of_its_head(length: int, parts: list[bytes]) -> None:
    answer, _ = cycle()
    await answer.send({**START, "headers": [(b"content-length", b"%d" % length)]})
    for part in parts[:-1]:
        await answer.send(body(part, more=True))
    with pytest.raises(RuntimeError, match="content-length"):
        await answer.send(body(parts[-1]))


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"\0"])
async def test_a_header_with_control_characters_is_rejected(value: bytes) -> None:
    answer, transport = cycle()
    with pytest.raises(RuntimeError, match="control character"):
        await answer.send({**START, "headers": [(b"a", value)]})
    assert not transport.writes


async def test_messages_in_the_wrong_order_are_rejected() -> None:
    answer, _ = cycle()
    with pytest.raises(RuntimeError, match=r"http\.response\.start was expected"):
        await answer.send(body(b""))
    await answer.send(START)
    with pytest.raises(RuntimeError, match=r"http\.response\.body was expected"):
        await answer.send(START)
    await answer.send(body(b""))
    with pytest.raises(RuntimeError, match="after the end"):
        await answer.send(body(b""))


@pytest.mark.parametrize("name", [b"a:b", b"a\r\nb", b"a b", b'a"', b"a\\", b"a[", b"\x7f"])
async def test_a_header_must_have_a_valid_name(name: bytes) -> None:
    answer, transport = cycle()
    with pytest.raises(RuntimeError, match="name"):
        await answer.send({**START, "headers": [(name, b"1")]})
    assert not transport.writes


@pytest.mark.parametrize(("value", "closes"), [(b"close", True), (b"x, Close", True), (b"closed", False)])
async def test_a_connection_header_may_close_the_connection(value: bytes, closes: bool) -> None:
    answer, transport = cycle()
    await answer.send({**START, "headers": [(b"connection", value), (b"content-length", b"0")]})
    await answer.send(body(b""))
    assert transport.is_closed is closes
