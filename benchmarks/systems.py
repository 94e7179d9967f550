"""Starts the compared systems, all with the same model, threads, context and slots."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import client
from benchmarks.peers import Peers
from benchmarks.processes import Process
from benchmarks.settings import Settings
from scripts.errors import Fail
from scripts.ports import free_port

MODEL = "bench"
"""Name of the model in every system."""
OURS, LLAMA_SERVER = "anyserve", "llama-server"
LLAMA_CPP_SERVER, EXAMPLE_SERVER = "llama_cpp.server", "examples/server"
BEFORE = "anyserve before"
"""The system of another checkout of this project."""
SYSTEMS = (OURS, LLAMA_SERVER, LLAMA_CPP_SERVER, EXAMPLE_SERVER)
PYTHON = (LLAMA_CPP_SERVER, EXAMPLE_SERVER)
START_S = 120.0
IDLE_LIMIT_S, IDLE_LOOK_S, IDLE_SHARE = 20.0, 0.2, 0.2
"""A server is idle if it uses less than IDLE_SHARE of a processor for IDLE_LOOK_S seconds."""


@dataclass
class Server:
    """A running system that answers requests."""

    port: int
    processes: dict[str, Process]
    """Processes by the names that the results use for their processor time."""

    def cpu_seconds(self) -> dict[str, float]:
        return {name: process.cpu_seconds() for name, process in self.processes.items()}

    def wait_until_idle(self) -> None:
        """Waits until the server is idle, at most IDLE_LIMIT_S seconds."""
        deadline = time.monotonic() + IDLE_LIMIT_S
        taken = sum(self.cpu_seconds().values())
        while time.monotonic() < deadline:
            time.sleep(IDLE_LOOK_S)
            before, taken = taken, sum(self.cpu_seconds().values())
            if taken - before < IDLE_SHARE * IDLE_LOOK_S:
                return


@dataclass
class Launcher:
    """Starts systems. `cgroup`: the folder of a group for all their processes. `before`: the checkout of BEFORE.

    `defaults`: OURS runs with its default context, cells and slots. `worker_options`, `sidecar_options`: further ones.
    """

    settings: Settings
    model: Path
    peers: Peers | None = None
    cgroup: Path | None = None
    before: Path | None = None
    defaults: bool = False
    worker_options: tuple[str, ...] = ()
    sidecar_options: tuple[str, ...] = ()

    @contextlib.contextmanager
    def running(self, system: str, threads: int | None = None, *, auto: bool = False) -> Iterator[Server]:
        """Yields a ready and warm server, and ends it afterwards. `auto`: OURS chooses its number of threads."""
        port = free_port()
        count = threads or self.settings.threads
        started: dict[str, Process] = {}
        with tempfile.TemporaryDirectory() as folder:
            try:
                self._start(system, port, None if auto else count, Path(folder), started)
                server = Server(port, started)
                self._wait_until_ready(server)
                self._warm_up(server)
                yield server
            finally:
                for process in reversed(started.values()):
                    process.end()

    def _start(self, system: str, port: int, threads: int | None, folder: Path, started: dict[str, Process]) -> None:
        s, model, peers = self.settings, str(self.model), self.peers
        host = ("--host", client.HOST, "--port", str(port))
        if system in (OURS, BEFORE):
            python, env = [sys.executable], {}
            if system == BEFORE:
                python, env = [sys.executable, "-P"], {"PYTHONPATH": str(self.before)}
            command = [*python, "-m", "anyserve_worker", "--model", f"{MODEL}={model}", "--port", "0"]
            if not self.defaults:
                command += ["--n-ctx", str(s.n_ctx), "--kv-cells", str(s.cells), "--parallel", str(s.slots)]
            command += ["--threads", str(threads)] if threads else []
            started["worker"] = Process([*command, *self.worker_options], env=env, cgroup=self.cgroup)
            worker_port = started["worker"].wait_for(r"listening on 127\.0\.0\.1:(\d+)", START_S)[1]
            command = [*python, "-m", "openai_server", "--anyserve-endpoint", f"{client.HOST}:{worker_port}"]
            started["sidecar"] = Process([*command, *host, *self.sidecar_options], env=env, cgroup=self.cgroup)
            return
        if peers is None:
            raise Fail(f"{system} has not been installed")
        if system == LLAMA_SERVER:
            # One pool of cells for all slots, as in OURS: one slot may hold a long prompt.
            options = ["--threads", threads, "--threads-batch", threads, "--parallel", s.slots, "--ctx-size", s.cells]
            command = [str(peers.llama_server), "--model", model, "--alias", MODEL, "--kv-unified", "--no-ui"]
            started["server"] = Process([*command, *map(str, options), *host], cgroup=self.cgroup)
        elif system == LLAMA_CPP_SERVER:
            # It computes one sequence at a time, so it needs the context of only one. Without the last option, a new
            # request cuts off the answer to the previous one.
            options = ["--n_threads", threads, "--n_threads_batch", threads, "--n_ctx", s.n_ctx]
            options += ["--interrupt_requests", "false"]
            command = [str(peers.python), "-m", "llama_cpp.server", "--model", model, "--model_alias", MODEL]
            started["server"] = Process([*command, *map(str, options), *host], cgroup=self.cgroup)
        elif system == EXAMPLE_SERVER:
            config = folder / "config.json"
            model_options = {"path": model, "alias": MODEL, "threads": threads, "threads_batch": threads}
            model_options |= {"n_ctx": s.cells, "n_seq_max": s.slots, "kv_unified": True, "store_logits": False}
            config.write_text(json.dumps({"server": {"host": client.HOST, "port": port}, "model": model_options}))
            script = Path(__file__).with_name("example_server.py")
            command = [str(peers.python), "-P", str(script), str(peers.example_server), "-C", str(config)]
            started["server"] = Process(command, cgroup=self.cgroup)
        else:
            raise Fail(f"can't start {system!r}: the systems are {', '.join(SYSTEMS)}")

    def _wait_until_ready(self, server: Server) -> None:
        deadline = time.monotonic() + START_S
        body = completion("Hello", max_tokens=1, stream=False)
        while True:
            for process in server.processes.values():
                process.require_alive()
            with contextlib.suppress(OSError):
                status, answer = client.post(server.port, "/v1/completions", body, START_S)
                if status == 200:
                    return
                if status != 503:
                    raise Fail(f"a first request to {server.processes} failed with {status}: {answer[:500]}")
            if time.monotonic() > deadline:
                tails = "\n".join(process.tail() for process in server.processes.values())
                raise Fail(f"no answer within {START_S:.0f} s:\n{tails}")
            time.sleep(0.05)

    def _warm_up(self, server: Server) -> None:
        """Sends requests that pay the one-time costs: pages, buffers, a graph of another shape."""
        for prompt in ("One two three four five six seven eight nine ten. " * 8, "Ten nine eight. " * 8):
            status, answer = client.post(server.port, "/v1/completions", completion(prompt, 8, stream=False), START_S)
            if status != 200:
                raise Fail(f"a request failed with {status}: {answer[:500]}")


def completion(prompt: str, max_tokens: int, *, stream: bool = True, **more: Any) -> dict[str, Any]:
    """Body of a greedy request, the same for every system."""
    body: dict[str, Any] = {"model": MODEL, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "seed": 1}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body | more
