"""`anyserve pipelines` as a process: imports, signals, drain, logs, and no process that outlives it."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from protos import grpc_predict_v2_pb2 as pb
from protos.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from tests.e2e.servers import Process
from tests.wire.pipelines import TICKS, WORDS, events_of, request, text_of, write

pytestmark = pytest.mark.slow

TIMEOUT = 30.0
WITHOUT_LLAMA = """
import sys

class Guard:
    def find_spec(self, name, *_):
        if name in ("llama_cpp", "llguidance"):
            sys.exit(f"{name} was imported")

sys.meta_path.insert(0, Guard())
from anyserve_worker.__main__ import anyserve
anyserve()
"""
SLOW = """
    import time

    class PipelineWrapper:
        def run_chat_completion(self, model, messages, body):
            def words():
                for n in range(10):
                    yield f"{n} "
                    time.sleep(0.1)
            return words()
    """


@contextmanager
def anyserve(folder: Path, *options: str) -> Iterator[tuple[Process, Any]]:
    """`anyserve pipelines`, in which llama.cpp can't be imported, when it is ready; and a stub for it."""
    command = (sys.executable, "-c", WITHOUT_LLAMA, "pipelines", str(folder), "--port", "0", "--host", "127.0.0.1")
    process = Process(*command, *options)
    try:
        address = "127.0.0.1:" + process.wait_for(r"listening on 127\.0\.0\.1:(\d+)")[1]
        process.wait_for("ready: ")
        with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
            yield process, GRPCInferenceServiceStub(channel)
    finally:
        process.end(signal.SIGKILL)


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(folder.name))
    return found


def wait_until_gone(*pids: int) -> None:
    deadline = time.monotonic() + TIMEOUT
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < deadline, pids
        time.sleep(0.02)


def test_pipelines_are_served_without_llama_cpp(tmp_path: Path) -> None:
    write(tmp_path, "words", WORDS)
    with anyserve(tmp_path) as (process, stub):
        assert text_of(events_of(stub.ModelInfer(request("words", "you"), timeout=TIMEOUT))) == "Hello, you"
        [child] = children(process.popen.pid)
        assert Path(f"/proc/{child}/oom_score_adj").read_text().strip() == "800"
        assert Path(f"/proc/{child}/fd/0").readlink() == Path("/dev/null")
        assert b"anyserve_worker" not in Path(f"/proc/{child}/environ").read_bytes()
        assert process.end() == 0
        wait_until_gone(child)


def test_both_kinds_of_models_share_the_options_of_the_server(tmp_path: Path) -> None:
    write(tmp_path, "words", WORDS)
    process = Process(sys.executable, "-m", "anyserve_worker", "--pipelines", str(tmp_path), "--port", "0")
    try:
        process.wait_for("ready: words")
        assert process.end() == 0
    finally:
        process.end(signal.SIGKILL)


def test_a_running_answer_finishes_after_sigterm(tmp_path: Path) -> None:
    write(tmp_path, "slow", SLOW)
    with anyserve(tmp_path) as (process, stub):
        [child] = children(process.popen.pid)
        responses = stub.ModelStreamInfer(iter([request("slow")]), timeout=TIMEOUT)
        events = events_of(next(responses).infer_response)
        process.popen.send_signal(signal.SIGTERM)
        process.wait_for("draining")
        for response in responses:
            assert not response.error_message
            events += events_of(response.infer_response)
        assert text_of(events) == "".join(f"{n} " for n in range(10))
        assert process.end() == 0
        wait_until_gone(child)


def test_an_endless_answer_ends_with_the_drain_timeout(tmp_path: Path) -> None:
    write(tmp_path, "ticks", TICKS)
    with anyserve(tmp_path, "--drain-timeout", "0.5") as (process, stub):
        [child] = children(process.popen.pid)
        responses = stub.ModelStreamInfer(iter([request("ticks")]), timeout=TIMEOUT)
        assert next(responses)
        started = time.monotonic()
        assert process.end() == 0
        assert time.monotonic() - started < 10
        wait_until_gone(child)


@pytest.mark.parametrize("blocked", [False, True])
def test_no_process_outlives_a_worker_that_is_killed(tmp_path: Path, blocked: bool) -> None:
    """The pipeline's process may be blocked, and a program that it has started may hold its output."""
    source = """
        import subprocess, time

        class PipelineWrapper:
            def setup(self):
                subprocess.Popen(["sleep", "600"])

            async def run_chat_completion_async(self, model, messages, body):
                time.sleep(600)
        """
    write(tmp_path, "parent", source)
    with anyserve(tmp_path) as (process, stub):
        [child] = children(process.popen.pid)
        if blocked:
            call = stub.ModelInfer.future(request("parent"))
            time.sleep(0.3)
        [grandchild] = children(child)
        try:
            process.end(signal.SIGKILL)
            wait_until_gone(child)
        finally:
            os.kill(grandchild, signal.SIGKILL)
        if blocked:
            assert call.exception()


def test_the_processes_that_a_pipeline_starts_end_with_it(tmp_path: Path) -> None:
    source = """
        import subprocess

        class PipelineWrapper:
            def setup(self):
                subprocess.Popen(["sleep", "600"])

            def run_chat_completion(self, model, messages, body):
                return "x"
        """
    write(tmp_path, "parent", source)
    with anyserve(tmp_path) as (process, _):
        [child] = children(process.popen.pid)
        [grandchild] = children(child)
        assert process.end() == 0
        wait_until_gone(child, grandchild)


