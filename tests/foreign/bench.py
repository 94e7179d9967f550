"""Starts a foreign server and a sidecar in a network of their own, which end with the block."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.foreign import engine, setup, triton
from tests.foreign.backends import Backend
from tests.foreign.http_client import Client
from tests.networks import Network, network

HERE = Path(__file__).resolve().parent
SERVER_PORT = 9000
SIDECAR_PORT = 8080
OTHER_PORT = 8081
START_SECONDS = 60.0
READY_SECONDS = 15.0
"""Longest time to wait for the sidecar to find the server's models."""


@dataclass(frozen=True)
class Bench:
    place: Network
    backend: Backend
    client: Client
    folder: Path

    def events(self) -> list[dict[str, Any]]:
        """The log of the model since the server started."""
        path = self.folder / "engine.log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def requests(self) -> list[dict[str, Any]]:
        """The requests that have reached the model."""
        return [event for event in self.events() if event["event"] == "request"]

    @contextmanager
    def other_sidecar(self, options: Sequence[str]) -> Iterator[Client]:
        """Yields a client of a second sidecar with other options."""
        with sidecar(self.place, options, self.folder / "other_sidecar.log", OTHER_PORT) as client:
            yield client

    def report(self) -> str:
        """Returns the report of `python -m openai_server check`. Raises AssertionError if that fails."""
        options = sidecar_options(self.backend, SERVER_PORT)
        command = [*self.place.prefix, sys.executable, "-m", "openai_server", "check", *options]
        program = subprocess.run(command, capture_output=True, text=True, cwd=setup.ROOT, check=False)
        assert program.returncode == 0, f"{program.stdout}\n{program.stderr}"
        return program.stdout

    def wait_for(self, event: str, count: int, seconds: float) -> bool:
        """Waits until the log has `count` lines of this event; returns whether it has."""
        end = time.monotonic() + seconds
        while True:
            if sum(entry["event"] == event for entry in self.events()) >= count:
                return True
            if time.monotonic() > end:
                return False
            time.sleep(0.05)


@contextmanager
def running(backend: Backend, folder: Path) -> Iterator[Bench]:
    """Raises AssertionError if one of the two programs doesn't start."""
    with server(backend, folder) as place:
        options = sidecar_options(backend, SERVER_PORT)
        with sidecar(place, options, folder / "sidecar.log", SIDECAR_PORT) as client:
            yield Bench(place, backend, client, folder)


@contextmanager
def sidecar(place: Network, options: Sequence[str], log: Path, port: int) -> Iterator[Client]:
    """Yields a client of a sidecar with these options, which is ready if it has found models."""
    command = [sys.executable, "-m", "openai_server", f"--port={port}", *options]
    with process(place, command, {}, log, port):
        client = Client(place, port)
        _wait_until_ready(client)
        yield client


def sidecar_options(backend: Backend, port: int) -> list[str]:
    options = [f"--anyserve-endpoint=127.0.0.1:{port}", f"--chat-template={HERE / 'chat_template.jinja'}"]
    if backend.is_mapped:
        options.append(f"--mapping={HERE / 'mappings' / backend.name}.toml")
    return [*options, *backend.options]


def _wait_until_ready(client: Client) -> None:
    """A backend that the sidecar can't use may never be ready; the checks report that."""
    end = time.monotonic() + READY_SECONDS
    while client.get("/readyz").status != 200 and time.monotonic() < end:
        time.sleep(0.1)


@contextmanager
def server(backend: Backend, folder: Path) -> Iterator[Network]:
    """Yields the network in which the server of the backend listens on SERVER_PORT."""
    command, variables = COMMANDS[backend.server](backend, folder)
    variables = {**variables, engine.LOG_VARIABLE: str(folder / "engine.log")}
    with ExitStack() as stack:
        if backend.server == "triton":
            stack.callback(triton.clean_up, folder)
        place = stack.enter_context(network(folder))
        stack.enter_context(process(place, command, variables, folder / "server.log", SERVER_PORT))
        yield place


@contextmanager
def process(
    place: Network, command: Sequence[str], variables: Mapping[str, str], log: Path, port: int
) -> Iterator[None]:
    """Runs the command in the network until the block ends; yields when it listens on the port."""
    environment = {**os.environ, **variables}
    with log.open("wb") as output:
        program = subprocess.Popen(
            [*place.prefix, *command], env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=setup.ROOT
        )
    try:
        end = time.monotonic() + START_SECONDS
        while not place.listens("127.0.0.1", port):
            is_alive = program.poll() is None and time.monotonic() < end
            assert is_alive, f"{command[0]} does not listen on port {port}:\n{log.read_text()[-3000:]}"
            time.sleep(0.05)
        yield
    finally:
        program.terminate()
        try:
            program.wait(10)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()


# ---- Commands: each returns a command and its environment variables

Command = tuple[list[str], dict[str, str]]


def _triton(backend: Backend, folder: Path) -> Command:
    return triton.command(backend.repository or backend.name, folder, SERVER_PORT), triton.variables()


def _mlserver(backend: Backend, folder: Path) -> Command:
    implementations = {"hf": "HuggingFace", "streaming": "Streaming"}
    settings = {"host": "127.0.0.1", "grpc_port": SERVER_PORT, "http_port": 9001, "metrics_port": 9002}
    (folder / "settings.json").write_text(json.dumps({**settings, "parallel_workers": 0, "debug": False}))
    model = folder / backend.model
    model.mkdir()
    implementation = f"tests.foreign.servers.mlserver_models.{implementations[backend.model]}"
    (model / "model-settings.json").write_text(json.dumps({"name": backend.model, "implementation": implementation}))
    mlserver = setup.environment("mlserver") / "bin" / "mlserver"
    return [str(mlserver), "start", str(folder)], {"PYTHONPATH": str(setup.ROOT)}


def _module(name: str, environment: str = "") -> Callable[[Backend, Path], Command]:
    def command(_: Backend, __: Path) -> Command:
        python = setup.python(environment) if environment else sys.executable
        return [python, "-m", f"tests.foreign.servers.{name}", str(SERVER_PORT)], {"PYTHONPATH": str(setup.ROOT)}

    return command


COMMANDS: Mapping[str, Callable[[Backend, Path], Command]] = {
    "triton": _triton,
    "mlserver": _mlserver,
    "kserve": _module("kserve_server", "kserve"),
    "dynamo": _module("dynamo_front", "dynamo"),
    "plain": _module("plain"),
    "anyserve_poc": _module("anyserve_poc"),
}
