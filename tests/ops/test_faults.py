"""The worker dies, stops or becomes unreachable: every response ends in time, and requests succeed again when it is
back."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from scripts.ports import free_port
from tests.e2e import servers
from tests.models import smollm2_path
from tests.ops.client import LONG, SHORT, PendingRequest, get, post
from tests.ops.proxy import Proxy, proxy

KEEPALIVE_SECONDS = 1.0
LOOKUP_SECONDS = 1.0
SLACK_SECONDS = 4.0
"""Additional seconds that a loaded machine may take."""


@dataclass
class Rig:
    """Sidecar, network and worker."""

    stack: ExitStack
    port: int
    worker: servers.Process
    network: Proxy
    url: str

    def start_worker(self) -> None:
        self.worker, _ = self.stack.enter_context(started_worker(self.port))


@contextmanager
def started_worker(port: int, *options: str) -> Iterator[tuple[servers.Process, str]]:
    fixed = ("--model", f"smollm2={smollm2_path()}", "--n-ctx", "4096", "--port", str(port))
    with servers.worker(*fixed, "--parallel", "4", *options) as served:
        yield served


@pytest.fixture
def rig() -> Iterator[Rig]:
    with ExitStack() as stack:
        port = free_port()
        worker, address = stack.enter_context(started_worker(port))
        network = stack.enter_context(proxy(address))
        _, url = stack.enter_context(
            servers.sidecar(
                network.address,
                "--keepalive-time",
                str(KEEPALIVE_SECONDS),
                "--lookup-timeout",
                str(LOOKUP_SECONDS),
                "--access-log",
            )
        )
        servers.eventually(lambda: get(url, "/readyz").status == 200)
        yield Rig(stack, port, worker, network, url)


def kill(rig: Rig) -> Callable[[], None]:
    rig.worker.end(signal.SIGKILL)
    return rig.start_worker


def stop(rig: Rig) -> Callable[[], None]:
    rig.worker.popen.send_signal(signal.SIGSTOP)
    return lambda: rig.worker.popen.send_signal(signal.SIGCONT)


def stall(rig: Rig) -> Callable[[], None]:
    rig.network.stall()
    return rig.network.flow


def cut(rig: Rig) -> Callable[[], None]:
    rig.network.stall()
    rig.network.cut()
    return rig.network.flow


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [(kill, 0.0), (stop, 2 * KEEPALIVE_SECONDS), (stall, 2 * KEEPALIVE_SECONDS), (cut, 0.0)],
    ids=["killed", "stopped", "unreachable", "cut off"],
)
def test_requests_fail_in_time_and_succeed_after_the_fault(
    rig: Rig, fault: Callable[[Rig], Callable[[], None]], seconds: float
) -> None:
    stream, whole = (
        PendingRequest(rig.url, LONG | {"stream": True}),
        PendingRequest(rig.url, LONG | {"max_tokens": 3000}),
    )
    assert stream.first_bytes.wait(30)
    with servers.stub(f"127.0.0.1:{rig.port}") as service:
        servers.eventually(lambda: servers.statistics(service, "smollm2").inference_stats.queue.count >= 2)
    undo = fault(rig)
    began = time.monotonic()
    for request in (stream, whole):
        result = request.result()
        elapsed = time.monotonic() - began
        print(f"{fault.__name__}: noticed after {elapsed:.2f} s: {result}")
        assert elapsed < seconds + SLACK_SECONDS
        assert not result.failure
        assert result.error is not None
        assert result.error["code"] == "backend_unavailable"
    assert result.status == 503
    for body in (SHORT, SHORT | {"stream": True}):
        refused = post(rig.url, body)
        print(f"{fault.__name__}: refused after {refused.seconds:.2f} s")
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert refused.seconds < LOOKUP_SECONDS + SLACK_SECONDS
    undo()
    began = time.monotonic()
    servers.eventually(lambda: post(rig.url, SHORT).good)
    print(f"{fault.__name__}: back after {time.monotonic() - began:.2f} s")


def test_a_vanished_client_frees_its_slots() -> None:
    """The client's machine is gone, so its connections are never closed."""
    with (
        started_worker(0, "--keepalive-time", str(KEEPALIVE_SECONDS), "--max-queue", "0") as (_, address),
        proxy(address) as network,
        servers.sidecar(network.address, "--keepalive-time", "60") as (_, url),
        servers.stub(address) as service,
    ):
        servers.eventually(lambda: get(url, "/readyz").status == 200)
        streams = [PendingRequest(url, LONG | {"stream": True}) for _ in range(4)]
        assert all(stream.first_bytes.wait(30) for stream in streams)
        network.vanish()
        began = time.monotonic()
        servers.eventually(
            lambda: servers.statistics(service, "smollm2").inference_stats.fail.count == 4,
            2 * KEEPALIVE_SECONDS + SLACK_SECONDS,
        )
        print(f"vanished: noticed after {time.monotonic() - began:.2f} s")
        assert all(stream.result().error for stream in streams)
