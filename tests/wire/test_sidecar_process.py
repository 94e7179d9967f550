"""`python -m openai_server` as a process: real sockets, signals, and the `openai` package as its client."""

import asyncio
import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from openai import APIError, AsyncOpenAI, BadRequestError, NotFoundError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.openai_server.tokenizing.vocabularies import byte_level, folder_with
from tests.ops.client import get, post
from tests.wire.exposition import Scrape
from tests.wire.fake_worker import FakeWorker, Refusal, hangs, hangs_midway, last_token, serving, streams, token

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("both_kinds_of_stream")]

TIMEOUT = 30


@dataclass
class Running:
    process: Process
    port: int
    workers: int
    children: list[int] = field(default_factory=list)
    """Process ids of the worker processes, if there are several."""
    greeting: bytes = b""
    """The first log line."""

    @property
    def stderr(self) -> asyncio.StreamReader:
        assert self.process.stderr is not None
        return self.process.stderr

    async def drain_with(self, signal_number: signal.Signals) -> None:
        """Sends the signal, and returns once all processes have logged that they drain."""
        self.process.send_signal(signal_number)
        for _ in range(self.workers):
            await self.line_with(b"finishing the running requests")

    async def line_with(self, words: bytes) -> bytes:
        """Returns the next line that contains `words`."""
        async with asyncio.timeout(TIMEOUT):
            while words not in (line := await self.stderr.readline()):
                assert line, "the sidecar ended"
        return line

    async def exit_status(self) -> int:
        return await asyncio.wait_for(self.process.wait(), TIMEOUT)


