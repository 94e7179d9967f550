"""Limits of requests to pipelines: concurrency, queue, times, cancellation, slow clients, sizes."""

import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError

from anyserve_worker.pipelines.limits import Limits
from anyserve_worker.service import pipeline_models
from protos import contract
from tests.wire.pipelines import TICKS, WAIT_SECONDS, Server, request, serving, text_of, write

GATED = """
    import asyncio, pathlib

    folder = pathlib.Path(__file__).parent

    class PipelineWrapper:
        async def run_chat_completion_async(self, model, messages, body):
            async def words():
                text = messages[-1]["content"]
                with open(folder / "log", "a") as log:
                    print("begin", text, file=log, flush=True)
                    try:
                        yield text
                        while not (folder / "gate").exists():
                            await asyncio.sleep(0.01)
                    finally:
                        print("end", text, file=log, flush=True)
            return words()
    """
"""A pipeline that logs its requests, and finishes them when there is a file `gate`."""
ENDLESS = """
    class PipelineWrapper:
        async def run_chat_completion_async(self, model, messages, body):
            async def words():
                n = 0
                while True:
                    n += 1
                    yield f"{n} "
            return words()
    """


class Gated:
    """The folder of a GATED pipeline."""

    def __init__(self, folder: Path) -> None:
        self.path = write(folder, "gated", GATED)

    @property
    def log(self) -> list[str]:
        try:
            return (self.path / "log").read_text().splitlines()
        except FileNotFoundError:
            return []

    def open(self) -> None:
        (self.path / "gate").touch()


@pytest.fixture
def gated(tmp_path: Path) -> Gated:
    return Gated(tmp_path)


def set_timeout(server: Server, name: str, timeout: float) -> None:
    """Limits requests from now on, and not the start of the process, to this many seconds."""
    pipeline = server.pipelines._served[name]
    pipeline.definition = replace(pipeline.definition, limits=Limits(timeout=timeout))


def n_waiting(server: Server) -> int:
    return server.pipelines._served["gated"].n_waiting


async def test_requests_beyond_the_limit_wait_and_those_beyond_the_queue_are_refused(
    tmp_path: Path, gated: Gated
) -> None:
    async with serving(tmp_path, Limits(concurrency=1, queue=1)) as server:
        first = await server.stream(request("gated", "first"))
        assert await first.read()
        second = await server.stream(request("gated", "second"))
        await server.until(lambda: n_waiting(server) == 1)
        third = await (await server.stream(request("gated", "third"))).finish()
        assert third.error[0] == "RESOURCE_EXHAUSTED"
        details = third.errors[0].infer_response.parameters
        assert details[contract.ERROR_REASON].string_param == contract.REASON_QUEUE_FULL
        assert gated.log == ["begin first"]
        gated.open()
        assert [(await stream.finish()).text for stream in (first, second)] == ["first", "second"]


async def test_a_free_slot_goes_to_the_caller_with_the_fewest_running_requests(tmp_path: Path, gated: Gated) -> None:
    async with serving(tmp_path, Limits(concurrency=2)) as server:
        streams = []
        for n, (caller, text) in enumerate([("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1")]):
            message = request("gated", text)
            message.parameters[contract.PARAM_CALLER].string_param = caller
            streams.append(await server.stream(message))
            await server.until(lambda n=n: len(gated.log) + n_waiting(server) == n + 1)  # type: ignore[misc]
        streams[0].call.cancel()
        await server.until(lambda: "begin b1" in gated.log)
        assert "begin a3" not in gated.log
        gated.open()


async def test_a_cancelled_request_is_closed_in_the_pipeline(tmp_path: Path, gated: Gated) -> None:
    async with serving(tmp_path) as server:
        stream = await server.stream(request("gated", "one"))
        assert await stream.read()
        stream.call.cancel()
        await server.until(lambda: gated.log == ["begin one", "end one"])
        call: Any = asyncio.ensure_future(server.stub.ModelInfer(request("gated", "two")))
        await server.until(lambda: "begin two" in gated.log)
        call.cancel()
        await server.until(lambda: "end two" in gated.log)
        with pytest.raises(AioRpcError) as caught:  # gRPC's own deadline
            await server.stub.ModelInfer(request("gated", "three"), timeout=0.3)
        assert caught.value.code() is StatusCode.DEADLINE_EXCEEDED
        await server.until(lambda: "end three" in gated.log)


