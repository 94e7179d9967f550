"""uvicorn's connection with the sidecar's limits, without a socket."""

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import orjson
import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from openai_server.http import linger
from openai_server.http.connection import MAX_HEADER_BYTES, MAX_HEADERS, MAX_PIPELINED, Connection, connection
from openai_server.http.framing import MAX_TARGET_BYTES

BODY = b"0123456789"
PLAIN = b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n" + BODY
CHUNKED = (
    b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    b"3;why=not\r\n012\r\n7\r\n3456789\r\n0\r\ntrailer: 1\r\n\r\n"
)


class FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.eof = False
        self.unsent = 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: Any) -> None:
        assert not self.ended
        self.written += data

    @property
    def ended(self) -> bool:
        """Whether the client has received the end of the connection."""
        return self.closed or self.eof

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof = True

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).body()
    await PlainTextResponse(b"<" + body + b">")(scope, receive, send)


def connected(
    seconds: float = 1000,
    *,
    max_connections: int = 1,
    state: ServerState | None = None,
    refused: Callable[[], None] = lambda: None,
) -> tuple[Connection, FakeTransport]:
    factory = connection(
        header_seconds=seconds,
        body_seconds=seconds,
        send_seconds=seconds,
        max_connections=max_connections,
        refused=refused,
    )
    config = uvicorn.Config(echo, http=factory, lifespan="off", log_config=None, ws="none")
    config.load()
    transport, client = FakeTransport(), factory(config, state or ServerState(), {}, asyncio.get_running_loop())
    client.connection_made(transport)
    return client, transport


async def answered(client: Connection, transport: FakeTransport, parts: Iterable[bytes], answers: int = 1) -> None:
    """Sends the parts one by one, then checks that all requests are answered."""
    for part in parts:
        client.data_received(part)
        for _ in range(3):
            await asyncio.sleep(0)
    async with asyncio.timeout(10):
        while transport.written.count(b"<" + BODY + b">") < answers:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert transport.written.count(b"HTTP/1.1 200") == answers
    assert not transport.ended
    assert client._timer is None
    client.connection_lost(None)


@pytest.mark.parametrize("request_", [PLAIN, CHUNKED, b"\r\n" + PLAIN], ids=["plain", "chunked", "empty line"])
async def test_a_request_may_arrive_in_two_parts_or_byte_by_byte(request_: bytes) -> None:
    for k in range(len(request_) + 1):
        await answered(*connected(), [part for part in (request_[:k], request_[k:]) if part])
    await answered(*connected(), [request_[k : k + 1] for k in range(len(request_))])


async def test_two_requests_may_be_split_anywhere() -> None:
    both = PLAIN + CHUNKED
    for k in range(len(both) + 1):
        await answered(*connected(), [part for part in (both[:k], both[k:]) if part], answers=2)


