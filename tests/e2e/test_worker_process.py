"""The worker as a process: startup, command-line errors, health, drain; and tests that need their own options."""

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from protos import grpc_predict_v2_pb2 as pb
from scripts.ports import free_port
from tests.e2e import servers
from tests.e2e.conftest import GEMMA3, SMOLLM2
from tests.e2e.messages import LONG_STORY, STORY, infer, outputs, text
from tests.gguf_files import tiny
from tests.models import gemma3_path, smollm2_path


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "anyserve_worker", *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def _one_line_error(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode != 0
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return errors[0]


def test_a_missing_model_file_is_one_line() -> None:
    assert "/no/such.gguf" in _one_line_error(_run("--model", "/no/such.gguf"))


def test_a_broken_model_file_is_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(smollm2_path().read_bytes()[:10_000])
    assert "broken.gguf" in _one_line_error(_run("--model", str(broken), "--port", "0"))


def test_a_port_in_use_is_one_line() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        result = _run("--model", str(smollm2_path()), "--port", str(port))
    error = _one_line_error(result)
    assert result.stderr.splitlines() == [error]
    assert str(port) in error


def test_each_line_of_a_json_log_is_an_object(tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    model.write_bytes(tiny().data())
    command = (sys.executable, "-m", "anyserve_worker", "--model", str(model), "--port", "0", "--log-format", "json")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(json.loads(line)["message"])
            if lines[-1] == "ready: tiny":
                process.terminate()
    assert {"loading tiny: 0%", "ready: tiny"} <= set(lines)
    assert process.returncode == 0


def test_anyserve_serve_is_the_same_worker() -> None:
    command = Path(sys.executable).with_name("anyserve")
    process = servers.Process(str(command), "serve", str(smollm2_path()), "--port", "0", "--n-ctx", "256")
    try:
        address = "127.0.0.1:" + process.wait_for(r"listening on 127\.0\.0\.1:(\d+)")[1]
        process.wait_for("server: ready: ")
        with servers.stub(address) as service:
            index = service.RepositoryIndex(pb.RepositoryIndexRequest())
            assert [model.name for model in index.models] == [smollm2_path().stem]
    finally:
        assert process.end() == 0


def test_health_and_reflection_are_served(worker_address: str) -> None:
    with grpc.insecure_channel(worker_address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for service in ("", "inference.GRPCInferenceService"):
            response = stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert response.status == health_pb2.HealthCheckResponse.SERVING
        database = ProtoReflectionDescriptorDatabase(channel)
        assert "inference.GRPCInferenceService" in database.get_services()
    port = worker_address.rpartition(":")[2]
    assert _run("--healthcheck", "--port", port).returncode == 0
    assert _run("--healthcheck", "--port", str(free_port())).returncode == 1


def test_the_worker_is_live_before_it_is_ready() -> None:
    process = servers.Process(
        sys.executable, "-m", "anyserve_worker", "--port", "0", "--model", f"{GEMMA3}={gemma3_path()}"
    )
    try:
        address = "127.0.0.1:" + process.wait_for(r"listening on 127\.0\.0\.1:(\d+)")[1]
        with servers.stub(address) as service:
            assert service.ServerLive(pb.ServerLiveRequest(), wait_for_ready=True).live
            is_ready = service.ServerReady(pb.ServerReadyRequest()).ready
            if not is_ready:
                state = service.RepositoryIndex(pb.RepositoryIndexRequest()).models[0].state
                assert state in ("LOADING", "READY")
            process.wait_for("server: ready: ")
            assert service.ServerReady(pb.ServerReadyRequest()).ready
    finally:
        process.end()


def test_sigterm_drains_the_running_requests() -> None:
    with servers.worker("--model", f"{SMOLLM2}={smollm2_path()}", "--n-ctx", "1024") as (process, address):
        with servers.stub(address) as service:
            hold = threading.Event()

            def requests():  # type: ignore[no-untyped-def]
                yield infer(SMOLLM2, STORY, id="first", temperature=2.0, max_tokens=150)
                hold.wait(60)  # the client keeps its stream open

            call = service.ModelStreamInfer(requests())  # type: ignore[no-untyped-call]
            next(call)
            process.popen.terminate()
            process.wait_for("draining")
            last = None
            for response in call:
                last = response
            hold.set()
            assert last is not None
            assert outputs(last.infer_response)["completion_tokens"] == [150]
            assert call.code() is grpc.StatusCode.OK
            with pytest.raises(grpc.RpcError) as caught:
                service.ModelInfer(infer(SMOLLM2, STORY, max_tokens=1))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert process.end() == 0


def test_a_health_watch_does_not_delay_the_shutdown() -> None:
    with (
        servers.worker("--model", f"{SMOLLM2}={smollm2_path()}", "--n-ctx", "256") as (process, address),
        grpc.insecure_channel(address) as channel,
    ):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        process.popen.terminate()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert process.end(timeout=15) == 0


def test_a_prompt_is_tokenized_while_the_worker_ends() -> None:
    """The client is gone; the tokenizer's data must not be freed while it reads them."""
    with (
        servers.worker("--model", f"{SMOLLM2}={smollm2_path()}", "--drain-timeout", "0") as (process, address),
        servers.stub(address) as service,
    ):
        with pytest.raises(grpc.RpcError):
            service.ModelInfer(infer(SMOLLM2, "<|im_start|>" * 16_000, max_tokens=1), timeout=0.15)
        assert process.end() == 0


def test_every_request_is_answered_when_cells_run_short() -> None:
    """Eight requests need several times the available KV cells, so some are preempted."""
    with (
        servers.worker("--model", f"{SMOLLM2}={smollm2_path()}", "--n-ctx", "256", "--parallel", "8") as (_, address),
        servers.stub(address) as service,
    ):
        requests = [infer(SMOLLM2, f"{i} {STORY}", max_tokens=100, temperature=0.0) for i in range(8)]
        responses = [call.result() for call in [service.ModelInfer.future(request) for request in requests]]
        for response in responses:
            tensors = outputs(response)
            assert tensors["completion_tokens"] == [100] or tensors["finish_reason"] == ["stop"]
            assert len(tensors["text"][0]) > 50


@pytest.mark.parametrize("swa", ["--swa-full", "--no-swa-full"])
def test_a_sliding_window_reuses_prefixes_correctly(swa: str) -> None:
    """With prompts longer than the window of 512 tokens, the text after a reused prefix equals that without reuse."""
    prompt = LONG_STORY * 4
    # The continuation is in the prompt word for word, so rounding can't change it, but a lost KV cell can.
    tails = ["Once upon", "Once upon a time, in a forest far", "Once upon a time, in a forest far away, there lived"]
    options = ("--model", f"{GEMMA3}={gemma3_path()}", "--n-ctx", "2048", swa)

    def texts_and_counts(*, reuse: bool) -> list[tuple[str, int]]:
        cached = () if reuse else ("--cached-sequences", "0", "--parallel", "1")
        with servers.worker(*options, *cached) as (_, address), servers.stub(address) as service:
            result = []
            for tail in tails:
                if not reuse:  # evicts the prefix in between
                    service.ModelInfer(infer(GEMMA3, "Hello " + prompt, max_tokens=1))
                response = service.ModelInfer(infer(GEMMA3, prompt + tail, max_tokens=4, temperature=0.0))
                result.append((text(response), outputs(response)["cached_tokens"][0]))
            return result

    fresh, reused = texts_and_counts(reuse=False), texts_and_counts(reuse=True)
    assert max(cached for _, cached in fresh) < 10
    if swa == "--swa-full":
        assert min(cached for _, cached in reused[1:]) > 512
    assert [text for text, _ in reused] == [text for text, _ in fresh]
    assert [text.split()[0] for text, _ in fresh] == ["a", "away,", "a"]
