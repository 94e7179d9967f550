"""Covers the server requirements of RFC 9112, and those of RFC 9110 that decide about framing.

Each row is sent to a real sidecar in three ways: as a whole, one byte per segment, and with another request right
behind it. The number of responses and their statuses must be the same, and afterwards the connection is in step or
closed.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.e2e import servers
from tests.ops import able_worker
from tests.wire.raw_http import Raw, connected

PROBE = b"GET /livez HTTP/1.1\r\nHost: probe\r\n\r\n"
SMUGGLED = b"GET /v1/models HTTP/1.1\r\nHost: smuggled\r\n\r\n"
"""Sent as the content of a request; the server must never answer it as a request of its own."""
JSON = b'{"prompt": "x"}'


def get(
    *fields: str, target: str = "/livez", version: str = "1.1", host: str = "Host: x", method: str = "GET"
) -> bytes:
    lines = [f"{method} {target} HTTP/{version}", *([host] if host else []), *fields]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1")


def post(*fields: str, content: bytes = JSON, target: str = "/v1/completions", version: str = "1.1") -> bytes:
    """Adds a Content-Length, unless the fields frame the content themselves."""
    named = {field.partition(":")[0].lower() for field in fields}
    length = [] if named & {"content-length", "transfer-encoding"} else [f"Content-Length: {len(content)}"]
    return get(*length, *fields, method="POST", target=target, version=version) + content


def chunked(*chunks: bytes, coding: str = "chunked", fields: tuple[str, ...] = ()) -> bytes:
    return post(*fields, f"Transfer-Encoding: {coding}", content=b"".join(chunks))


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)


END = b"0\r\n\r\n"


@dataclass(frozen=True)
class Row:
    section: str
    name: str
    data: bytes
    statuses: tuple[int, ...]
    is_open: bool
    """Whether the connection accepts another request."""


def in_step(section: str, name: str, data: bytes, *statuses: int) -> Row:
    return Row(section, name, data, statuses, is_open=True)


def closed(section: str, name: str, data: bytes, *statuses: int) -> Row:
    return Row(section, name, data, statuses, is_open=False)


ROWS = [
    # 2 Message
    in_step("2.2", "empty lines before a request", b"\r\n\r\n" + get(), 200),
    in_step("2.2", "an empty line after a body", post() + b"\r\n" + get(), 200, 200),
    closed("2.2", "lines that end with LF alone", get().replace(b"\r\n", b"\n"), 400),
    closed("2.2", "a bare CR in a value", get("A: b\rc"), 400),
    closed("2.2", "a bare LF in a value", get("A: b\nHost: y"), 400),
    closed("2.2", "a NUL in a value", get("A: b\0c"), 400),
    closed("2.2", "a NUL in a name", get("A\0: b"), 400),
    closed("2.2", "white space before the first header", b"GET /livez HTTP/1.1\r\n Host: x\r\n\r\n", 400),
    closed("2.2", "no HTTP at all", b"\x16\x03\x01 hello\r\n\r\n", 400),
    in_step("2.3", "a higher minor version", get(version="1.2"), 200),
    closed("2.3", "HTTP/2.0", get(version="2.0"), 505),
    closed("2.3", "HTTP/3.0", get(version="3.0"), 505),
    closed("2.3", "HTTP/0.9", get(version="0.9"), 400),
    closed("2.3", "no version", b"GET /livez\r\n\r\n", 400),
    closed("2.3", "two digits", get(version="1.10"), 400),
    closed("2.3", "the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    closed("2.3", "a name in small letters", b"GET /livez http/1.1\r\nHost: x\r\n\r\n", 400),
    # 3 Request line
    closed("3", "a space in the target", get(target="/li vez"), 400),
    closed("3.1", "a method that is no token", get(method="G@T"), 400),
    closed("3.1", "a method in small letters", get(method="get"), 400),
    in_step("3.1", "a method that no path has", get(method="TRACE"), 405),
    in_step("3.1", "a method that this path doesn't have", get(method="DELETE", target="/v1/models"), 405),
    in_step("3.2", "a query", get(target="/livez?a=b%20c&d=/%2F"), 200),
    closed("3.2", "a fragment", get(target="/livez#a"), 400),
    closed("3.2", "a broken escape", get(target="/livez%2"), 400),
    closed("3.2", "an escape that is none", get(target="/livez?a=%zz"), 400),
    closed("3.2", "a byte above ASCII", get(target="/\xe9"), 400),
    closed("3.2", "a target without a slash", get(target="livez"), 400),
    closed("3.2", "a target that is too long", get(target="/" + "a" * 20_000), 414),
    closed("3.2", "a query that is too long", get(target="/livez?" + "a" * 100_000), 414),
    closed("3.2", "no Host", get(host=""), 400),
    closed("3.2", "no Host, with a body", get("Content-Length: 15", host="", method="POST") + JSON, 400),
    closed("3.2", "two Hosts", get("Host: y"), 400),
    closed("3.2", "two equal Hosts", get("Host: x"), 400),
    closed("3.2", "two Hosts in HTTP/1.0", get("Host: y", version="1.0"), 400),
    closed("3.2", "a Host with a path", get(host="Host: x/y"), 400),
    closed("3.2", "a Host with a user", get(host="Host: me@x"), 400),
    closed("3.2", "a Host with a space", get(host="Host: x y"), 400),
    closed("3.2", "a Host that is a list", get(host="Host: x, y"), 400),
    in_step("3.2", "an empty Host", get(host="Host:"), 200),
    in_step("3.2", "a Host with a port", get(host="Host: my_host-1.example.:8080"), 200),
    in_step("3.2", "a Host that is an IPv6 address", get(host="Host: [::1]:8080"), 200),
    in_step("3.2.2", "absolute form", get(target="http://x/livez"), 200),
    in_step("3.2.2", "absolute form, whatever Host says", get(target="https://other.example:1/livez?x"), 200),
    in_step("3.2.2", "absolute form without a path", get(target="http://x?y"), 404),
    closed("3.2.2", "absolute form with a user", get(target="http://me@x/livez"), 400),
    closed("3.2.2", "absolute form without a host", get(target="http:///livez"), 400),
    closed("3.2.2", "another scheme", get(target="ftp://x/livez"), 400),
    closed("3.2.3", "authority form", get(target="x:80"), 400),
    closed("3.2.3", "CONNECT", get(target="x:80", method="CONNECT") + SMUGGLED, 405),
    closed("3.2.3", "CONNECT with a body", get("Content-Length: 5", target="/x", method="CONNECT") + b"GET /", 405),
    in_step("3.2.4", "asterisk form", get(target="*", method="OPTIONS"), 404),
    closed("3.2.4", "asterisk form with another method", get(target="*"), 400),
    # 5 Field syntax
    closed("5.1", "a space before the colon", get("A : b"), 400),
    closed("5.1", "a space before the colon of a length", post("Content-Length : 15", "Content-Length: 15"), 400),
    closed("5.1", "a line without a colon", get("Abc"), 400),
    closed("5.1", "an empty name", get(": b"), 400),
    closed("5.1", "a name that is no token", get("A(b): c"), 400),
    in_step("5.1", "white space around a value", post("Content-Length: \t 15 \t"), 200),
    in_step("5.1", "an empty value", get("A:"), 200),
    in_step("5.5", "a byte above ASCII in a value", get("A: \xe9"), 200),
    closed("5.2", "a folded line", get("A: b\r\n c"), 400),
    closed("5.2", "a folded length", post("Content-Length:\r\n 15"), 400),
    closed("5.4", "headers that are too many", get(*["A: b"] * 200), 431),
    closed("5.4", "headers that are too large", get("A: " + "b" * 70_000), 431),
    # 6 Body
    *(
        closed("6.1", f"Transfer-Encoding: {coding}", chunked(chunk(JSON), END, coding=coding), status)
        for coding, status in [
            ("gzip", 501),
            ("gzip, chunked", 501),
            ("gzip\r\nTransfer-Encoding: chunked", 501),
            ("xchunked", 501),
            ("chunkedx", 501),
            ("identity", 501),
            ("identity, chunked", 501),
            ("chunked;a=b", 501),
            ('"chunked"', 501),
            ("chunked, gzip", 400),
            ("chunked, identity", 400),
            ("chunked, chunked", 400),
            ("chunked\r\nTransfer-Encoding: chunked", 400),
            ("chunked\r\nTransfer-Encoding: identity", 400),
            (", chunked", 400),
            ("\x0bchunked", 400),
            ("", 400),
        ]
    ),
    in_step("6.1", "chunked in capitals", chunked(chunk(JSON), END, coding="CHUNKED"), 200),
    closed("6.1", "chunks in HTTP/1.0", post("Transfer-Encoding: chunked", content=END, version="1.0"), 400),
    closed("6.1", "a length before chunks", post("Content-Length: 5", "Transfer-Encoding: chunked", content=END), 400),
    closed("6.1", "a length after chunks", post("Transfer-Encoding: chunked", "Content-Length: 5", content=END), 400),
    *(
        closed("6.2", f"Content-Length: {length}", post(f"Content-Length: {length}"), 400)
        for length in (
            *("+15", "-1", "15, 15", "15,16", "0x0f", "1e1", "15;a=b", "1 5", "", "15.0", "99999999999999999999"),
            *("15\r\nContent-Length: 15", "15\r\nContent-Length: 16"),
        )
    ),
    in_step("6.2", "zeros before a length", post("Content-Length: 0000015"), 200),
    in_step("6.3", "neither a length nor chunks", get(method="POST", target="/v1/completions"), 400),
    in_step("6.3", "a body that looks like a request", post(content=SMUGGLED), 400),
    in_step("6.3", "GET with a body", get(f"Content-Length: {len(SMUGGLED)}") + SMUGGLED, 200),
    in_step("6.3", "a body for a path that is none", post(content=SMUGGLED, target="/nowhere"), 404),
    in_step("6.3", "a body for a method that is not allowed", post(content=SMUGGLED, target="/livez"), 405),
    # 7 Chunks
    in_step("7.1", "chunks", chunked(chunk(JSON[:3]), chunk(JSON[3:]), END), 200),
    in_step("7.1", "zeros before a size, digits in capitals", chunked(b"000F\r\n", JSON, b"\r\n", b"000\r\n\r\n"), 200),
    in_step("7.1", "chunks that look like a request", chunked(chunk(SMUGGLED), END), 400),
    in_step("7.1.1", "extensions", chunked(chunk(JSON, b';a;b=c;d="e f"'), b"0;g=h\r\n\r\n"), 200),
    in_step("7.1.2", "trailers", chunked(chunk(JSON), b"0\r\nHost: y\r\nX: z\r\n\r\n"), 200),
    *(
        closed("7.1", f"a broken chunk: {defect}", chunked(*broken), 400)
        for defect, broken in {
            "no digits": [b"zz\r\n", END],
            "a prefix": [b"0xf\r\n", JSON, b"\r\n", END],
            "a sign": [b"-1\r\n", END],
            "a space": [b"f \r\n", JSON, b"\r\n", END],
            "an empty line": [b"\r\n", chunk(JSON), END],
            "more than its size": [b"5\r\n", JSON, b"\r\n", END],
            "less than its size": [b"10\r\n", JSON, b"\r\n", END],
            "LF alone": [b"f\n", JSON, b"\n0\n\n"],
            "LF in an extension": [b"f;a\nb\r\n", JSON, b"\r\n", END],
            "a size that overflows": [b"fffffffffffffffff\r\n", END],
            "a trailer that is none": [chunk(JSON), b"0\r\na\r\n\r\n"],
            "after whole ones": [chunk(JSON), b"zz\r\n\r\n"],
        }.items()
    ),
    # 9 Connections
    closed("9.3", "Connection: close", get("Connection: close"), 200),
    closed("9.3", "close among others", get("Connection: foo, CLOSE"), 200),
    closed("9.3", "keep-alive and close", get("Connection: keep-alive, close"), 200),
    closed("9.3", "HTTP/1.0", get(version="1.0"), 200),
    closed("9.3", "HTTP/1.0 without Host", get(version="1.0", host=""), 200),
    in_step("9.3", "HTTP/1.0 with keep-alive", get("Connection: keep-alive", version="1.0"), 200),
    in_step("9.3", "POST in HTTP/1.0 with keep-alive", post("Connection: keep-alive", version="1.0"), 200),
    in_step("9.3.2", "requests in one go", get() + post() + chunked(chunk(JSON), END) + get(), 200, 200, 200, 200),
    closed("9.3.2", "a good one before one that is none", post() + get() + b"nonsense\r\n\r\n", 200, 200, 400),
    closed("9.3.2", "a good one before one without Host", post() + get(host=""), 200, 400),
    closed("9.6", "requests after close", get("Connection: close") + get() + SMUGGLED, 200),
    closed("9.6", "requests after a body and close", post("Connection: close") + SMUGGLED, 200),
    closed("9.6", "nonsense after close", get("Connection: close") + b"nonsense\r\n\r\n", 200),
    # RFC 9110
    in_step("9110 8.4", "Content-Encoding: gzip", post("Content-Encoding: gzip"), 415),
    in_step("9110 8.4", "coded chunks", chunked(chunk(JSON), END, fields=("Content-Encoding: br",)), 415),
    in_step("9110 8.4", "Content-Encoding: identity", post("Content-Encoding: Identity"), 200),
    in_step("9110 9.3.2", "HEAD", get(method="HEAD"), 200),
    in_step("9110 9.3.2", "HEAD of a path that is none", get(method="HEAD", target="/nowhere"), 404),
    closed("9110 9.3.2", "HEAD without Host", get(method="HEAD", host=""), 400),
    in_step("9110 10.1.1", "Expect: 100-continue", post("Expect: 100-Continue"), 200),
    in_step("9110 10.1.1", "Expect in HTTP/1.0", post("Expect: x", "Connection: keep-alive", version="1.0"), 200),
    closed("9110 10.1.1", "another expectation", post("Expect: 200-ok"), 417),
    closed("9110 10.1.1", "one more expectation", post("Expect: 100-continue", "Expect: x"), 417),
]  # fmt: skip

UPGRADES = {
    "h2c": ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk"),
    "websocket": ("Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
    "something": ("Upgrade: foo/2, bar", "Connection: uPGRADE"),
    "twice": ("Connection: upgrade", "Upgrade: a", "Connection: Upgrade", "Upgrade: b"),
    "proxy": ("Proxy-Connection: Upgrade", "Upgrade: foo"),
    "empty": ("Connection: upgrade", "Upgrade:"),
    "not asked for": ("Upgrade: websocket",),
    "without a protocol": ("Connection: upgrade",),
}  # fmt: skip


def rows_of_upgrade(name: str, fields: tuple[str, ...]) -> Iterator[Row]:
    section, prefix = "9110 7.8", f"upgrade {name}:"
    yield in_step(section, f"{prefix} GET", get(*fields), 200)
    yield in_step(section, f"{prefix} GET, and more", get(*fields) + get(*fields) + get(), 200, 200, 200)
    yield in_step(
        section, f"{prefix} GET with a body", get(f"Content-Length: {len(SMUGGLED)}", *fields) + SMUGGLED, 200
    )
    yield in_step(section, f"{prefix} POST", post(*fields), 200)
    yield in_step(section, f"{prefix} smuggling", post(*fields, content=SMUGGLED), 400)
    yield in_step(section, f"{prefix} chunks", chunked(chunk(JSON), END, fields=fields), 200)
    yield in_step(section, f"{prefix} smuggling", chunked(chunk(SMUGGLED), END, fields=fields) + get(), 400, 200)
    yield in_step(section, f"{prefix} 100-continue", post(*fields, "Expect: 100-continue") + post(*fields), 200, 200)
    yield in_step(section, f"{prefix} HTTP/1.0", post(*fields, "Connection: keep-alive", version="1.0"), 200)
    yield closed(section, f"{prefix} close", post(*fields, "Connection: close") + SMUGGLED, 200)
    yield closed(section, f"{prefix} a broken chunk", chunked(b"zz\r\n", fields=fields), 400)
    yield closed(section, f"{prefix} no Host", get(*fields, host=""), 400)
    yield closed(section, f"{prefix} gzip", chunked(chunk(JSON), END, coding="gzip", fields=fields), 501)


ROWS += [row for name, fields in UPGRADES.items() for row in rows_of_upgrade(name, fields)]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with able_worker.listening() as address, servers.sidecar(address) as (process, url):
        yield int(url.rpartition(":")[2])
        assert process.end() == 0
        assert "Traceback" not in process.output, process.output


def as_a_whole(raw: Raw, row: Row) -> None:
    raw.send(row.data)


def byte_by_byte(raw: Raw, row: Row) -> None:
    raw.send_bytewise(row.data)


def with_another_request_behind(raw: Raw, row: Row) -> None:
    raw.send(row.data + PROBE)


@pytest.mark.parametrize(
    "way",
    [as_a_whole, pytest.param(byte_by_byte, marks=pytest.mark.slow), with_another_request_behind],
    ids=lambda way: way.__name__,
)
@pytest.mark.parametrize("row", ROWS, ids=[f"{row.section} {row.name}" for row in ROWS])
def test_a_request_is_answered_once_and_the_connection_is_in_step_or_closed(
    port: int, row: Row, way: Callable[[Raw, Row], None]
) -> None:
    if way is byte_by_byte and len(row.data) > 10_000:
        way = as_a_whole
    method = row.data.split(b" ")[0].decode("latin-1")
    with connected(port) as raw:
        way(raw, row)
        responses = [raw.response(method) for _ in row.statuses]
        assert tuple(response.status for response in responses) == row.statuses
        for response in responses:
            assert "date" in response.headers
            assert "smuggled" not in response.body.decode()
            assert response.status == 200 or method == "HEAD" or response.error
        if row.is_open:
            assert "close" not in responses[-1].headers.get("connection", "")
            if way is not with_another_request_behind:
                raw.send(PROBE)
            assert raw.response().body == b'{"status":"ok"}'
        else:
            assert responses[-1].headers["connection"] == "close"
            assert raw.until_closed() == b""


@pytest.mark.parametrize(
    "framing",
    [b"1;" + b"a" * 1_000_000, chunk(b" ", b";" + b"a" * 500) * 2000, b"0\r\n" + b"a: b\r\n" * 200],
    ids=["an extension", "extensions", "trailers"],
)
def test_the_size_of_chunk_framing_is_limited(port: int, framing: bytes) -> None:
    with connected(port) as raw:
        raw.send(chunked(framing))
        assert raw.response().status == 431
        assert raw.until_closed() == b""


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields", UPGRADES.values(), ids=UPGRADES)
def test_a_body_that_comes_after_an_upgrade_is_not_read_as_a_request(
    port: int, fields: tuple[str, ...], stream: bool
) -> None:
    content = b'{"prompt": "x", "stream": %s}' % str(stream).lower().encode()
    request = post(*fields, content=content)
    with connected(port) as raw:
        for behind in (PROBE, b""):
            raw.send(request[: -len(content)])
            time.sleep(0.2)
            raw.send(content + behind)
            response = raw.response()
            assert response.status == 200
            assert (b"[DONE]" in response.body) is stream
            assert not behind or raw.response().body == b'{"status":"ok"}'
    with connected(port) as raw:
        raw.send(post(*fields, content=SMUGGLED)[: -len(SMUGGLED)])
        time.sleep(0.2)
        raw.send(SMUGGLED)
        assert raw.response().error["code"] == "invalid_json"
        raw.send(PROBE)
        assert raw.response().body == b'{"status":"ok"}'


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("fields", [(), ("Connection: keep-alive",)], ids=["close", "keep-alive"])
def test_a_stream_to_an_http_1_0_client_ends_with_the_connection(port: int, path: str, fields: tuple[str, ...]) -> None:
    prompt = b'"messages": [{"role": "user", "content": "x"}]' if "chat" in path else b'"prompt": "x"'
    with connected(port) as raw:
        raw.send(post(*fields, content=b'{%b, "stream": true}' % prompt, target=path, version="1.0"))
        response = raw.response()
    assert response.status == 200
    assert "transfer-encoding" not in response.headers
    assert response.headers["connection"] == "close"
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.body.startswith(b"data: {")
    assert response.body.endswith(b"data: [DONE]\n\n")


def test_http_1_0_with_keep_alive_is_confirmed(port: int) -> None:
    with connected(port) as raw:
        for request in (get("Connection: keep-alive", version="1.0"), post("Connection: keep-alive", version="1.0")):
            raw.send(request)
            assert raw.response().headers["connection"] == "keep-alive"


def test_the_refusal_of_a_content_coding_names_the_accepted_one(port: int) -> None:
    for path in ("/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/tokenize", "/x/chat/completions"):
        with connected(port) as raw:
            raw.send(post("Content-Encoding: gzip", target=path))
            response = raw.response()
            assert response.status == 415
            assert response.headers["accept-encoding"] == "identity"
            assert "gzip" in response.error["message"]


def test_trailers_are_not_used_as_headers(port: int) -> None:
    with connected(port) as raw:
        raw.send(chunked(chunk(JSON), b"0\r\nX-Request-Id: forged\r\n\r\n"))
        assert raw.response().headers["x-request-id"] != "forged"


def test_a_client_that_waits_for_100_continue_gets_it_or_the_response(port: int) -> None:
    with connected(port) as raw:
        for _ in range(2):
            raw.send(post("Expect: 100-continue")[: -len(JSON)])
            assert raw._until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            raw.send(JSON)
            assert raw.response().status == 200
        # The server can't know whether the body or another request comes next, so it closes the connection.
        raw.send(get("Expect: 100-continue", "Content-Length: 44", method="POST", target="/nowhere"))
        response = raw.response()
        assert (response.status, response.headers["connection"]) == (404, "close")
        raw.send(SMUGGLED)
        assert raw.until_closed() == b""