def test_sighup_reads_the_folder_again(tmp_path: Path) -> None:
    write(tmp_path, "words", WORDS)
    with anyserve(tmp_path) as (process, stub):
        write(tmp_path, "more", WORDS)
        process.popen.send_signal(signal.SIGHUP)
        process.wait_for("pipeline 'more' is ready")
        assert events_of(stub.ModelInfer(request("more"), timeout=TIMEOUT))
        assert process.end() == 0


def test_ctrl_c_drains_like_sigterm(tmp_path: Path) -> None:
    write(tmp_path, "slow", SLOW)
    with anyserve(tmp_path) as (process, stub):
        [child] = children(process.popen.pid)
        responses = stub.ModelStreamInfer(iter([request("slow")]), timeout=TIMEOUT)
        next(responses)
        os.kill(child, signal.SIGINT)  # a terminal sends it to all processes of a group
        process.popen.send_signal(signal.SIGINT)
        assert not any(response.error_message for response in responses)
        assert process.end() == 0


def test_a_worker_with_nothing_to_serve_ends_with_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_LLAMA, "pipelines", str(tmp_path), "--port", "0", "--log-level", "error"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    assert (result.returncode, result.stderr) == (1, "Error: none of the pipelines can be served\n")


NOISY = """
    import ctypes, logging, sys, warnings

    class PipelineWrapper:
        def setup(self):
            print("printed at setup")
            logging.getLogger("mine").warning("logged %s", "at setup")
            sys.stderr.write("no end of line")

        def run_chat_completion(self, model, messages, body):
            text = messages[-1]["content"]
            if text == "long":
                print("x" * 100_000)
            elif text == "many":
                for n in range(20_000):
                    print(f"line {n}")
            elif text == "binary":
                sys.stdout.buffer.write(b"\\xff\\x00\\x1e{\\"a\\": 1}\\n")
                sys.stdout.flush()
            elif text == "fail":
                raise ValueError("first\\nsecond")
            elif text == "crash":
                ctypes.string_at(0)
            return "done"
    """


def test_the_output_of_a_pipeline_is_in_the_log_within_limits(tmp_path: Path) -> None:
    write(tmp_path, "noisy", NOISY)
    with anyserve(tmp_path, "--log-format", "json") as (process, stub):
        for text in ("long", "many", "binary"):
            stub.ModelInfer(request("noisy", text), timeout=TIMEOUT)
        for text in ("fail", "crash"):
            with pytest.raises(grpc.RpcError):
                stub.ModelInfer(request("noisy", text), timeout=TIMEOUT)
        process.wait_for("the process of pipeline 'noisy' has ended: SIGSEGV")
        assert process.end() == 0
        lines = [json.loads(line) for line in process.output.splitlines()]
    own = [line for line in lines if line.get("pipeline") == "noisy"]
    messages = [line["message"] for line in own]
    assert "printed at setup" in messages
    [logged] = [line for line in own if line["message"] == "logged at setup"]
    assert (logged["level"], logged["source"]) == ("warning", "mine")
    assert max(map(len, messages)) < 5000
    assert len(messages) < 3000
    assert any("lines of its output were dropped" in message for message in messages)
    [failed] = [line for line in own if "exception" in line]
    assert "ValueError: first" in failed["exception"]
    assert 'pipeline_wrapper.py", line 21' in failed["exception"]
    assert any("Fatal Python error: Segmentation fault" in message for message in messages)


def test_the_reason_of_a_crash_is_logged_at_every_level(tmp_path: Path) -> None:
    write(tmp_path, "noisy", NOISY)
    command = (sys.executable, "-c", WITHOUT_LLAMA, "pipelines", str(tmp_path), "--port", "0", "--log-level", "error")
    metrics = ("--metrics-port", "0", "--host", "127.0.0.1")
    process = Process(*command, *metrics)
    try:
        deadline = time.monotonic() + TIMEOUT
        while not (pids := children(process.popen.pid)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(1.5)
        os.kill(pids[0], signal.SIGSEGV)
        process.wait_for("has ended: SIGSEGV", TIMEOUT)
        assert "Fatal Python error: Segmentation fault" in process.output
    finally:
        process.end(signal.SIGKILL)


def test_metrics_count_the_requests_and_processes_of_pipelines(tmp_path: Path) -> None:
    write(tmp_path, "words", WORDS)
    with anyserve(tmp_path, "--metrics-port", "0") as (process, stub):
        for _ in range(3):
            stub.ModelInfer(request("words"), timeout=TIMEOUT)
        time.sleep(1.2)  # the process is measured once a second
        url = process.wait_for(r"metrics=(http://\S+)")[1]
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            text = response.read().decode()
        assert 'anyserve_worker_requests_ended_total{model="words",outcome="stop"} 3.0' in text
        assert 'anyserve_worker_request_seconds_count{model="words"} 3.0' in text
        assert 'anyserve_worker_model_ready{model="words"} 1.0' in text
        assert 'anyserve_worker_pipeline_requests_running{pipeline="words"} 0.0' in text
        assert 'anyserve_worker_pipeline_restarts_total{pipeline="words"} 0.0' in text
        memory = [line for line in text.splitlines() if line.startswith("anyserve_worker_pipeline_memory_bytes{")]
        assert float(memory[0].split()[1]) > 5 << 20
        assert "chat id=" not in text
        line = process.wait_for(r"anyserve_worker\.access: chat .*")[0]
        assert "model=words outcome=stop" in line
        statistics = stub.ModelStatistics(pb.ModelStatisticsRequest())
        assert statistics.model_stats[0].inference_count == 3
