"""Workers and sidecars are replaced one after another under load, without a failed request."""

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from scripts.ports import free_port
from tests.e2e import servers
from tests.models import smollm2_path
from tests.ops.client import get
from tests.ops.load import Load

DRAIN_DELAY_SECONDS = 1.0
"""Seconds between SIGTERM and the closed socket; `Switch` notices faster."""


@contextmanager
def started_worker(port: int, *options: str) -> Iterator[servers.Process]:
    fixed = ("--n-ctx", "1024", "--port", str(port), "--threads", "1")
    with servers.worker("--model", f"smollm2={smollm2_path()}", *fixed, *options) as (process, _):
        yield process


def wait_until_used(port: int) -> None:
    """Waits until the sidecar has found the new worker."""
    with servers.stub(f"127.0.0.1:{port}") as service:
        servers.eventually(lambda: servers.statistics(service, "smollm2").inference_count > 0)


def test_workers_are_replaced_behind_one_sidecar() -> None:
    with ExitStack() as stack:
        ports = [free_port(), free_port()]
        workers = [stack.enter_context(started_worker(port)) for port in ports]
        endpoints = ",".join(f"127.0.0.1:{port}" for port in ports)
        _, url = stack.enter_context(servers.sidecar(endpoints))
        servers.eventually(lambda: get(url, "/readyz").status == 200)
        load = Load(lambda: [url])
        try:
            for worker, port in zip(workers, ports, strict=True):
                load.wait_for_more(20)
                assert worker.end(signal.SIGTERM) == 0
                stack.enter_context(started_worker(port))
                wait_until_used(port)
        finally:
            load.end()
        assert not load.failures
    assert load.n_good > 40


@dataclass(eq=False)
class Pair:
    worker: servers.Process
    sidecar: servers.Process
    url: str


class Switch:
    """Selects ready pairs for the clients, as Kubernetes does: its readiness is up to 0.1 s old."""

    def __init__(self) -> None:
        self.pairs: list[Pair] = []
        self._ready: list[str] = []
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def urls(self) -> list[str]:
        with self._changed:
            return list(self._ready)

    def wait_for(self, *pairs: Pair) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: all(pair.url in self._ready for pair in pairs), 60)

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            ready = [pair.url for pair in list(self.pairs) if get(pair.url, "/readyz").status == 200]
            with self._changed:
                self._ready = ready
                self._changed.notify_all()


def test_pairs_are_replaced_one_after_the_other() -> None:
    with ExitStack() as stack:

        def start() -> Pair:
            port = free_port()
            worker = stack.enter_context(started_worker(port, "--drain-delay", str(DRAIN_DELAY_SECONDS)))
            sidecar, url = stack.enter_context(
                servers.sidecar(f"127.0.0.1:{port}", "--drain-delay", str(DRAIN_DELAY_SECONDS))
            )
            return Pair(worker, sidecar, url)

        switch = Switch()
        stack.callback(switch.end)
        switch.pairs += [start(), start()]
        switch.wait_for(*switch.pairs)
        load = Load(switch.urls)
        try:
            for old in list(switch.pairs):
                load.wait_for_more(10)
                new = start()
                switch.pairs.append(new)
                switch.wait_for(new)
                for process in (old.worker, old.sidecar):
                    process.popen.send_signal(signal.SIGTERM)
                assert old.sidecar.end(0) == old.worker.end(0) == 0
                switch.pairs.remove(old)
        finally:
            load.end()
        assert not load.failures
    assert load.n_good > 20