@asynccontextmanager
async def sidecar(worker_port: int, *args: str, workers: int = 1) -> AsyncIterator[Running]:
    command = (sys.executable, "-m", "openai_server", "--port", "0", "--anyserve-endpoint", f"127.0.0.1:{worker_port}")
    process = await asyncio.create_subprocess_exec(*command, "--workers", str(workers), *args, stderr=PIPE)
    try:
        running = Running(process, 0, workers)
        line = await running.line_with(b"listening on")
        address = re.search(rb"https?://127\.0\.0\.1:(\d+)", line)
        assert address is not None, line
        running.port, running.greeting = int(address[1]), line
        while workers > 1 and len(running.children) < workers:
            line = await running.line_with(b"has started")
            pid = re.search(rb"worker process (\d+)", line)
            assert pid is not None, line
            running.children.append(int(pid[1]))
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def open_post(port: int, path: str, body: object) -> AsyncIterator[asyncio.StreamReader]:
    """Sends a request and yields the reader of its response. Leaving the context closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    content = json.dumps(body).encode()
    writer.write(
        b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (path.encode(), len(content), content)
    )
    try:
        yield reader
    finally:
        writer.close()


def client(port: int) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=TIMEOUT)


async def test_the_openai_package_works_with_the_sidecar() -> None:
    async with serving(FakeWorker()) as worker_port, sidecar(worker_port) as running, client(running.port) as openai:
        assert [model.id async for model in openai.models.list()] == ["tiny"]
        completion = await openai.completions.create(model="tiny", prompt=["a", "b"], n=2)
        assert [choice.text for choice in completion.choices] == ["a", "a", "b", "b"]
        chat = await openai.chat.completions.create(model="llamacpp", messages=[{"role": "user", "content": "hi"}])
        assert chat.choices[0].message.content == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        stream = await openai.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        content = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert content == "<|im_start|>userhi<|im_end|><|im_start|>assistant"
        assert chunks[-1].usage is not None
        with pytest.raises(NotFoundError) as unknown:
            await openai.completions.create(model="other", prompt="a")
        assert unknown.value.code == "model_not_found"
        with pytest.raises(BadRequestError) as unsupported:
            await openai.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "a"}], verbosity="low"
            )
        assert (unsupported.value.param, unsupported.value.code) == ("verbosity", "unsupported_parameter")


async def test_the_openai_package_reads_responses() -> None:
    worker = FakeWorker(stream=streams(token("a"), fails=Refusal("INTERNAL", "oops")))
    async with serving(worker) as worker_port, sidecar(worker_port) as running, client(running.port) as openai:
        response = await openai.responses.create(model="tiny", input="hi", instructions="be brief")
        history: Any = [*response.output, {"role": "user", "content": "and"}]
        assert response.output_text.endswith("user\nhi<|im_end|>\n<|im_start|>assistant\n")
        again = await openai.responses.create(input=history)
        assert again.output_text.startswith("<|im_start|>assistant\n" + response.output_text)
        with pytest.raises(BadRequestError) as unsupported:
            await openai.responses.create(input="hi", previous_response_id=response.id)
        assert unsupported.value.param == "previous_response_id"
        stream = await openai.responses.create(input="hi", stream=True)
        kinds = [(await anext(stream)).type for _ in range(5)]
        assert kinds[-1] == "response.output_text.delta"
        with pytest.raises(APIError, match=r"The model backend failed\."):
            await anext(stream)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_closed_connection_cancels_the_call(stream: bool) -> None:
    worker = FakeWorker(hangs, hangs_midway)
    async with serving(worker) as worker_port, sidecar(worker_port) as running:
        async with open_post(running.port, "/v1/completions", {"prompt": "x", "stream": stream}) as reader:
            id = await asyncio.wait_for(worker.arrived.get(), TIMEOUT)
            if stream:
                await asyncio.wait_for(reader.readuntil(b"one"), TIMEOUT)
            assert worker.cancelled.empty()
        assert await asyncio.wait_for(worker.cancelled.get(), TIMEOUT) == id


@pytest.mark.parametrize("workers", [1, 2])
async def test_sigterm_lets_the_running_response_finish(workers: int) -> None:
    may_end = asyncio.Event()

    async def stream(_: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        yield token("one")
        await may_end.wait()
        yield last_token("two")

    async with (
        serving(FakeWorker(stream=stream)) as worker_port,
        sidecar(worker_port, workers=workers) as running,
        open_post(running.port, "/v1/completions", {"prompt": "x", "stream": True}) as reader,
    ):
        await asyncio.wait_for(reader.readuntil(b"one"), TIMEOUT)
        await running.drain_with(signal.SIGTERM)
        may_end.set()
        remainder = await asyncio.wait_for(reader.read(), TIMEOUT)
        assert b"two" in remainder
        assert b"[DONE]" in remainder
        assert await running.exit_status() == 0


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_that_does_not_finish_in_time_is_aborted(stream: bool, workers: int) -> None:
    worker = FakeWorker(hangs, hangs_midway)
    async with (
        serving(worker) as worker_port,
        sidecar(worker_port, "--drain-timeout", "1", workers=workers) as running,
        open_post(running.port, "/v1/completions", {"prompt": "x", "stream": stream}) as reader,
    ):
        await asyncio.wait_for(worker.arrived.get(), TIMEOUT)
        await running.drain_with(signal.SIGINT)
        response = await asyncio.wait_for(reader.read(), TIMEOUT)
        assert b'"message":"The server is shutting down."' in response
        assert response.startswith(b"HTTP/1.1 503") != stream
        assert (b"[DONE]" in response) == stream
        await asyncio.wait_for(worker.cancelled.get(), TIMEOUT)
        assert await running.exit_status() == 0
        assert b"Traceback" not in await running.stderr.read()


@pytest.mark.parametrize("workers", [1, 2])
async def test_requests_are_answered_during_the_drain_delay(workers: int) -> None:
    async with (
        serving(FakeWorker()) as worker_port,
        sidecar(worker_port, "--drain-delay", "600", workers=workers) as running,
    ):
        url = f"http://127.0.0.1:{running.port}"
        assert "connection" not in (await asyncio.to_thread(get, url, "/readyz")).headers
        await running.drain_with(signal.SIGTERM)
        for stream in (False, True):
            result = await asyncio.to_thread(post, url, {"prompt": "x", "stream": stream}, "/v1/completions")
            assert (result.good, result.headers["connection"]) == (True, "close")
        readiness = await asyncio.to_thread(get, url, "/readyz")
        assert (readiness.status, readiness.headers["connection"]) == (503, "close")
        running.process.send_signal(signal.SIGTERM)  # the second signal ends the delay
        assert await running.exit_status() == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_second_sigterm_ends_the_drain_at_once(workers: int) -> None:
    worker = FakeWorker(hangs)
    async with (
        serving(worker) as worker_port,
        sidecar(worker_port, "--drain-timeout", "600", workers=workers) as running,
        open_post(running.port, "/v1/completions", {"prompt": "x"}),
    ):
        await asyncio.wait_for(worker.arrived.get(), TIMEOUT)
        await running.drain_with(signal.SIGTERM)
        running.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(worker.cancelled.get(), TIMEOUT)
        assert await running.exit_status() == 0
        assert b"Traceback" not in await running.stderr.read()


@pytest.mark.parametrize("module", ["openai_server", "anyserve_worker"])
def test_ctrl_c_during_import_prints_no_traceback(module: str) -> None:
    """The program interrupts itself when it imports click, before it handles signals."""
    code = (
        "import os, runpy, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # it's ignored if the tests run in the background
        "class Interrupts:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'click': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=TIMEOUT, check=False)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, b"")


async def test_a_worker_process_that_dies_is_replaced() -> None:
    async with serving(FakeWorker()) as worker_port, sidecar(worker_port, workers=2) as running:
        for child in running.children:
            os.kill(child, signal.SIGKILL)
        for _ in running.children:
            await running.line_with(b"ended with status -9; starting another one")
        async with client(running.port) as openai:
            await openai.completions.create(model="tiny", prompt="a")
        running.process.send_signal(signal.SIGINT)
        assert await running.exit_status() == 0


async def test_no_worker_process_outlives_the_parent() -> None:
    async with serving(FakeWorker()) as worker_port, sidecar(worker_port, workers=2) as running:
        running.process.kill()
        assert await running.exit_status() == -signal.SIGKILL
        # The children hold the write end of this pipe.
        await asyncio.wait_for(running.stderr.read(), TIMEOUT)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", running.port)


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_port_in_use_is_one_clear_line(workers: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "openai_server", "--port", str(port), "--workers", str(workers)), stderr=PIPE
        )
        _, output = await asyncio.wait_for(process.communicate(), TIMEOUT)
    assert output.decode() == f"Error: can't listen on 127.0.0.1:{port}: the port is in use\n"
    assert process.returncode == 1


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("problem", ["no JSON", "no package"])
async def test_a_tokenizer_that_cannot_be_used_is_reported_with_its_file(
    problem: str, workers: int, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    environment = dict(os.environ)
    if problem == "no package":
        (tmp_path / "tokenizers.py").write_text("raise ImportError('not installed')")
        environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{os.getcwd()}"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "openai_server", "--port", "0", "--workers", str(workers)),
        *("--tokenizer", f"tiny={tmp_path}"),
        stderr=PIPE,
        env=environment,
    )
    _, output = await asyncio.wait_for(process.communicate(), TIMEOUT)
    text = {
        "no JSON": "can't be loaded: ",
        "no package": "needs the package `tokenizers`, which the extra `tokenizers` installs: not installed.",
    }[problem]
    assert f"Error: --tokenizer: '{tmp_path}/tokenizer.json' {text}" in output.decode()
    assert b"Traceback" not in output
    assert process.returncode == 1


@pytest.mark.parametrize("workers", [1, 2])
async def test_each_process_tokenizes_for_a_model(workers: int, tmp_path: Path) -> None:
    folder_with(byte_level(), tmp_path)
    (tmp_path / "chat_template.jinja").write_text("<|user|>{{ messages[0].content }}")
    async with (
        serving(FakeWorker(foreign=True)) as worker_port,
        sidecar(worker_port, "--tokenizer", f"tiny={tmp_path}", workers=workers) as running,
    ):
        for _ in range(2 * workers):  # each on a new connection, so that any process may serve it
            async with client(running.port) as openai:
                chat = await openai.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}])
                assert chat.choices[0].message.content == "<|user|>hi"
                count = await openai.responses.input_tokens.count(model="tiny", input="hi")
                assert count.input_tokens == 3


async def fetch(port: int, path: str) -> tuple[int, bytes]:
    """Returns status and body of a GET."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" % path.encode())
        head, _, body = (await asyncio.wait_for(reader.read(), TIMEOUT)).partition(b"\r\n\r\n")
        return int(head.split()[1]), body
    finally:
        writer.close()


