"""The worker dies, stops or falls silent: every answer ends in time, and all is well again when it is back."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from scripts.ports import free_port
from tests.e2e import servers
from tests.models import smollm2_path
from tests.ops.client import LONG, SHORT, Asking, ask, get
from tests.ops.proxy import Proxy, proxy

KEEPALIVE = 1.0
LOOKUP = 1.0
SLACK = 4.0
"""Seconds that a loaded machine may take on top."""


@dataclass
class Rig:
    """Sidecar, network, worker."""

    stack: ExitStack
    port: int
    worker: servers.Process
    network: Proxy
    url: str

    def start_worker(self) -> None:
        self.worker, _ = self.stack.enter_context(a_worker(self.port))


@contextmanager
def a_worker(port: int, *options: str) -> Iterator[tuple[servers.Process, str]]:
    fixed = ("--model", f"smollm2={smollm2_path()}", "--n-ctx", "4096", "--port", str(port))
    with servers.worker(*fixed, "--parallel", "4", *options) as served:
        yield served


@pytest.fixture
def rig() -> Iterator[Rig]:
    with ExitStack() as stack:
        port = free_port()
        worker, address = stack.enter_context(a_worker(port))
        network = stack.enter_context(proxy(address))
        _, url = stack.enter_context(
            servers.sidecar(
                network.address, "--keepalive-time", str(KEEPALIVE), "--lookup-timeout", str(LOOKUP), "--access-log"
            )
        )
        servers.eventually(lambda: get(url, "/readyz").status == 200)
        yield Rig(stack, port, worker, network, url)


def killed(rig: Rig) -> Callable[[], None]:
    rig.worker.end(signal.SIGKILL)
    return rig.start_worker


def stopped(rig: Rig) -> Callable[[], None]:
    rig.worker.popen.send_signal(signal.SIGSTOP)
    return lambda: rig.worker.popen.send_signal(signal.SIGCONT)


def unreachable(rig: Rig) -> Callable[[], None]:
    rig.network.stall()
    return rig.network.flow


def cut_off(rig: Rig) -> Callable[[], None]:
    rig.network.stall()
    rig.network.cut()
    return rig.network.flow


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [(killed, 0.0), (stopped, 2 * KEEPALIVE), (unreachable, 2 * KEEPALIVE), (cut_off, 0.0)],
    ids=["killed", "stopped", "unreachable", "cut off"],
)
def test_the_worker_fails(rig: Rig, fault: Callable[[Rig], Callable[[], None]], seconds: float) -> None:
    stream, whole = Asking(rig.url, LONG | {"stream": True}), Asking(rig.url, LONG | {"max_tokens": 3000})
    assert stream.speaks.wait(30)
    with servers.stub(f"127.0.0.1:{rig.port}") as service:
        servers.eventually(lambda: servers.statistics(service, "smollm2").inference_stats.queue.count >= 2)
    undo = fault(rig)
    began = time.monotonic()
    for asking in (stream, whole):
        end = asking.end()
        took = time.monotonic() - began
        print(f"{fault.__name__}: noticed after {took:.2f} s: {end}")
        assert took < seconds + SLACK
        assert not end.failure
        assert end.error is not None
        assert end.error["code"] == "backend_unavailable"
    assert end.status == 503
    for body in (SHORT, SHORT | {"stream": True}):
        late = ask(rig.url, body)
        print(f"{fault.__name__}: refused after {late.seconds:.2f} s")
        assert (late.status, late.headers["retry-after"]) == (503, "1")
        assert late.seconds < LOOKUP + SLACK
    undo()
    began = time.monotonic()
    servers.eventually(lambda: ask(rig.url, SHORT).good)
    print(f"{fault.__name__}: back after {time.monotonic() - began:.2f} s")


def test_a_client_that_vanished_frees_its_sequences() -> None:
    """Its machine is gone, and nobody closes its connections."""
    with (
        a_worker(0, "--keepalive-time", str(KEEPALIVE), "--max-queue", "0") as (_, address),
        proxy(address) as network,
        servers.sidecar(network.address, "--keepalive-time", "60") as (_, url),
        servers.stub(address) as service,
    ):
        servers.eventually(lambda: get(url, "/readyz").status == 200)
        streams = [Asking(url, LONG | {"stream": True}) for _ in range(4)]
        assert all(stream.speaks.wait(30) for stream in streams)
        network.vanish()
        began = time.monotonic()
        servers.eventually(
            lambda: servers.statistics(service, "smollm2").inference_stats.fail.count == 4, 2 * KEEPALIVE + SLACK
        )
        print(f"vanished: noticed after {time.monotonic() - began:.2f} s")
        assert all(stream.end().error for stream in streams)