async def test_a_waiting_request_can_be_cancelled(tmp_path: Path, gated: Gated) -> None:
    async with serving(tmp_path, Limits(concurrency=1)) as server:
        first = await server.stream(request("gated", "first"))
        assert await first.read()
        waiting = await server.stream(request("gated", "second"))
        await server.until(lambda: n_waiting(server) == 1)
        waiting.call.cancel()
        await server.until(lambda: n_waiting(server) == 0)
        gated.open()
        await first.finish()
        assert gated.log == ["begin first", "end first"]


async def test_the_timeout_of_a_request_includes_its_time_in_the_queue(tmp_path: Path, gated: Gated) -> None:
    async with serving(tmp_path, Limits(concurrency=1)) as server:
        first = await server.stream(request("gated", "first"))
        assert await first.read()
        message = request("gated", "second")
        message.parameters[contract.PARAM_TIMEOUT].int64_param = 200_000
        late = await (await server.stream(message)).finish()
        assert late.error == ("DEADLINE_EXCEEDED", "the request's timeout has passed")
        assert gated.log == ["begin first"]
        gated.open()


async def test_a_request_may_not_take_longer_than_the_pipeline_allows(tmp_path: Path) -> None:
    write(tmp_path, "ticks", TICKS)
    async with serving(tmp_path) as server:
        set_timeout(server, "ticks", 0.4)
        stream = await (await server.stream(request("ticks"))).finish()
        assert stream.error == ("DEADLINE_EXCEEDED", "the model 'ticks' took longer than 0.4 s")
        assert "tick" in stream.text


async def test_a_pipeline_waits_for_a_client_that_does_not_read(tmp_path: Path) -> None:
    write(tmp_path, "endless", ENDLESS)
    async with serving(tmp_path) as server:
        slow = await server.stream(request("endless"))
        running, pid = server.pipelines._served["endless"], server.pid("endless")
        await server.until(lambda: running.n_running == 1)
        async with asyncio.timeout(WAIT_SECONDS):
            used = -1.0
            while processor_time(pid) - used > 0.02:  # until gRPC's buffers are full
                used = processor_time(pid)
                await asyncio.sleep(0.3)
        assert resident(pid) < 100 * 2**20
        assert running.n_running == 1
        assert await slow.read()
        slow.call.cancel()
        await server.until(lambda: running.n_running == 0)


def resident(pid: int) -> int:
    """Bytes of resident memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def processor_time(pid: int) -> float:
    """Seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_a_whole_answer_has_a_greatest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_models, "MAX_WHOLE_BYTES", 5000)
    write(tmp_path, "endless", ENDLESS)
    async with serving(tmp_path) as server:
        with pytest.raises(AioRpcError) as caught:
            await server.infer(request("endless"))
        assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED
        metadata = {str(key): value for key, value in caught.value.trailing_metadata() or ()}
        assert metadata[contract.ERROR_REASON] == contract.REASON_RESPONSE_TOO_LARGE
        await server.until(lambda: server.pipelines._served["endless"].n_running == 0)


async def test_a_long_text_is_sent_in_parts(tmp_path: Path) -> None:
    source = """
        class PipelineWrapper:
            def run_chat_completion(self, model, messages, body):
                return "x" * 3_000_000
        """
    write(tmp_path, "long", source)
    async with serving(tmp_path) as server:
        stream = await (await server.stream(request("long"))).finish()
        assert len(stream.text) == 3_000_000
        assert max(response.ByteSize() for response in stream.responses) < 2 * 2**20


async def test_metadata_reach_the_pipeline_without_credentials(tmp_path: Path) -> None:
    source = """
        import json

        class PipelineWrapper:
            def run_chat_completion(self, model, messages, body, headers=None):
                return json.dumps(dict(headers or {}))
        """
    write(tmp_path, "headers", source)
    async with serving(tmp_path) as server:
        metadata = (("x-request-id", "r-1"), ("authorization", "Bearer secret"), ("x-other", "2"))
        events = await server.infer(request("headers"), metadata=metadata)
        assert json.loads(text_of(events)) == {"x-request-id": "r-1"}
