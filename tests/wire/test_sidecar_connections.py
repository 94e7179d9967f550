"""Connections to a real process: slow clients, endless headers, TLS."""

import asyncio
import json
import os
import re
import signal
import socket
import ssl
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from openai import AsyncOpenAI, AuthenticationError, RateLimitError

from anyserve_common.pem_files import PEMFiles
from openai_server.http.tls import TLS, TLSError
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.wire.fake_worker import FakeWorker, inputs_of, last_token, serving, token, whole
from tests.wire.test_sidecar_process import TIMEOUT, Running, sidecar

pytestmark = pytest.mark.slow

BODY = json.dumps({"prompt": "a b", "stream": True}).encode()
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(BODY)
SHORT_TIMEOUTS = ("--header-timeout", "0.5", "--body-timeout", "0.5", "--keep-alive-timeout", "1")


@asynccontextmanager
async def started(*args: str, workers: int = 1, worker: FakeWorker | None = None) -> AsyncIterator[Running]:
    async with serving(worker or FakeWorker()) as port, sidecar(port, *args, workers=workers) as running:
        yield running


class Client:
    """One connection on which a test writes and reads raw bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.n_dripped = 0

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def drip(self, data: bytes) -> bytes:
        """Sends a byte every 0.05 s until the server closes the connection; returns the server's response."""
        response = asyncio.create_task(self.until_closed())
        for self.n_dripped, byte in enumerate(data, start=1):
            self.send(bytes([byte]))
            await asyncio.wait([response], timeout=0.05)
            if response.done():
                break
        return await response

    async def exchange(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, bytes]:
        """Returns status and body; the chunks of a stream are one body."""
        content = b"" if body is None else json.dumps(body).encode()
        all_headers = {"host": "x", "content-length": str(len(content)), **headers}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in all_headers.items())]
        self.send("\r\n".join([*lines, "", ""]).encode() + content)
        async with asyncio.timeout(TIMEOUT):
            head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
            if length := re.search(rb"content-length: (\d+)", head):
                return int(head.split()[1]), await self.reader.readexactly(int(length[1]))
            return int(head.split()[1]), await self.reader.readuntil(b"\r\n0\r\n\r\n")

    async def until_closed(self) -> bytes:
        """Returns all bytes until the server closes the connection."""
        async with asyncio.timeout(TIMEOUT):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b"reset"


@asynccontextmanager
async def connected(running: Running, tls: ssl.SSLContext | None = None) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port, ssl=tls)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


def error(response: bytes) -> tuple[int, Any]:
    head, _, body = response.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    envelope = json.loads(body)["error"]
    assert set(envelope) == {"message", "type", "param", "code"}
    return int(head.split()[1]), envelope


# ---- Slow clients


async def test_a_slow_client_is_cut_off_at_any_point() -> None:
    async with started(*SHORT_TIMEOUTS) as running:
        for k in (1, 5, len(HEAD) - 20, len(HEAD) - 1):
            async with connected(running) as client:
                client.send(HEAD[:k])
                status, envelope = error(await client.until_closed())
                assert (status, envelope["code"]) == (408, "request_timeout")
                assert "headers" in envelope["message"]
        for k in (0, 1, len(BODY) - 1):
            async with connected(running) as client:
                client.send(HEAD + BODY[:k])
                status, envelope = error(await client.until_closed())
                assert (status, envelope["code"]) == (408, "request_timeout")
                assert "body" in envelope["message"]


@pytest.mark.parametrize(
    "data", [HEAD, b"\r\n" * 50, HEAD + BODY.ljust(len(BODY) + 100)], ids=["headers", "empty lines", "body"]
)
async def test_a_byte_now_and_then_does_not_extend_the_timeout(data: bytes) -> None:
    skipped = len(HEAD) if data.startswith(HEAD + BODY) else 0
    async with started(*SHORT_TIMEOUTS) as running, connected(running) as client:
        head = HEAD.replace(b": %d" % len(BODY), b": %d" % (len(data) - skipped))
        client.send(head if skipped else b"")
        started_at = asyncio.get_running_loop().time()
        assert error(await client.drip(data[skipped:]))[0] == 408
        assert asyncio.get_running_loop().time() - started_at > 0.4
        assert client.n_dripped < len(data) - skipped


