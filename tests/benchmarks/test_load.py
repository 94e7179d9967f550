"""The load generator against a server with scripted bytes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from benchmarks.load import Client, Load
from benchmarks.orders import Answer, Orders

Writer = asyncio.StreamWriter
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def token(text: str, index: int = 0, finish: str = "null") -> bytes:
    return b'data: {"choices": [{"index": %d, "text": "%s", "finish_reason": %s}]}\n\n' % (
        index,
        text.encode(),
        finish.encode(),
    )


USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3, '
USAGE += b'"prompt_tokens_details": {"cached_tokens": 4}}}\n\n'
ANSWER = HEAD + chunk(token("~one") + token("~two")) + chunk(token("", finish='"stop"'))
ANSWER += chunk(USAGE) + chunk(b"data: [DONE]\n\n") + chunk(b"")


@asynccontextmanager
async def server(answer: Callable[[Writer, int], Awaitable[None]]) -> AsyncIterator[int]:
    """Yields the port of a server. `answer` writes the response to request number `n`, counted over all connections."""
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: Writer) -> None:
        nonlocal count
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
                await reader.readexactly(int(length.partition(b":")[2]))
                count += 1
                await answer(writer, count)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()


async def load(
    port: int, requests: int = 1, concurrency: int = 1, limit_s: float = 30.0, **more: object
) -> list[Answer]:
    orders = Orders(port, ["{}"] * requests, concurrency, limit_s)
    for name, value in more.items():
        setattr(orders, name, value)
    return await Load(orders).run()


async def whole(writer: Writer, _: int) -> None:
    writer.write(ANSWER)
    await writer.drain()


async def test_an_answer() -> None:
    async with server(whole) as port:
        (answer,) = await load(port)
    assert (answer.error, answer.cut, answer.finish) == ("", False, "stop")
    assert len(answer.times) == 2
    assert answer.choices == [0, 0]
    assert (answer.tokens, answer.prompt_tokens, answer.cached_tokens) == (3, 7, 4)
    assert 0 <= answer.sent <= answer.times[0] <= answer.ended


async def test_split_anywhere() -> None:
    async def split(writer: Writer, count: int) -> None:
        writer.write(ANSWER[:count])
        await asyncio.sleep(0.001)
        writer.write(ANSWER[count:])
        await writer.drain()

    async with server(split) as port:
        answers = await load(port, len(ANSWER))
    assert {(answer.error, len(answer.times), answer.tokens) for answer in answers} == {("", 2, 3)}


async def test_counting_marks() -> None:
    async with server(whole) as port:
        (answer,) = await load(port, count=True)
    assert (answer.tokens, answer.events, answer.error) == (2, 5, "")


async def test_counting_marks_that_come_several_times() -> None:
    async with server(whole) as port:
        (answer,) = await load(port, count=True, copies=2)
    assert (answer.tokens, len(answer.times)) == (1, 1)


async def test_clients_are_a_closed_loop() -> None:
    running = most = 0

    async def slow(writer: Writer, _: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        writer.write(ANSWER)

    async with server(slow) as port:
        answers = await load(port, 10, 3)
    assert (len(answers), most) == (10, 3)


async def test_a_client_sends_the_turns_of_a_conversation_in_a_row() -> None:
    sent: dict[object, list[bytes]] = {}

    class Recorder(Load):
        async def _send(self, client: Client, body: bytes, answer: Answer) -> None:
            sent.setdefault(client, []).append(body)
            await asyncio.sleep(0.001)

    await Recorder(Orders(0, list("aabbccdde"), 2, 30.0, turns=2, pause_s=0.001)).run()
    assert len(sent) == 2
    bodies = [b"".join(of_client) for of_client in sent.values()]
    assert sorted(b"".join(bodies)) == list(b"aabbccdde")
    for of_client in bodies:
        assert all(of_client[i : i + 2] in (b"aa", b"bb", b"cc", b"dd", b"e") for i in range(0, len(of_client), 2))


async def test_each_client_keeps_its_connection() -> None:
    peers = set()

    async def note(writer: Writer, _: int) -> None:
        peers.add(writer.get_extra_info("peername"))
        writer.write(ANSWER)

    async with server(note) as port:
        await load(port, 10, 3)
    assert len(peers) <= 3


async def test_a_server_may_close_a_connection_that_it_promised_to_keep() -> None:
    async def close_late(writer: Writer, _: int) -> None:
        writer.write(ANSWER)
        await asyncio.sleep(0.05)  # the next request is on its way by now
        writer.close()

    async with server(close_late) as port:
        answers = await load(port, 4, 2)
    assert [answer.error for answer in answers] == [""] * 4


async def test_the_limit_cuts() -> None:
    async def hang(writer: Writer, _: int) -> None:
        writer.write(HEAD + chunk(token("a")))
        await asyncio.sleep(3600)

    async with server(hang) as port:
        (answer,) = await load(port, limit_s=0.2)
    assert (answer.cut, answer.error, len(answer.times)) == (True, "", 1)
    assert answer.ended == pytest.approx(0.2, abs=0.2)


async def test_refusals_and_lost_connections_are_errors() -> None:
    async def refuse(writer: Writer, count: int) -> None:
        if count == 1:
            writer.write(b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy")
        else:
            writer.close()

    async with server(refuse) as port:
        first, second = await load(port, 2)
    assert first.error == "503: busy"
    assert second.error == "the connection was lost"


async def test_a_refused_connection_is_an_error() -> None:
    async with server(whole) as port:
        pass
    (answer,) = await load(port)
    assert answer.error


async def test_a_late_request() -> None:
    async def endless(writer: Writer, count: int) -> None:
        writer.write(HEAD)
        for _ in range(1000):
            writer.write(chunk(token("a")))
            await asyncio.sleep(0.005)

    async with server(endless) as port:
        answers = await load(port, 2, 2, late="{}", late_after=3)
    late = [answer for answer in answers if answer.late]
    assert len(answers) == 3
    assert len(late) == 1
    assert all(len(answer.times) >= 3 and answer.cut for answer in answers)
    assert late[0].sent >= max(answer.times[2] for answer in answers if not answer.late)
