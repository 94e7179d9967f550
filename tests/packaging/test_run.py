"""`make run` with stand-ins for both programs: how it starts and ends, and its errors."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from scripts.ports import free_port
from tests.networks import network
from tests.packaging.commands import ROOT, only_line, run, script

STANDIN = str(Path(__file__).with_name("standin.py"))


class Pair:
    """A `make run` with two stand-ins, and the signals that they received."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "standins.log"
        self.model = folder / "model.gguf"
        self.model.touch()
        self.port, self.worker_port = free_port(), free_port()
        self.process: subprocess.Popen[str] | None = None
        self.more_arguments: list[str] = []

    @property
    def arguments(self) -> list[str]:
        return [
            f"--model={self.model}",
            f"--port={self.port}",
            f"--worker-port={self.worker_port}",
            f"--worker={sys.executable} {STANDIN} worker",
            f"--sidecar={sys.executable} {STANDIN} sidecar",
            *self.more_arguments,
        ]

    def start(self, **env: str) -> subprocess.Popen[str]:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scripts.run", *self.arguments],
            cwd=ROOT,
            env={**os.environ, "STANDIN_LOG": str(self.log), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return self.process

    def until_ready(self) -> str:
        assert self.process
        assert self.process.stdout
        output = ""
        for line in self.process.stdout:
            output += line
            if "Ctrl-C" in line:
                return output
        raise AssertionError(f"make run never got ready: {output} {self.process.communicate()[1]}")

    def notes(self) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if "=" not in line]

    def store(self) -> str | None:
        """The --store of the sidecar."""
        found = self.noted("sidecar", "store")
        return found[0] if found else None

    def noted(self, role: str, name: str) -> list[str]:
        """Values of `name` in the log of a stand-in."""
        start = f"{role} {name}="
        return [line.removeprefix(start) for line in self.log.read_text().splitlines() if line.startswith(start)]

    def pids(self) -> list[int]:
        return [int(line.partition("pid=")[2]) for line in self.log.read_text().splitlines() if "pid=" in line]

    def left_running(self) -> list[int]:
        if not self.log.exists():
            return []  # Nothing was started.
        return [pid for pid in self.pids() if Path(f"/proc/{pid}").exists()] if sys.platform == "linux" else []


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path)
    yield pair
    if pair.process:
        with pair.process:
            pair.process.terminate()
            pair.process.communicate(timeout=20)
    assert pair.left_running() == []


def test_prints_a_command_to_paste_when_a_request_works(pair: Pair) -> None:
    pair.start()
    output = pair.until_ready()
    assert f"curl http://127.0.0.1:{pair.port}/v1/chat/completions" in output
    assert f"127.0.0.1:{pair.worker_port}" in output
    assert str(pair.model) in output


def test_the_sidecar_keeps_responses_in_a_file_for_its_port(pair: Pair) -> None:
    pair.start()
    output = pair.until_ready()
    file = ROOT / ".cache" / "stores" / f"{pair.port}.db"
    assert pair.store() == f"sqlite:///{quote(str(file))}"
    assert str(file) in output
    assert file.parent.stat().st_mode & 0o077 == 0
    assert f"curl http://127.0.0.1:{pair.port}/v1/responses" in output
    assert "previous_response_id" in output


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["--sidecar-args=--store sqlite://"], {}),
        (["--sidecar-args=--store=sqlite://"], {}),
        ([], {"OPENAI_SERVER_STORE": "sqlite://"}),
    ],
)
def test_a_store_that_the_user_chose_is_kept(pair: Pair, arguments: list[str], environment: dict[str, str]) -> None:
    pair.more_arguments = arguments
    pair.start(**environment)
    assert "previous_response_id" not in pair.until_ready()
    assert pair.store() in ("sqlite://", None)


# ---- Pipelines


@pytest.fixture
def pipelines(tmp_path: Path) -> Path:
    folder = tmp_path / "pipelines"
    (folder / "rag").mkdir(parents=True)
    return folder


def test_pipelines_are_served_and_shown(pair: Pair, pipelines: Path) -> None:
    pair.more_arguments = [f"--pipelines={pipelines}"]
    pair.start(STANDIN_MODELS=f"{pair.model.stem} rag tools")
    output = pair.until_ready()
    assert pair.noted("worker", "--pipelines") == [str(pipelines)]
    assert pair.noted("worker", "--pipeline-python") == []  # there is no requirements.txt
    assert set(pair.noted("sidecar", "asked")) == {"rag"}
    for name in ("rag", "tools"):
        assert f'\'{{"model":"{name}","messages":' in output
    assert f'"model":"{pair.model.stem}"' not in output


def test_openai_clients_in_pipelines_reach_this_sidecar(pair: Pair, pipelines: Path) -> None:
    pair.more_arguments = [f"--pipelines={pipelines}"]
    pair.start(STANDIN_MODELS="rag")
    pair.until_ready()
    assert pair.noted("worker", "base_url") == [f"http://127.0.0.1:{pair.port}/v1"]


def test_a_base_url_that_the_user_chose_is_kept(pair: Pair, pipelines: Path) -> None:
    pair.more_arguments = [f"--pipelines={pipelines}"]
    pair.start(STANDIN_MODELS="rag", OPENAI_BASE_URL="http://127.0.0.1:1/v1")
    pair.until_ready()
    assert pair.noted("worker", "base_url") == ["http://127.0.0.1:1/v1"]