async def test_a_silent_connection_is_closed_without_a_response() -> None:
    async with started(*SHORT_TIMEOUTS) as running, connected(running) as client:
        assert await client.until_closed() == b""


async def test_an_idle_connection_is_closed_later_than_a_slow_one() -> None:
    async with started("--header-timeout", "0.3", "--keep-alive-timeout", "2") as running, connected(running) as client:
        client.send(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        await asyncio.wait_for(client.reader.readuntil(b'{"status":"ok"}'), TIMEOUT)
        await asyncio.sleep(0.6)
        client.send(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        await asyncio.wait_for(client.reader.readuntil(b'{"status":"ok"}'), TIMEOUT)
        began = asyncio.get_running_loop().time()
        assert await client.until_closed() == b""
        assert 1.5 < asyncio.get_running_loop().time() - began < 4


async def test_a_slow_second_request_is_cut_off_as_well() -> None:
    async with started("--header-timeout", "0.3") as running, connected(running) as client:
        client.send(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        await asyncio.wait_for(client.reader.readuntil(b'{"status":"ok"}'), TIMEOUT)
        assert error(await client.drip(b"\r\nGET /livez HTTP/1.1\r\n"))[0] == 408


async def test_a_body_can_not_trickle_in_forever_after_an_early_refusal() -> None:
    async with started(*SHORT_TIMEOUTS, "--api-key", "k") as running, connected(running) as client:
        client.send(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
        await asyncio.wait_for(client.reader.readuntil(b"invalid_api_key"), TIMEOUT)
        began = asyncio.get_running_loop().time()
        await client.drip(b" " * 100)
        assert asyncio.get_running_loop().time() - began < 2.5


async def test_a_running_response_has_no_timeout_even_if_a_second_request_has_begun() -> None:
    async def slowly(_: Any) -> AsyncIterator[Any]:
        yield token("one")
        await asyncio.sleep(2)
        yield last_token("two")

    async with started(*SHORT_TIMEOUTS, worker=FakeWorker(stream=slowly)) as running, connected(running) as client:
        client.send(HEAD + BODY + b"GET /li")
        response = await asyncio.wait_for(client.reader.readuntil(b"0\r\n\r\n"), TIMEOUT)
        assert b"two" in response
        assert b"[DONE]" in response
        await client.until_closed()


async def test_slow_clients_do_not_delay_others() -> None:
    async with started("--header-timeout", "20") as running:
        clients = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", running.port) for _ in range(300)))
        try:
            for i, (_, writer) in enumerate(clients):
                writer.write((HEAD + BODY)[: i % len(HEAD + BODY)])
            for _ in range(5):
                async with connected(running) as client:
                    began = asyncio.get_running_loop().time()
                    assert (await client.exchange("POST", "/v1/completions", {"prompt": "x"}))[0] == 200
                    assert asyncio.get_running_loop().time() - began < 2
        finally:
            for _, writer in clients:
                writer.transport.abort()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_does_not_read_loses_its_slot(stream: bool) -> None:
    async def stream_answer(request: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        for _ in range(100):
            yield token("x" * (100_000 if inputs_of(request)["prompt"] == [b"much"] else 1))
        yield last_token()

    async def whole_answer(request: ModelInferRequest) -> ModelInferResponse:
        return whole("x" * (10_000_000 if inputs_of(request)["prompt"] == [b"much"] else 1))

    worker = FakeWorker(whole_answer, stream_answer)
    limits = ("--max-concurrency", "1", "--max-queue", "0", "--send-timeout", "0.5", "--keep-alive-timeout", "1")
    async with started(*limits, worker=worker) as running:
        body = json.dumps({"prompt": "much", "stream": stream}).encode()
        with socket.create_connection(("127.0.0.1", running.port)) as idle_client:
            idle_client.sendall(
                b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
            )
            await asyncio.wait_for(worker.arrived.get(), TIMEOUT)
            async with asyncio.timeout(TIMEOUT), connected(running) as client:
                small = {"prompt": "x", "stream": stream}
                while (await client.exchange("POST", "/v1/completions", small))[0] != 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            await asyncio.sleep(2)
            # The server has closed the connection: only what its buffers held can be read.
            received = await asyncio.to_thread(read_all, idle_client)
        assert b"x" * 100 in received
        assert len(received) < 10_000_000


def read_all(connection: socket.socket) -> bytes:
    connection.settimeout(TIMEOUT)
    received = bytearray()
    with suppress(ConnectionResetError):
        while part := connection.recv(1 << 20):
            received += part
    return bytes(received)


async def test_requests_beyond_the_capacity_are_refused_at_once_and_the_others_answered() -> None:
    may_answer = asyncio.Event()

    async def waits(_: ModelInferRequest) -> ModelInferResponse:
        await may_answer.wait()
        return whole("x")

    worker = FakeWorker(waits)
    async with (
        started("--max-concurrency", "4", "--max-queue", "4", worker=worker) as running,
        AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(connected(running)) for _ in range(80)]

        async def completion_status(client: Client) -> int:
            return (await client.exchange("POST", "/v1/completions", {"prompt": "x"}))[0]

        async with asyncio.timeout(TIMEOUT):
            requests = {asyncio.create_task(completion_status(client)) for client in clients}
            # All others are refused while the admitted requests still run or wait.
            statuses = [await status for _, status in zip(range(72), asyncio.as_completed(requests), strict=False)]
            assert statuses == [429] * 72
            admitted = [request for request in requests if not request.done()]
            assert len(admitted) == 8
            may_answer.set()
            assert await asyncio.gather(*admitted) == [200] * 8
            assert await completion_status(clients[0]) == 200


# ---- Endless headers


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"a" * 1000,
        b"GET / HTTP/1.1\r\n" + b"a" * 1000,
        b"GET / HTTP/1.1\r\na: " + b"a" * 1000,
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200,
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 200,
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1;" + b"a" * 1000,
    ],
    ids=["path", "a name", "a value", "headers", "trailers", "a chunk's extension"],
)
async def test_endless_headers_close_the_connection(data: bytes) -> None:
    """Closed because of their size, long before a timeout."""
    hour = ("--header-timeout", "3600", "--body-timeout", "3600")
    async with started(*hour) as running, connected(running) as client:
        client.send(data)
        endless = data[-600:] if data.endswith(b"\r\n") else data[-1:] * 600
        client.send(endless * 400)
        async with asyncio.timeout(TIMEOUT):
            with suppress(ConnectionError):
                await client.until_closed()


async def test_bytes_that_are_not_http_get_the_error_envelope() -> None:
    async with started() as running, connected(running) as client:
        client.send(b"\x16\x03\x01 hello\r\n\r\n")
        status, envelope = error(await client.until_closed())
        assert (status, envelope["code"]) == (400, "invalid_http")


# ---- Keys


async def test_no_key_reaches_the_log_or_the_command_line_of_a_worker_process() -> None:
    key = "sk-very-secret"
    args = ("--log-level", "debug", "--access-log", "--api-key", key)
    async with started(*args, workers=2) as running:
        async with connected(running) as client:
            replies = [
                await client.exchange("POST", "/v1/completions", body, **{header: value.format(sent_key)})
                for sent_key in (key, key + "-wrong")
                for header, value in (("authorization", "Bearer {}"), ("api-key", "{}"), ("x-api-key", "{}"))
                for body in ({"prompt": "x"}, {"prompt": "x", "stream": True}, {"prompt": 3})
            ]
            assert [status for status, _ in replies] == [200, 200, 400] * 3 + [401] * 9
            assert key not in str(replies)
        commands = await asyncio.to_thread(lambda: [Path(f"/proc/{id}/cmdline").read_text() for id in running.children])
        assert key not in str(commands)
        running.process.send_signal(signal.SIGTERM)
        assert await running.exit_status() == 0
        log = await running.stderr.read()
        assert b"401" in log
        assert key.encode() not in log


# ---- TLS


class Certificates:
    """Certificate files: the server's certificate and key, and the CA of its clients."""

    def __init__(self, directory: Path) -> None:
        self.cert, self.key, self.client_ca = (directory / name for name in ("cert.pem", "key.pem", "client-ca.pem"))
        self.renew()

    def renew(self) -> None:
        """Issues everything from new CAs, so that the old certificates are worthless."""
        self.ca, self.clients = trustme.CA(), trustme.CA()
        server_certificate = self.ca.issue_cert("127.0.0.1", "localhost")
        replace_file(self.key, server_certificate.private_key_pem.bytes())
        replace_file(self.cert, b"".join(blob.bytes() for blob in server_certificate.cert_chain_pems))
        replace_file(self.client_ca, self.clients.cert_pem.bytes())

    def client(self, *, shows: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        if shows:
            self.clients.issue_cert("client@example.com").configure_cert(context)
        return context


def replace_file(path: Path, content: bytes) -> None:
    """Replaces the file in one step, as certificate renewals should."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    os.replace(new, path)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


async def completed(running: Running, context: ssl.SSLContext) -> bytes:
    async with connected(running, context) as client:
        status, body = await client.exchange("POST", "/v1/completions", {"prompt": "a b", "stream": True})
        assert status == 200
        assert b"data: [DONE]" in body
        return body


async def refused(running: Running, context: ssl.SSLContext) -> bool:
    try:
        await completed(running, context)
    except (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError):
        return True
    return False


@pytest.mark.parametrize("workers", [1, 2])
async def test_https_is_served_and_plain_http_is_not(certificates: Certificates, workers: int) -> None:
    args = ("--tls-cert", str(certificates.cert), "--tls-key", str(certificates.key))
    async with started(*args, workers=workers) as running:
        assert b'"text":"a"' in await completed(running, certificates.client())
        assert await refused(running, ssl.create_default_context())
        async with connected(running) as plain:
            plain.send(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
            assert b"HTTP" not in await plain.until_closed()
        running.process.send_signal(signal.SIGTERM)
        assert await running.exit_status() == 0


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_mutual_tls_admits_only_certificates_of_the_clients_ca(
    certificates: Certificates, version: ssl.TLSVersion
) -> None:
    args = ("--tls-cert", str(certificates.cert), "--tls-key", str(certificates.key))
    async with started(*args, "--tls-client-ca", str(certificates.client_ca)) as running:
        trusted, without_certificate, untrusted = (certificates.client(shows=shows) for shows in (True, False, False))
        trustme.CA().issue_cert("client@example.com").configure_cert(untrusted)
        for context in (trusted, without_certificate, untrusted):
            context.maximum_version = version
        await completed(running, trusted)
        assert await refused(running, without_certificate)
        assert await refused(running, untrusted)


@pytest.mark.parametrize("workers", [1, 2])
async def test_renewed_certificates_are_loaded_without_a_restart(certificates: Certificates, workers: int) -> None:
    args = ("--tls-cert", str(certificates.cert), "--tls-key", str(certificates.key))
    async with started(*args, "--tls-client-ca", str(certificates.client_ca), workers=workers) as running:
        before = certificates.client(shows=True)
        async with connected(running, before) as kept_connection:
            await kept_connection.exchange("GET", "/livez")
            replace_file(certificates.key, b"half a key")
            for _ in range(workers):
                await running.line_with(b"keeping the previous contents: can't load the certificate")
            await completed(running, before)

            certificates.renew()
            for _ in range(workers):
                await running.line_with(b": reloaded")
            after = certificates.client(shows=True)
            for _ in range(3 * workers):
                await completed(running, after)
                assert await refused(running, before)
            assert (await kept_connection.exchange("GET", "/livez"))[0] == 200  # the connection is still open


async def test_a_tls_handshake_must_finish_within_the_header_timeout(certificates: Certificates) -> None:
    files = ("--tls-cert", str(certificates.cert), "--tls-key", str(certificates.key))
    async with started(*files, *SHORT_TIMEOUTS) as running, connected(running) as client:
        began = asyncio.get_running_loop().time()
        assert await client.until_closed() in (b"", b"reset")
        assert 0.4 < asyncio.get_running_loop().time() - began < 9  # the default is 10 s


@pytest.mark.parametrize("tls", [False, True])
async def test_connections_beyond_the_limit_are_refused(certificates: Certificates, tls: bool) -> None:
    context = certificates.client() if tls else None
    files = ("--tls-cert", str(certificates.cert), "--tls-key", str(certificates.key)) if tls else ()
    async with started("--max-connections", "2", *files) as running:
        async with connected(running, context) as first, connected(running, context):
            assert (await first.exchange("GET", "/v1/models"))[0] == 200
            async with connected(running, context) as third:
                status, envelope = error(await third.until_closed())
                assert (status, envelope["code"], envelope["type"]) == (503, "server_overloaded", "server_error")
            assert (await first.exchange("GET", "/v1/models"))[0] == 200
        async with asyncio.timeout(TIMEOUT):
            while True:  # until the server has noticed that the first two are closed
                async with connected(running, context) as client:
                    with suppress(ConnectionError, asyncio.IncompleteReadError):
                        if (await client.exchange("GET", "/v1/models"))[0] == 200:
                            break


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("option", "content", "problem"),
    [
        ("--tls-cert", None, "can't load the certificate and its key from {path} and {key}: No such file or directory"),
        ("--tls-cert", b"nonsense", "can't load the certificate and its key from {path} and {key}: "),
        ("--tls-key", b"nonsense", "can't load the certificate and its key from {cert} and {path}: "),
        ("--tls-client-ca", b"nonsense", "can't load the client CA from {path}: "),
    ],
)
async def test_wrong_certificate_files_are_one_clear_line(
    certificates: Certificates, tmp_path: Path, option: str, content: bytes | None, problem: str, workers: str
) -> None:
    path = tmp_path / "wrong.pem"
    if content is not None:
        path.write_bytes(content)
    files = {"--tls-cert": certificates.cert, "--tls-key": certificates.key, option: path}
    args = [str(word) for pair in files.items() for word in pair]
    command = (sys.executable, "-m", "openai_server", "--port", "0", "--workers", workers, *args)
    process = await asyncio.create_subprocess_exec(*command, stderr=PIPE)
    _, output = await asyncio.wait_for(process.communicate(), TIMEOUT)
    assert output.decode().startswith(
        "Error: " + problem.format(path=path, cert=certificates.cert, key=certificates.key)
    )
    assert (output.count(b"\n"), process.returncode) == (1, 1)


async def test_a_key_with_a_password_is_refused_without_a_prompt(certificates: Certificates) -> None:
    key = load_pem_private_key(certificates.key.read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    replace_file(certificates.key, locked)
    with pytest.raises(TLSError, match=r"can't load the certificate and its key .*: the key is encrypted"):
        TLS(PEMFiles(certificates.cert, certificates.key))


async def test_certificate_and_key_can_be_in_one_file(certificates: Certificates) -> None:
    content = certificates.key.read_bytes() + certificates.cert.read_bytes()
    replace_file(certificates.cert, content)
    async with started("--tls-cert", str(certificates.cert)) as running:
        await completed(running, certificates.client())


# ---- The `openai` package


async def test_the_openai_package_understands_errors_and_limits() -> None:
    def client(running: Running, key: str, retries: int = 0) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"http://127.0.0.1:{running.port}/v1", api_key=key, max_retries=retries)

    async with started("--api-key", "a", "--api-key", "b", "--requests-per-minute", "120") as running:
        async with client(running, "wrong") as openai:
            with pytest.raises(AuthenticationError) as unauthorized:
                await openai.completions.create(model="tiny", prompt="x")
            assert unauthorized.value.code == "invalid_api_key"
        async with client(running, "a") as openai:

            async def exhaust_the_limit() -> None:
                while True:  # the limit refills meanwhile
                    await openai.completions.create(model="tiny", prompt="x")

            with pytest.raises(RateLimitError) as limited:
                await exhaust_the_limit()
            assert limited.value.code == "rate_limit_exceeded"
            assert limited.value.response.headers["x-ratelimit-remaining-requests"] == "0"
        async with client(running, "a", retries=2) as openai:  # it retries after the returned delay
            await openai.completions.create(model="tiny", prompt="x")
        async with client(running, "b") as openai:
            raw = await openai.completions.with_raw_response.create(model="tiny", prompt="x")
            assert raw.headers["x-ratelimit-remaining-requests"] == "119"