async def send_completions(port: int, times: int) -> None:
    """Sends each request on a new connection, so that any process may serve it."""
    for _ in range(times):
        async with open_post(port, "/v1/completions", {"prompt": "x"}) as reader:
            await asyncio.wait_for(reader.readuntil(b"choices"), TIMEOUT)


def n_answered(scraped: bytes) -> float:
    return Scrape(scraped).value("openai_server_requests_total", endpoint="/v1/completions", status="200")


async def wait_for_count(port: int, times: int) -> Scrape:
    """Returns the metrics once they count `times` requests, which happens a moment after the last one ends."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            status, scraped = await fetch(port, "/metrics")
            assert status == 200
            if n_answered(scraped) >= times:
                assert n_answered(scraped) == times
                return Scrape(scraped)


async def test_a_scrape_of_one_process_has_the_sums_of_all_dead_ones_included() -> None:
    async with serving(FakeWorker()) as worker_port, sidecar(worker_port, workers=2) as running:
        await send_completions(running.port, 20)
        await wait_for_count(running.port, 20)
        before = [n_answered((await fetch(running.port, "/metrics"))[1]) for _ in range(10)]
        assert before == [20] * 10
        os.kill(running.children[0], signal.SIGKILL)
        started = re.search(rb"worker process (\d+)", await running.line_with(b"has started"))
        assert started is not None
        living = {running.children[1], int(started[1])}
        await send_completions(running.port, 5)
        scrape = await wait_for_count(running.port, 25)
        assert scrape.value("openai_server_info") == 1
        for name in ("process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"):
            by_pid = {int(labels["pid"]): scrape.value(name, **labels) for labels in scrape.series(name)}
            assert set(by_pid) == living
            assert min(by_pid.values()) > 0
        assert scrape.value("process_resident_memory_bytes", pid=str(min(living))) > 10e6


async def wait_for_load(port: int, queued: float, running: float) -> None:
    """Waits until ten scrapes in a row, which several processes answer, have these figures."""
    n_equal = 0
    async with asyncio.timeout(TIMEOUT):
        while n_equal < 10:
            scrape = Scrape((await fetch(port, "/metrics"))[1])
            figures = [scrape.value(f"openai_server_load_{name}") for name in ("queued", "running")]
            n_equal = n_equal + 1 if figures == [queued, running] else 0


async def test_processes_report_the_load_of_a_shared_worker_once() -> None:
    async with serving(FakeWorker(load=(1, 2, 100, 30))) as worker_port, sidecar(worker_port, workers=2) as running:
        await wait_for_load(running.port, 1, 2)


async def test_processes_report_the_requests_of_all_at_a_backend_that_does_not() -> None:
    worker = FakeWorker(hangs)
    async with serving(worker) as worker_port, sidecar(worker_port, workers=2) as running, AsyncExitStack() as calls:
        for _ in range(6):
            await calls.enter_async_context(open_post(running.port, "/v1/completions", {"prompt": "x"}))
            await worker.arrived.get()
        await wait_for_load(running.port, 0, 6)
        await calls.aclose()
        await wait_for_load(running.port, 0, 0)


@pytest.mark.parametrize("workers", [1, 2])
async def test_health_and_metrics_can_have_their_own_port(workers: int) -> None:
    may_end = asyncio.Event()

    async def stream(_: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        yield token("one")
        await may_end.wait()
        yield last_token("two")

    options = ("--admin-port", "0", "--log-format", "json")
    async with (
        serving(FakeWorker(stream=stream)) as worker_port,
        sidecar(worker_port, *options, workers=workers) as running,
    ):
        greeting = json.loads(running.greeting)
        admin = int(greeting["metrics"].rpartition(":")[2].partition("/")[0])
        assert (await fetch(running.port, "/metrics"))[0] == 404
        assert [(await fetch(admin, path))[0] for path in ("/livez", "/readyz", "/v1/models")] == [200, 200, 404]
        async with open_post(running.port, "/v1/completions", {"prompt": "x", "stream": True}) as reader:
            await asyncio.wait_for(reader.readuntil(b"one"), TIMEOUT)
            await running.drain_with(signal.SIGTERM)
            if workers == 1:  # a draining process still serves its metrics
                scraped = (await fetch(admin, "/metrics"))[1]
                assert Scrape(scraped).value("openai_server_requests_running", endpoint="/v1/completions") == 1
                assert (await fetch(admin, "/readyz"))[0] == 503
            may_end.set()
            await asyncio.wait_for(reader.readuntil(b"[DONE]"), TIMEOUT)
        assert await running.exit_status() == 0


async def test_each_line_of_a_json_log_is_an_object() -> None:
    async with serving(FakeWorker()) as worker_port, sidecar(worker_port, "--log-format", "json") as running:
        await send_completions(running.port, 1)
        line = json.loads(await running.line_with(b"openai_server.access"))
        assert (line["message"], line["status"], line["model"]) == ("POST /v1/completions", 200, "tiny")
        await running.drain_with(signal.SIGTERM)
        assert await running.exit_status() == 0
        remainder = (await running.stderr.read()).splitlines()
    assert all(json.loads(line)["level"] for line in (running.greeting, *remainder))


async def test_spans_reach_a_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["content-length"]))
            bodies.append(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        async with serving(FakeWorker()) as worker_port, sidecar(worker_port) as running:
            assert b"tracing=True" in running.greeting
            await send_completions(running.port, 1)
            await running.drain_with(signal.SIGTERM)
            assert await running.exit_status() == 0
        collector.shutdown()
    exports = [ExportTraceServiceRequest.FromString(body) for body in bodies]
    spans = [
        (span.name, [attribute.value.string_value for attribute in resource.resource.attributes])
        for request in exports
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert [name for name, _ in spans] == ["POST /v1/completions"]
    assert "openai_server" in spans[0][1]
