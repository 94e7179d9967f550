"""Real processes for the tests: workers and sidecars on free loopback ports, ended with the test."""

import contextlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import grpc

from protos import grpc_predict_v2_pb2 as pb
from protos.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from scripts.ports import free_port

START_TIMEOUT = 120.0
"""Seconds; a loaded machine loads models slowly."""
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""Runs in the child before the command. A `preexec_fn` would fork gRPC's threads too, which can end the child first."""


class Process:
    """A child process whose output lines are kept; the kernel kills it when this process ends, even by a signal."""

    def __init__(self, *command: str, env: dict[str, str] | None = None) -> None:
        self.command = command
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self.popen = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, *command],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def output(self) -> str:
        with self._changed:
            return "".join(self._lines)

    def wait_for(self, pattern: str, timeout: float = START_TIMEOUT) -> re.Match[str]:
        """Blocks until the output matches `pattern`; fails if the process ends before that."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                match = re.search(pattern, "".join(self._lines))
                if match:
                    return match
                if self._ended or not self._changed.wait(deadline - time.monotonic()):
                    raise AssertionError(f"no {pattern!r} in the output of {self.command}:\n{''.join(self._lines)}")

    def end(self, number: int = signal.SIGTERM, timeout: float = 60.0) -> int:
        """Sends a signal, waits, and returns the exit code; if the process has already ended, only returns the code."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        try:
            return self.popen.wait(timeout)
        finally:
            self.popen.kill()
            self.popen.wait()
            self._reader.join()
            assert self.popen.stdout is not None
            self.popen.stdout.close()


@contextlib.contextmanager
def worker(*options: str) -> Iterator[tuple[Process, str]]:
    """Yields a worker that is ready, and its address."""
    process = Process(sys.executable, "-m", "anyserve_worker", "--port", "0", *options)
    try:
        address = "127.0.0.1:" + process.wait_for(r"listening on 127\.0\.0\.1:(\d+)")[1]
        process.wait_for(r"server: ready: ")
        with _shown_on_failure(process):
            yield process, address
    finally:
        process.end(signal.SIGKILL)


@contextlib.contextmanager
def sidecar(worker_address: str, *options: str) -> Iterator[tuple[Process, str]]:
    """Yields a sidecar that listens, and its base URL, without /v1."""
    port = free_port()
    process = Process(
        sys.executable, "-m", "openai_server", "--anyserve-endpoint", worker_address, "--port", str(port), *options
    )
    try:
        _wait_until_listening(process, port)
        with _shown_on_failure(process):
            yield process, f"http://127.0.0.1:{port}"
    finally:
        process.end(signal.SIGKILL)


@contextlib.contextmanager
def _shown_on_failure(process: Process) -> Iterator[None]:
    """Prints the process's output if the test fails, so that pytest reports it."""
    try:
        yield
    except BaseException:
        print(f"{' '.join(process.command)}:\n{process.output}")
        raise


def _wait_until_listening(process: Process, port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.popen.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise AssertionError(f"nothing listens on {port}:\n{process.output}")


@contextlib.contextmanager
def stub(address: str) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        yield GRPCInferenceServiceStub(channel)


def statistics(service: GRPCInferenceServiceStub, model: str) -> pb.ModelStatistics:
    return service.ModelStatistics(pb.ModelStatisticsRequest(name=model)).model_stats[0]


def eventually(condition: object, timeout: float = 30.0) -> None:
    """Waits for `condition()` to become true; fails after `timeout` seconds."""
    assert callable(condition)
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition never became true"
        time.sleep(0.01)
