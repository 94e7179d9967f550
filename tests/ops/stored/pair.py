"""Sidecars that share a store, each a process that can be killed and started again at the same port."""

import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from scripts.ports import free_port
from tests.e2e.servers import Process
from tests.ops.client import post

READY_SECONDS = 60.0
POLL_SECONDS = 0.01


class Sidecars:
    """`n` sidecars with these options."""

    def __init__(self, n: int, options: Sequence[str]) -> None:
        self.ports = [free_port() for _ in range(n)]
        self.n_killed = 0
        self.errors: list[str] = []
        """Logged exceptions."""
        self._options = list(options)
        self._processes: dict[int, Process] = {}

    def start(self, port: int) -> None:
        command = [sys.executable, "-m", "openai_server", "--port", str(port), "--no-access-log", *self._options]
        self._processes[port] = Process(*command)

    def kill(self, port: int) -> None:
        self.end(port, signal.SIGKILL)
        self.n_killed += 1

    def end(self, port: int, number: int = signal.SIGTERM) -> None:
        if (process := self._processes.pop(port, None)) is not None:
            process.end(number)
            if "Traceback" in process.output:
                self.errors.append(process.output[-3000:])

    def pid(self, port: int) -> int:
        return self._processes[port].popen.pid

    def log(self, port: int) -> str:
        return self._processes[port].output

    def wait_until_warm(self, port: int, key: str) -> None:
        """Waits until the sidecar has answered a chat, for which it must have compiled the template."""
        deadline = time.monotonic() + READY_SECONDS
        body = {"input": "hi", "store": False}
        while not post(f"http://127.0.0.1:{port}", body, "/v1/responses", key=key).good:
            process = self._processes[port]
            if process.popen.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"no answer:\n{process.output}")
            threading.Event().wait(POLL_SECONDS)

    def start_all(self, key: str) -> None:
        """Returns when each has answered a chat."""
        for port in self.ports:
            self.start(port)
        for port in self.ports:
            self.wait_until_warm(port, key)

    def end_all(self) -> None:
        for port in self.ports:
            self.end(port)


@contextmanager
def digest_worker() -> Iterator[str]:
    """Yields the address of a worker whose answers are digests of their prompts."""
    port = free_port()
    process = Process(sys.executable, "-m", "tests.ops.stored.digest_worker", str(port))
    try:
        process.wait_for("ready")
        yield f"127.0.0.1:{port}"
    finally:
        process.end(signal.SIGKILL)


@contextmanager
def storing_sidecars(n: int, store: str, keys: Sequence[str], *options: str) -> Iterator[Sidecars]:
    """Yields sidecars in front of one worker, before their start."""
    with ExitStack() as stack:
        address = stack.enter_context(digest_worker())
        key_options = [word for key in keys for word in ("--api-key", key)]
        sidecars = Sidecars(n, ["--anyserve-endpoint", address, "--store", store, *key_options, *options])
        stack.callback(sidecars.end_all)
        yield sidecars
