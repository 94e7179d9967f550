"""Answers that the server has before it has the request's body. A client may send all of it before it reads."""

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import pytest

from tests.certificates import Authority
from tests.e2e import servers
from tests.ops import able_worker
from tests.wire.raw_http import Raw, connected

SIZE = 17 << 20
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


@pytest.fixture(scope="module", params=["http", "https"])
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


LENGTH = f"Content-Length: {SIZE}"
CHUNKS = "Transfer-Encoding: chunked"
REFUSED: dict[str, tuple[int, Callable[[str], bytes], bool]] = {
    "too large": (413, lambda more: head("Host: x", KEY, LENGTH, more), True),
    "too large, chunked": (413, lambda more: head("Host: x", KEY, CHUNKS, more), True),
    "too large, HTTP/1.0": (413, lambda more: head("Host: x", KEY, LENGTH, more, version="1.0"), True),
    "too large, with an upgrade": (
        413,
        lambda more: head("Host: x", KEY, LENGTH, "Upgrade: h2c", "Connection: upgrade", more),
        True,
    ),
    "no key": (401, lambda more: head("Host: x", LENGTH, more), True),
    "no key, chunked": (401, lambda more: head("Host: x", CHUNKS, more), True),
    "no such path": (404, lambda more: head("Host: x", KEY, LENGTH, more, path="/nowhere"), True),
    "not this method": (405, lambda more: head("Host: x", KEY, LENGTH, more, method="PUT"), True),
    "a coding": (415, lambda more: head("Host: x", KEY, CHUNKS, "Content-Encoding: gzip", more), True),
    "no host": (400, lambda more: head(KEY, LENGTH, more), False),
    "two lengths": (400, lambda more: head("Host: x", KEY, LENGTH, "Content-Length: 1", more), False),
    "long headers": (431, lambda more: head("Host: x", KEY, LENGTH, "A: " + "a" * 70_000, more), False),
    "a long target": (414, lambda more: head("Host: x", KEY, LENGTH, more, path="/" + "a" * 20_000), False),
    "an expectation": (417, lambda more: head("Host: x", KEY, LENGTH, "Expect: x", more), False),
    "another transfer coding": (501, lambda more: head("Host: x", KEY, "Transfer-Encoding: gzip", more), False),
    "another version": (505, lambda more: head("Host: x", KEY, LENGTH, more, version="2.0"), False),
}
"""What is refused: its status, the head with one more field, and whether the end of its body is known."""


def send_body(raw: Raw, *, chunked: bool) -> None:
    piece = b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if chunked else PIECE
    for _ in range(SIZE // len(PIECE)):
        raw.send(piece)
    if chunked:
        raw.send(b"0\r\n\r\n")


@pytest.mark.parametrize("more", ["Connection: close", "Accept: */*", "Expect: 100-continue"])
@pytest.mark.parametrize("what", REFUSED)
def test_a_client_that_reads_after_it_has_sent_everything_reads_the_answer(
    sidecar: Sidecar, what: str, more: str
) -> None:
    status, request, is_framed = REFUSED[what]
    sent = request(more)
    with connected(sidecar.port, sidecar.tls) as raw:
        raw.send(sent)
        send_body(raw, chunked=CHUNKS.encode() in sent)
        response = raw.response()
        assert (response.status, bool(response.error)) == (status, True)
        # A server that has not sent `100 Continue` can't know whether the body comes.
        is_in_step = is_framed and ("Accept" in more or ("Expect" in more and what == "too large, chunked"))
        if is_in_step and "1.0" not in what:
            raw.send(head("Host: x", method="GET", path="/livez"))
            assert raw.response().body == b'{"status":"ok"}'
        else:
            assert response.headers["connection"] == "close"
            if is_framed or sidecar.tls is None or what == "no host":  # else TLS takes two seconds
                assert raw.rest() == b""


@pytest.mark.parametrize("more", ["Connection: close", "Accept: */*"])
def test_a_caller_above_its_rate(worker: str, more: str) -> None:
    with ExitStack() as stack:
        port = started(stack, worker, "--requests-per-minute", "1")
        for k in range(2):
            with connected(port) as raw:
                raw.send(head("Host: x", LENGTH, more))
                send_body(raw, chunked=False)
                assert raw.response().status == (429 if k else 413)


def first_of(port: int, stack: ExitStack) -> Raw:
    """Another connection is known to be gone only after a while."""
    while True:
        first = stack.enter_context(connected(port))
        first.send(head("Host: x", method="GET", path="/livez"))
        if first.response().status == 200:
            return first


def test_a_connection_too_many(worker: str) -> None:
    with ExitStack() as stack:
        port = started(stack, worker, "--max-connections", "1")
        first = first_of(port, stack)
        for _ in range(3):
            with connected(port) as raw:
                raw.send(head("Host: x", LENGTH))
                send_body(raw, chunked=False)
                assert raw.response().error["code"] == "server_overloaded"
                assert raw.rest() == b""
        many = [stack.enter_context(connected(port)) for _ in range(200)]
        assert [raw.response().status for raw in many] == [503] * 200
        first.send(head("Host: x", method="GET", path="/livez"))
        assert first.response().status == 200


def test_a_body_that_does_not_come(worker: str) -> None:
    with ExitStack() as stack:
        port = started(stack, worker, "--body-timeout", "1")
        raw = stack.enter_context(connected(port))
        raw.send(head("Host: x", f"Content-Length: {1 << 20}"))
        response = raw.response()
        assert (response.status, response.error["code"]) == (408, "request_timeout")
        assert raw.rest() == b""


@pytest.mark.parametrize("more", ["Connection: close", "Accept: */*"])
@pytest.mark.parametrize("status", [401, 400])
def test_a_body_without_end_is_cut_off(sidecar: Sidecar, status: int, more: str) -> None:
    """By its size: there is no hurry."""
    host = ("Host: x",) if status == 401 else ()
    with connected(sidecar.port, sidecar.tls) as raw:
        raw.send(head(*host, f"Content-Length: {1 << 40}", more))
        sent = 0
        with suppress(OSError):
            while sent < 1 << 30:
                raw.send(PIECE)
                sent += len(PIECE)
    assert SIZE < sent < 1 << 30
