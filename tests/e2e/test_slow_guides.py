"""Guides that compile slowly, beside fast ones. The tests compare orders and counts, never durations."""

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
from tests.ops.client import PendingRequest, post

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
MAX_SLOW_PER_CALLER = 16


def slow_schema(i: int) -> dict[str, Any]:
    """A schema that differs for each number and takes a second of processor time or more."""
    return {"type": "integer", "multipleOf": 999_983 - 2 * i}


def chat_with(schema: dict[str, Any]) -> dict[str, Any]:
    return {**CHAT, "json_schema": schema}


@dataclass
class Server:
    worker: str
    metrics: str
    url: str

    def value(self, metric: str) -> int:
        with urllib.request.urlopen(self.metrics, timeout=20) as response:
            text = response.read().decode()
        match = re.search(rf"^anyserve_worker_{metric}{{.*}} (\S+)$", text, re.MULTILINE)
        assert match
        return int(float(match[1]))

    def trials(self) -> int:
        return self.value("guide_trials_total")

    def wait_for_the_end_of_slow_requests(self) -> None:
        servers.eventually(lambda: self.value("requests") == 0)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A worker that has compiled no guide yet, and a sidecar with two keys."""
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


def test_a_fast_guide_overtakes_slow_guides_of_the_same_caller(server: Server) -> None:
    slow = [PendingRequest(server.url, chat_with(slow_schema(i)), key="key-a") for i in range(24)]
    servers.eventually(lambda: server.value("guides_waiting") >= 8)
    quick = post(server.url, {**CHAT, "regex": "[ab]"}, key="key-a")
    assert quick.good, quick
    assert sum(request.is_done for request in slow) < 24 - 8, "slow guides take seconds"
    replies = [request.result() for request in slow]
    assert {reply.status for reply in replies} <= {400, 429}
    for reply in replies:
        assert reply.error
        if reply.status == 400:
            assert "too complex" in reply.error["message"]
            assert reply.error["param"] == "json_schema"
        else:
            assert "waiting to be compiled" in reply.error["message"]
    server.wait_for_the_end_of_slow_requests()


def test_a_guide_that_was_refused_or_compiled_is_not_tried_again(server: Server) -> None:
    schemas: list[dict[str, Any]] = [{"json_schema": slow_schema(100)}, {"regex": "("}, {"regex": "[cd]"}]
    first = [post(server.url, {**CHAT, **schema}, key="key-a") for schema in schemas]
    n_trials = server.trials()
    for key in ("key-a", "key-b"):
        second = [post(server.url, {**CHAT, **schema}, key=key) for schema in schemas]
        assert [(end.status, end.error) for end in second] == [(end.status, end.error) for end in first]
    assert [end.status for end in first] == [400, 400, 200]
    assert server.trials() == n_trials


def test_equal_guides_at_once_are_tried_once(server: Server) -> None:
    n_trials = server.trials()
    requests = [PendingRequest(server.url, chat_with(slow_schema(101)), key="key-b") for _ in range(24)]
    assert {request.result().status for request in requests} == {400}
    assert server.trials() - n_trials == 3, "one for each level"


def test_another_caller_is_served_beside_slow_guides(server: Server, service: GRPCInferenceServiceStub) -> None:
    """Even its own slow guide takes turns with the other caller's many."""
    slow = [start(service, "mallory", json_schema=json.dumps(slow_schema(200 + i))) for i in range(MAX_SLOW_PER_CALLER)]
    servers.eventually(lambda: server.value("guides_waiting") == MAX_SLOW_PER_CALLER - 1)
    quick, slow_own = (
        start(service, "alice", regex="[xy]"),
        start(service, "alice", json_schema=json.dumps(slow_schema(300))),
    )
    assert outputs(quick.result(60))["text"][0] in "xy"
    error = slow_own.exception(60)
    assert isinstance(error, grpc.RpcError)
    if error.code() is grpc.StatusCode.INVALID_ARGUMENT:  # else ten seconds were too short on a busy machine
        assert sum(not call.done() for call in slow) >= MAX_SLOW_PER_CALLER // 2
    for call in slow:
        call.cancel()
    server.wait_for_the_end_of_slow_requests()


def test_the_queue_of_guides_is_limited(server: Server, service: GRPCInferenceServiceStub) -> None:
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


def test_clients_that_disconnect_free_their_slots(server: Server, service: GRPCInferenceServiceStub) -> None:
    slow = start_slow(service, 500, 10)
    servers.eventually(lambda: server.value("guides_waiting") == 9)
    for call in slow:
        call.cancel()
    servers.eventually(lambda: server.value("guides_waiting") == 0)
    server.wait_for_the_end_of_slow_requests()


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