def test_pipelines_need_no_model(pair: Pair, pipelines: Path) -> None:
    pair.more_arguments = [f"--pipelines={pipelines}", "--model=none", "--pipeline-python=/usr/bin/python3"]
    pair.start(STANDIN_MODELS="rag")
    assert "  model " not in pair.until_ready()
    assert pair.noted("worker", "--model") == []
    assert pair.noted("worker", "--pipeline-python") == ["/usr/bin/python3"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--model=none"], "nothing to serve: MODEL=none needs PIPELINES=FOLDER"),
        (["--pipelines=no/such"], "there is no folder no/such"),
    ],
)
def test_what_cannot_be_served_is_reported_in_one_line(pair: Pair, arguments: list[str], problem: str) -> None:
    line = only_line(script("run", *pair.arguments, *arguments, env={"STANDIN_LOG": str(pair.log)}))
    assert line == f"error: {problem}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_both(pair: Pair, number: signal.Signals) -> None:
    process = pair.start()
    pair.until_ready()
    # To the whole group, as a terminal does: both stand-ins must get one SIGTERM, from `make run`.
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    assert sorted(pair.notes()) == ["sidecar SIGTERM", "worker SIGTERM"]
    assert pair.left_running() == []


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_killed_launcher_leaves_no_process_behind(pair: Pair) -> None:
    process = pair.start()
    pair.until_ready()
    process.kill()
    process.communicate(timeout=20)
    deadline = time.monotonic() + 20
    while pair.left_running():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_both_programs_cannot_use_one_port(pair: Pair) -> None:
    pair.port = pair.worker_port
    _, errors = pair.start().communicate(timeout=20)
    assert errors == f"error: the worker and the sidecar can't both use port {pair.port}\n"


def test_a_signal_while_starting_ends_both(pair: Pair) -> None:
    process = pair.start(STANDIN_STATUS="503")
    deadline = time.monotonic() + 20
    while not (pair.log.exists() and len(pair.pids()) == 2):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    assert pair.left_running() == []


@pytest.mark.parametrize(("dies", "lives"), [("worker", "sidecar"), ("sidecar", "worker")])
def test_when_one_ends_the_other_is_ended(pair: Pair, dies: str, lives: str) -> None:
    process = pair.start(STANDIN_DIES=dies)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert errors == f"error: the {dies} ended with exit code 7\n"
    assert pair.notes() == [f"{lives} SIGTERM"]
    assert pair.left_running() == []


def test_a_request_that_fails_for_good_is_an_error(pair: Pair) -> None:
    process = pair.start(STANDIN_STATUS="400")
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert errors == 'error: both programs run, but a request failed with 400: {"a": "word"}\n'
    assert pair.left_running() == []


@pytest.mark.parametrize(("program", "variable"), [("worker", "WORKER_PORT"), ("sidecar", "PORT")])
def test_a_port_in_use_is_reported_in_one_line(pair: Pair, program: str, variable: str) -> None:
    port = pair.worker_port if program == "worker" else pair.port
    with socket.socket() as other:
        other.bind(("0.0.0.0", port))
        other.listen()
        line = only_line(script("run", *pair.arguments, env={"STANDIN_LOG": str(pair.log)}))
    assert line.startswith(f"error: port {port} is not available for the {program}: Address already in use")
    assert f"make run {variable}={port + 1}" in line
    assert not pair.log.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")
def test_a_port_is_tried_on_both_loopback_addresses(pair: Pair, tmp_path: Path) -> None:
    pair.model.unlink()  # the next check after the ports
    command = (sys.executable, "-m", "scripts.run", *pair.arguments)
    with network(tmp_path) as net, net.listen("::1", pair.port):
        line = only_line(run(*net.prefix, *command))
        assert line.startswith(f"error: port {pair.port} is not available for the sidecar: Address already in use")
    with network(tmp_path, ipv6=False) as net:
        assert only_line(run(*net.prefix, *command)) == f"error: there is no model file {pair.model}"


def test_a_missing_model_is_reported_in_one_line(pair: Pair) -> None:
    pair.model.unlink()
    line = only_line(script("run", *pair.arguments, env={"STANDIN_LOG": str(pair.log)}))
    assert line == f"error: there is no model file {pair.model}"
    assert not pair.log.exists()


def test_make_passes_the_folder_of_pipelines_on(pair: Pair) -> None:
    folder = f"PIPELINES={pair.model}.no"
    result = run("make", "run", f"PYTHON={sys.executable}", folder, f"PORT={pair.port}")
    assert result.stderr.splitlines()[0] == f"error: there is no folder {pair.model}.no"


def test_make_passes_its_variables_on(pair: Pair) -> None:
    python, model = f"PYTHON={sys.executable}", f"MODEL={pair.model}.no"
    result = run("make", "run", python, model, f"PORT={pair.port}", f"WORKER_PORT={pair.worker_port}")
    assert result.returncode != 0
    error, make = result.stderr.splitlines()
    assert error == f"error: there is no model file {pair.model}.no"
    assert make.startswith("make: ***")
