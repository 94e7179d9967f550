"""Responses that the server sends before it has the whole request body, to clients that read only after sending it
all."""

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import pytest

from tests.certificates import Authority
from tests.e2e import servers
from tests.ops import able_worker
from tests.wire.raw_http import Raw, connected

BODY_BYTES = 17 << 20
"""Bytes; the limit is 16 MiB."""
PIECE = b" " * (1 << 20)
KEY = "Authorization: Bearer k"


@dataclass(frozen=True)
class Sidecar:
    port: int
    tls: ssl.SSLContext | None = None


@pytest.fixture(scope="module")
def worker() -> Iterator[str]:
    with able_worker.listening() as address:
        yield address


def started(stack: ExitStack, worker: str, *options: str) -> int:
    return int(stack.enter_context(servers.sidecar(worker, *options))[1].rpartition(":")[2])


@pytest.fixture(scope="module", params=["http", pytest.param("https", marks=pytest.mark.slow)])
def sidecar(request: pytest.FixtureRequest, worker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    with ExitStack() as stack:
        if request.param == "http":
            yield Sidecar(started(stack, worker, "--api-key", "k"))
            return
        authority = Authority(tmp_path_factory.mktemp("tls") / "ours")
        certificate, key = authority.issue("localhost")
        tls = ssl.create_default_context(cafile=str(authority.file))
        options = ("--api-key", "k", "--tls-cert", str(certificate), "--tls-key", str(key))
        yield Sidecar(started(stack, worker, *options), tls)


def head(*fields: str, method: str = "POST", path: str = "/v1/completions", version: str = "1.1") -> bytes:
    return "".join(f"{line}\r\n" for line in [f"{method} {path} HTTP/{version}", *fields, ""]).encode()


LENGTH = f"Content-Length: {BODY_BYTES}"
CHUNKS = "Transfer-Encoding: chunked"
REFUSED: dict[str, tuple[int, Callable[[str], bytes], bool]] = {
    "too large": (413, lambda field: head("Host: x", KEY, LENGTH, field), True),
    "too large, chunked": (413, lambda field: head("Host: x", KEY, CHUNKS, field), True),
    "too large, HTTP/1.0": (413, lambda field: head("Host: x", KEY, LENGTH, field, version="1.0"), True),
    "too large, with an upgrade": (
        413,
        lambda field: head("Host: x", KEY, LENGTH, "Upgrade: h2c", "Connection: upgrade", field),
        True,
    ),
    "no key": (401, lambda field: head("Host: x", LENGTH, field), True),
    "no key, chunked": (401, lambda field: head("Host: x", CHUNKS, field), True),
    "no such path": (404, lambda field: head("Host: x", KEY, LENGTH, field, path="/nowhere"), True),
    "not this method": (405, lambda field: head("Host: x", KEY, LENGTH, field, method="PUT"), True),
    "a coding": (415, lambda field: head("Host: x", KEY, CHUNKS, "Content-Encoding: gzip", field), True),
    "no host": (400, lambda field: head(KEY, LENGTH, field), False),
    "two lengths": (400, lambda field: head("Host: x", KEY, LENGTH, "Content-Length: 1", field), False),
    "long headers": (431, lambda field: head("Host: x", KEY, LENGTH, "A: " + "a" * 70_000, field), False),
    "a long target": (414, lambda field: head("Host: x", KEY, LENGTH, field, path="/" + "a" * 20_000), False),
    "an expectation": (417, lambda field: head("Host: x", KEY, LENGTH, "Expect: x", field), False),
    "another transfer coding": (501, lambda field: head("Host: x", KEY, "Transfer-Encoding: gzip", field), False),
    "another version": (505, lambda field: head("Host: x", KEY, LENGTH, field, version="2.0"), False),
}
"""Refused requests: the status, the head with an extra field, and whether the server finds the end of the body."""


def send_body(raw: Raw, *, chunked: bool) -> None:
    piece = b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if chunked else PIECE
    for _ in range(BODY_BYTES // len(PIECE)):
        raw.send(piece)
    if chunked:
        raw.send(b"0\r\n\r\n")


@pytest.mark.parametrize("extra_field", ["Connection: close", "Accept: */*", "Expect: 100-continue"])
@pytest.mark.parametrize("case", REFUSED)
def test_a_client_that_reads_after_sending_everything_gets_the_response(
    sidecar: Sidecar, case: str, extra_field: str
) -> None:
    status, request, is_framed = REFUSED[case]
    request_head = request(extra_field)
    with connected(sidecar.port, sidecar.tls) as raw:
        raw.send(request_head)
        send_body(raw, chunked=CHUNKS.encode() in request_head)
        response = raw.response()
        assert (response.status, bool(response.error)) == (status, True)
        # Without `100 Continue`, the server can't know whether the body comes.
        is_in_step = is_framed and (
            "Accept" in extra_field or ("Expect" in extra_field and case == "too large, chunked")
        )
        if is_in_step and "1.0" not in case:
            raw.send(head("Host: x", method="GET", path="/livez"))
            assert raw.response().body == b'{"status":"ok"}'
        else:
            assert response.headers["connection"] == "close"
            if is_framed or sidecar.tls is None or case == "no host":  # else TLS takes two seconds
                assert raw.until_closed() == b""


@pytest.mark.slow
@pytest.mark.parametrize("extra_field", ["Connection: close", "Accept: */*"])
def test_a_caller_above_its_rate_gets_the_response(worker: str, extra_field: str) -> None:
    with ExitStack() as stack:
        port = started(stack, worker, "--requests-per-minute", "1")
        for k in range(2):
            with connected(port) as raw:
                raw.send(head("Host: x", LENGTH, extra_field))
                send_body(raw, chunked=False)
                assert raw.response().status == (429 if k else 413)


def only_connection(port: int, stack: ExitStack) -> Raw:
    """Opens the only allowed connection; the server notices the end of an earlier one only after a while."""
    while True:
        first = stack.enter_context(connected(port))
        first.send(head("Host: x", method="GET", path="/livez"))
        if first.response().status == 200:
            return first


@pytest.mark.slow
def test_a_connection_beyond_the_limit_gets_a_response(worker: str) -> None:
    with ExitStack() as stack:
        port = started(stack, worker, "--max-connections", "1")
        first = only_connection(port, stack)
        for _ in range(3):
            with connected(port) as raw:
                raw.send(head("Host: x", LENGTH))
                send_body(raw, chunked=False)
                assert raw.response().error["code"] == "server_overloaded"
                assert raw.until_closed() == b""
        connections = [stack.enter_context(connected(port)) for _ in range(200)]
        assert [raw.response().status for raw in connections] == [503] * 200
        first.send(head("Host: x", method="GET", path="/livez"))
        assert first.response().status == 200


@pytest.mark.slow
def test_a_body_that_does_not_come_is_a_408(worker: str) -> None:
    with ExitStack() as stack:
        port = started(stack, worker, "--body-timeout", "1")
        raw = stack.enter_context(connected(port))
        raw.send(head("Host: x", f"Content-Length: {1 << 20}"))
        response = raw.response()
        assert (response.status, response.error["code"]) == (408, "request_timeout")
        assert raw.until_closed() == b""


@pytest.mark.slow
@pytest.mark.parametrize("extra_field", ["Connection: close", "Accept: */*"])
@pytest.mark.parametrize("status", [401, 400])
def test_an_endless_body_is_cut_off(sidecar: Sidecar, status: int, extra_field: str) -> None:
    """Because of its size, long before a timeout."""
    host = ("Host: x",) if status == 401 else ()
    with connected(sidecar.port, sidecar.tls) as raw:
        raw.send(head(*host, f"Content-Length: {1 << 40}", extra_field))
        n_sent = 0
        with suppress(OSError):
            while n_sent < 1 << 30:
                raw.send(PIECE)
                n_sent += len(PIECE)
    assert BODY_BYTES < n_sent < 1 << 30