async def test_header_limits_apply_to_each_request_separately() -> None:
    client, transport = connected()
    assert 1000 * len(CHUNKED) > MAX_HEADER_BYTES
    await answered(client, transport, [CHUNKED] * 1000, answers=1000)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"a" * MAX_HEADER_BYTES + b" HTTP/1.1\r\n", 414),
        (b"GET /" + b"a" * MAX_TARGET_BYTES + b" HTTP/1.1\r\n", 414),
        (b"GET /a HTTP/1.1\r\na: " + b"a" * MAX_HEADER_BYTES + b"\r\n", 431),
        (b"GET /a HTTP/1.1\r\n" + b"a:\r\n" * (MAX_HEADERS + 1), 431),
    ],
    ids=["path", "target", "one", "many"],
)
@pytest.mark.parametrize("pieces", [1, 3])
async def test_too_large_heads_are_rejected(head: bytes, status: int, pieces: int) -> None:
    client, transport = connected()
    message = head + b"host: x\r\n\r\n"
    size = -(-len(message) // pieces)
    for k in range(pieces):
        client.data_received(message[k * size : (k + 1) * size])
    assert transport.written.startswith(b"HTTP/1.1 %d " % status)
    assert transport.ended
    client.connection_lost(None)


async def test_too_many_pipelined_requests_are_rejected() -> None:
    client, transport = connected()
    client.data_received(PLAIN * (MAX_PIPELINED + 1))
    assert not transport.closed
    for _ in range(100):
        await asyncio.sleep(0)
    answers = transport.written.count(b"HTTP/1.1 200")
    client.data_received(PLAIN * 10_000)
    assert len(client.pipeline) <= MAX_PIPELINED
    async with asyncio.timeout(10):
        while not transport.ended:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert transport.written.count(b"HTTP/1.1 200") <= answers + MAX_PIPELINED + 1
    assert transport.written.count(b"HTTP/1.1 400") == 1
    client.connection_lost(None)


async def test_reading_pauses_while_requests_are_pipelined() -> None:
    client, transport = connected()
    client.data_received(PLAIN * 20)
    while client.pipeline:
        assert client.flow.read_paused
        await asyncio.sleep(0)
    assert transport.written.count(b"HTTP/1.1 200") >= 19
    client.connection_lost(None)


async def test_chunks_of_a_body_do_not_count_as_headers() -> None:
    client, transport = connected()
    client.data_received(b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    for _ in range(MAX_HEADER_BYTES // 100):
        client.data_received(b"1\r\nx\r\n" * 100)
        await asyncio.sleep(0)
    assert not transport.closed
    client.connection_lost(None)


async def test_a_connection_beyond_the_limit_gets_a_503_and_is_closed() -> None:
    state, refusals = ServerState(), list[str]()

    def connect() -> tuple[Connection, FakeTransport]:
        return connected(max_connections=2, state=state, refused=lambda: refusals.append("refused"))

    first, second, third = connect(), connect(), connect()
    assert refusals == ["refused"]
    head, _, body = third[1].written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nretry-after: 1\r\n" in head
    assert b"\r\nconnection: close" in head
    assert orjson.loads(body)["error"]["code"] == "server_overloaded"
    assert third[1].ended
    third[0].connection_lost(None)
    assert third[0]._timer is None
    await answered(*first, [PLAIN])  # closes the first connection
    await answered(*connect(), [PLAIN])
    await answered(*second, [PLAIN])
    assert refusals == ["refused"]


@pytest.mark.parametrize("sent", [b"POST", b"\r", PLAIN[:-1], PLAIN[:-1] + b"9GET", CHUNKED[:-2]])
async def test_an_incomplete_request_is_timed(sent: bytes) -> None:
    client, _ = connected()
    client.data_received(sent)
    assert client._timer is not None
    client.connection_lost(None)
    assert client._timer is None


async def test_a_late_head_gets_a_408_and_the_connection_is_closed() -> None:
    client, transport = connected(0.01)
    client.data_received(b"POST /a")
    await asyncio.sleep(0.05)
    assert transport.written.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert transport.ended


async def test_a_client_that_stops_reading_is_disconnected() -> None:
    client, transport = connected(0.05)
    client.data_received(PLAIN)
    client.pause_writing()
    client.resume_writing()
    await asyncio.sleep(0.1)
    assert not transport.closed
    client.pause_writing()
    await asyncio.sleep(0.1)
    assert transport.closed


async def due_timers() -> None:
    """Lets the event loop run the timers that are due."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_data_after_the_last_answer_is_discarded_until_the_client_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = asyncio.get_running_loop().time()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
    client, transport = connected()
    client.data_received(b"nonsense\r\n\r\n")
    assert transport.written.startswith(b"HTTP/1.1 400 ")
    for _ in range(10):
        now += 0.9 * linger.IDLE_SECONDS
        await due_timers()
        assert (transport.eof, transport.closed) == (True, False)
        client.data_received(PLAIN)
    now += 1.1 * linger.IDLE_SECONDS
    await due_timers()
    assert transport.closed
    assert transport.written.count(b"HTTP/1.1") == 1
    client.connection_lost(None)


async def test_the_discarded_body_after_an_early_answer_is_limited() -> None:
    client, transport = connected()
    client.data_received(PLAIN.replace(b"\r\n\r\n", b"\r\nExpect: x\r\n\r\n"))
    assert transport.written.startswith(b"HTTP/1.1 417 ")
    client.data_received(b"x" * (linger.MAX_DISCARDED_BYTES // 2))
    assert not transport.closed
    client.data_received(b"x" * (linger.MAX_DISCARDED_BYTES // 2 + 1))
    assert transport.closed
    client.connection_lost(None)


UPGRADE = b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"


@pytest.mark.parametrize("request_", [PLAIN, CHUNKED], ids=["plain", "chunked"])
async def test_an_upgrade_is_ignored_wherever_it_is_split(request_: bytes) -> None:
    with_upgrade = request_.replace(b"\r\n\r\n", b"\r\n" + UPGRADE, 1)
    stream = with_upgrade + request_ + with_upgrade
    for k in range(len(stream) + 1):
        await answered(*connected(), [part for part in (stream[:k], stream[k:]) if part], answers=3)
    await answered(*connected(), [stream[k : k + 1] for k in range(len(stream))], answers=3)


@pytest.mark.parametrize("request_", [PLAIN, PLAIN.replace(b"host: x", b"host: x\r\nconnection: close")])
async def test_a_lost_connection_is_freed_without_garbage_collection(request_: bytes) -> None:
    client, transport = connected()
    reference = weakref.ref(client)
    client.data_received(request_)
    async with asyncio.timeout(10):
        while BODY + b">" not in transport.written:  # noqa: ASYNC110
            await asyncio.sleep(0)
    for _ in range(3):
        await asyncio.sleep(0)
    gc.disable()
    try:
        client.connection_lost(None)
        del client, transport
        assert reference() is None
    finally:
        gc.enable()


async def test_a_request_leaves_no_garbage() -> None:
    client, transport = connected()
    gc.disable()
    try:
        for n_responses in (1, 2):
            client.data_received(PLAIN)
            if n_responses == 1:
                first = weakref.ref(client.cycle)
            async with asyncio.timeout(10):
                while transport.written.count(BODY + b">") < n_responses:  # noqa: ASYNC110
                    await asyncio.sleep(0)
        for _ in range(3):
            await asyncio.sleep(0)
        assert first() is None
    finally:
        gc.enable()
