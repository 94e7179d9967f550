"""The server's connection and h11 parse the same broken streams: a request for one must be a request for the other."""

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
"""Number of streams for each seed."""
ALL = [row for row in ROWS if len(row.data) < 2000 and b"HTTP/1.0" not in row.data]
"""Rows without HTTP/1.0, whose connections h11 does not keep open."""
GOOD, ANY = [row.data for row in ALL if row.is_open], [row.data for row in ALL]
SCRAPS = [
    *(b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b",", b";", b"\0", b"0", b"1", b"5", b"x", b"chunked"),
    *(b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"Connection: close\r\n"),
    *(b"Upgrade: h2c\r\nConnection: Upgrade\r\n", b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"),
]
LENIENT = ("illegal request line", "no request line received")
"""Errors that only h11 raises: llhttp allows more whitespace in a request line and more empty lines before it."""

ParsedRequest = tuple[str, bytes, bytes]
"""(method, target, content) of a request."""


def stream(rng: random.Random) -> bytes:
    """Returns a few requests with a few random errors."""
    before, after = (rng.choices(GOOD, k=rng.randint(0, 2)) for _ in range(2))
    data = bytearray(b"".join([*before, rng.choice(ANY), *after]))
    for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
        k = rng.randrange(len(data))
        data[k : k + rng.choice((0, 1, 1, 4))] = rng.choice((b"", rng.choice(SCRAPS)))
    return bytes(data)


def read_by_h11(data: bytes) -> tuple[list[ParsedRequest], str]:
    """Returns the requests, and the error that ended them or an empty string."""
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    parser.receive_data(data)
    requests: list[ParsedRequest] = []
    method, target, content = "", b"", b""
    try:
        while True:
            event = parser.next_event()
            if isinstance(event, h11.Request):
                method, target, content = event.method.decode(), event.target, b""
            elif isinstance(event, h11.Data):
                content += event.data
            elif isinstance(event, h11.EndOfMessage):
                requests.append((method, target, content))
                parser.send(h11.Response(status_code=400, headers=[("content-length", "0")]))
                parser.send(h11.EndOfMessage())
            elif event is h11.PAUSED and parser.our_state is h11.DONE and parser.their_state is h11.DONE:
                parser.start_next_cycle()
            else:
                return requests, ""
    except h11.RemoteProtocolError as error:
        return requests, str(error)


async def read_by_us(data: bytes, rng: random.Random) -> list[ParsedRequest]:
    requests: list[ParsedRequest] = []

    async def take(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            content = await Request(scope, receive).body()
        except ClientDisconnect:
            return
        if BODY_ERROR not in scope:
            query = b"?" + scope["query_string"] if scope["query_string"] else b""
            requests.append((scope["method"], scope["raw_path"] + query, content))
        await Response()(scope, receive, send)

    factory = connection(
        header_seconds=1000, body_seconds=1000, send_seconds=1000, max_connections=1, refused=lambda: None
    )
    config = uvicorn.Config(take, http=factory, lifespan="off", log_config=None, ws="none")
    config.load()
    transport, client = FakeTransport(), factory(config, ServerState(), {}, asyncio.get_running_loop())
    client.connection_made(transport)
    while data and not transport.closed:
        n = rng.choice((1, 3, 20, 200, 5000))
        client.data_received(data[:n])
        data = data[n:]
        for _ in range(rng.choice((0, 3))):
            await asyncio.sleep(0)
    for _ in range(40):
        await asyncio.sleep(0)
    client.connection_lost(None)
    for _ in range(3):
        await asyncio.sleep(0)
    return requests


def origin_form(target: bytes) -> bytes:
    _, scheme, rest = target.partition(b"://") if target[:4] == b"http" else (b"", b"", b"")
    path = target if not scheme else b"/" + rest.partition(b"/")[2] if b"/" in rest else b"/?" + rest.partition(b"?")[2]
    return path.removesuffix(b"?")


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
async def test_every_request_of_the_server_is_also_one_for_h11(seed: int) -> None:
    rng = random.Random(seed)
    n_read = 0
    for _ in range(STREAMS):
        data = stream(rng)
        requests = await read_by_us(data, rng)
        expected, problem = read_by_h11(data)
        expected = [(method, origin_form(target), content) for method, target, content in expected]
        if problem.startswith(LENIENT):
            requests = requests[: len(expected)]
        assert requests == expected[: len(requests)], (data, problem)
        n_read += len(requests)
    assert n_read > STREAMS
