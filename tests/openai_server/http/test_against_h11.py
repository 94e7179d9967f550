"""Our connection and h11 read the same broken streams: what we take for a request, a strict proxy must, too."""

import asyncio
import random

import h11
import pytest
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from openai_server.http.connection import BODY_ERROR, connection
from tests.openai_server.http.test_connection import FakeTransport
from tests.wire.test_rfc9112 import ROWS

STREAMS = 500
"""For each seed."""
ALL = [row for row in ROWS if len(row.data) < 2000 and b"HTTP/1.0" not in row.data]
"""h11 keeps no connection of HTTP/1.0."""
GOOD, ANY = [row.data for row in ALL if row.is_open], [row.data for row in ALL]
SCRAPS = [
    *(b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b",", b";", b"\0", b"0", b"1", b"5", b"x", b"chunked"),
    *(b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"Connection: close\r\n"),
    *(b"Upgrade: h2c\r\nConnection: Upgrade\r\n", b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"),
]
LENIENT = ("illegal request line", "no request line received")
"""Errors of h11 alone: llhttp takes more white space within a request line, and more empty lines before it."""

Seen = tuple[str, bytes, bytes]
"""Method, target and content of a request."""


def stream(chance: random.Random) -> bytes:
    """A few requests, with a few faults."""
    before, after = (chance.choices(GOOD, k=chance.randint(0, 2)) for _ in range(2))
    made = bytearray(b"".join([*before, chance.choice(ANY), *after]))
    for _ in range(chance.choice((0, 0, 1, 1, 2, 3))):
        k = chance.randrange(len(made))
        made[k : k + chance.choice((0, 1, 1, 4))] = chance.choice((b"", chance.choice(SCRAPS)))
    return bytes(made)


def read_by_h11(data: bytes) -> tuple[list[Seen], str]:
    """The requests, and why there are no more of them."""
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    parser.receive_data(data)
    seen: list[Seen] = []
    method, target, content = "", b"", b""
    try:
        while True:
            event = parser.next_event()
            if isinstance(event, h11.Request):
                method, target, content = event.method.decode(), event.target, b""
            elif isinstance(event, h11.Data):
                content += event.data
            elif isinstance(event, h11.EndOfMessage):
                seen.append((method, target, content))
                parser.send(h11.Response(status_code=400, headers=[("content-length", "0")]))
                parser.send(h11.EndOfMessage())
            elif event is h11.PAUSED and parser.our_state is h11.DONE and parser.their_state is h11.DONE:
                parser.start_next_cycle()
            else:
                return seen, ""
    except h11.RemoteProtocolError as error:
        return seen, str(error)


async def read_by_us(data: bytes, chance: random.Random) -> list[Seen]:
    seen: list[Seen] = []

    async def take(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            content = await Request(scope, receive).body()
        except ClientDisconnect:
            return
        if BODY_ERROR not in scope:
            query = b"?" + scope["query_string"] if scope["query_string"] else b""
            seen.append((scope["method"], scope["raw_path"] + query, content))
        await Response()(scope, receive, send)

    made = connection(
        header_seconds=1000, body_seconds=1000, send_seconds=1000, max_connections=1, refused=lambda: None
    )
    config = uvicorn.Config(take, http=made, lifespan="off", log_config=None, ws="none")
    config.load()
    transport, client = FakeTransport(), made(config, ServerState(), {}, asyncio.get_running_loop())
    client.connection_made(transport)
    while data and not transport.closed:
        n = chance.choice((1, 3, 20, 200, 5000))
        client.data_received(data[:n])
        data = data[n:]
        for _ in range(chance.choice((0, 3))):
            await asyncio.sleep(0)
    for _ in range(40):
        await asyncio.sleep(0)
    client.connection_lost(None)
    for _ in range(3):
        await asyncio.sleep(0)
    return seen


def origin_form(target: bytes) -> bytes:
    _, scheme, rest = target.partition(b"://") if target[:4] == b"http" else (b"", b"", b"")
    path = target if not scheme else b"/" + rest.partition(b"/")[2] if b"/" in rest else b"/?" + rest.partition(b"?")[2]
    return path.removesuffix(b"?")


@pytest.mark.parametrize("seed", range(6))
async def test_what_we_take_for_a_request_is_one_for_h11(seed: int) -> None:
    chance = random.Random(seed)
    n_read = 0
    for _ in range(STREAMS):
        data = stream(chance)
        ours = await read_by_us(data, chance)
        theirs, problem = read_by_h11(data)
        theirs = [(method, origin_form(target), content) for method, target, content in theirs]
        if problem.startswith(LENIENT):
            ours = ours[: len(theirs)]
        assert ours == theirs[: len(ours)], (data, problem)
        n_read += len(ours)
    assert n_read > STREAMS
