"""Guides that take long to compile, beside those that don't. Orders and counts are compared, never times."""

import json
import re
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, cast

import grpc
import pytest

from protos import contract
from protos.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from scripts.ports import free_port
from tests.e2e import servers
from tests.e2e.conftest import SMOLLM2
from tests.e2e.messages import STORY, infer, outputs, trailers
from tests.models import smollm2_path
from tests.ops.client import Asking, ask

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
MAX_SLOW_PER_CALLER = 16


def slow_schema(i: int) -> dict[str, Any]:
    """Different for each number; a second of processor time or more."""
    return {"type": "integer", "multipleOf": 999_983 - 2 * i}


def asking(schema: dict[str, Any]) -> dict[str, Any]:
    return {**CHAT, "json_schema": schema}


@dataclass
class Server:
    worker: str
    metrics: str
    url: str

    def value(self, metric: str) -> int:
        with urllib.request.urlopen(self.metrics, timeout=20) as response:
            text = response.read().decode()
        found = re.search(rf"^anyserve_worker_{metric}{{.*}} (\S+)$", text, re.MULTILINE)
        assert found
        return int(float(found[1]))

    def trials(self) -> int:
        return self.value("guide_trials_total")

    def wait_for_the_end_of_slow_ones(self) -> None:
        servers.eventually(lambda: self.value("requests") == 0)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A worker with memory of no guide, and a sidecar with two keys."""
    port = free_port()
    options = ("--model", f"{SMOLLM2}={smollm2_path()}", "--n-ctx", "512", "--metrics-port", str(port))
    with (
        servers.worker(*options) as (_, address),
        servers.sidecar(address, "--api-key", "key-a", "--api-key", "key-b") as (_, url),
    ):
        yield Server(address, f"http://127.0.0.1:{port}/metrics", url)


@pytest.fixture
def service(server: Server) -> Iterator[GRPCInferenceServiceStub]:
    with servers.stub(server.worker) as stub:
        yield stub


def start(service: GRPCInferenceServiceStub, caller: str = "", **inputs: Any) -> "Future[Any]":
    request = infer(SMOLLM2, STORY, max_tokens=3, **inputs)
    if caller:
        request.parameters[contract.PARAM_CALLER].string_param = caller
    call: Any = service.ModelInfer.future(request)
    return cast("Future[Any]", call)


def start_slow(service: GRPCInferenceServiceStub, first: int, n: int) -> "list[Future[Any]]":
    return [start(service, "mallory", json_schema=json.dumps(slow_schema(first + i))) for i in range(n)]


def test_a_quick_guide_overtakes_slow_ones_of_its_own_caller(server: Server) -> None:
    slow = [Asking(server.url, asking(slow_schema(i)), key="key-a") for i in range(24)]
    servers.eventually(lambda: server.value("guides_waiting") >= 8)
    quick = ask(server.url, {**CHAT, "regex": "[ab]"}, key="key-a")
    assert quick.good, quick
    assert sum(request.over for request in slow) < 24 - 8, "slow ones go on for seconds"
    ends = [request.end() for request in slow]
    assert {end.status for end in ends} <= {400, 429}
    for end in ends:
        assert end.error
        if end.status == 400:
            assert "too complex" in end.error["message"]
            assert end.error["param"] == "json_schema"
        else:
            assert "wait to be compiled" in end.error["message"]
    server.wait_for_the_end_of_slow_ones()


def test_a_guide_that_was_refused_or_compiled_is_not_tried_again(server: Server) -> None:
    schemas: list[dict[str, Any]] = [{"json_schema": slow_schema(100)}, {"regex": "("}, {"regex": "[cd]"}]
    first = [ask(server.url, {**CHAT, **schema}, key="key-a") for schema in schemas]
    n_trials = server.trials()
    for key in ("key-a", "key-b"):
        again = [ask(server.url, {**CHAT, **schema}, key=key) for schema in schemas]
        assert [(end.status, end.error) for end in again] == [(end.status, end.error) for end in first]
    assert [end.status for end in first] == [400, 400, 200]
    assert server.trials() == n_trials


def test_equal_guides_at_once_are_tried_once(server: Server) -> None:
    n_trials = server.trials()
    ends = [Asking(server.url, asking(slow_schema(101)), key="key-b") for _ in range(24)]
    assert {request.end().status for request in ends} == {400}
    assert server.trials() - n_trials == 3, "one for each level"


def test_another_caller_is_served_beside_slow_ones(server: Server, service: GRPCInferenceServiceStub) -> None:
    """Also with a guide that is slow itself: it takes turns with the many of the other."""
    slow = [start(service, "mallory", json_schema=json.dumps(slow_schema(200 + i))) for i in range(MAX_SLOW_PER_CALLER)]
    servers.eventually(lambda: server.value("guides_waiting") == MAX_SLOW_PER_CALLER - 1)
    quick, own = (
        start(service, "alice", regex="[xy]"),
        start(service, "alice", json_schema=json.dumps(slow_schema(300))),
    )
    assert outputs(quick.result(60))["text"][0] in "xy"
    error = own.exception(60)
    assert isinstance(error, grpc.RpcError)
    if error.code() is grpc.StatusCode.INVALID_ARGUMENT:  # else ten seconds were too short on a busy machine
        assert sum(not call.done() for call in slow) >= MAX_SLOW_PER_CALLER // 2
    for call in slow:
        call.cancel()
    server.wait_for_the_end_of_slow_ones()


def test_the_line_has_an_end(server: Server, service: GRPCInferenceServiceStub) -> None:
    errors = [call.exception(60) for call in start_slow(service, 400, 30)]
    reasons = [
        (error.code(), trailers(error).get(contract.ERROR_REASON))
        for error in errors
        if isinstance(error, grpc.RpcError)
    ]
    assert len(reasons) == len(errors)
    full = (grpc.StatusCode.RESOURCE_EXHAUSTED, contract.REASON_QUEUE_FULL)
    assert full in reasons
    assert set(reasons) <= {full, (grpc.StatusCode.INVALID_ARGUMENT, None)}


def test_clients_that_leave_free_their_places(server: Server, service: GRPCInferenceServiceStub) -> None:
    slow = start_slow(service, 500, 10)
    servers.eventually(lambda: server.value("guides_waiting") == 9)
    for call in slow:
        call.cancel()
    servers.eventually(lambda: server.value("guides_waiting") == 0)
    server.wait_for_the_end_of_slow_ones()


def test_a_worker_ends_while_guides_wait() -> None:
    with servers.worker("--model", f"{SMOLLM2}={smollm2_path()}", "--n-ctx", "512", "--drain-timeout", "0.1") as (
        process,
        address,
    ):
        with servers.stub(address) as service:
            slow = start_slow(service, 600, 12)
            assert not slow[-1].done()
            assert process.end() == 0
            assert all(isinstance(call.exception(60), grpc.RpcError) for call in slow)
        assert "Traceback" not in process.output
