"""A worker whose log lines are lost: it keeps serving, and exits as usual."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from protos import grpc_predict_v2_pb2 as pb
from scripts.ports import free_port
from tests.e2e import servers
from tests.e2e.messages import infer, outputs
from tests.gguf_files import tiny

FULL = ("sh", "-c", 'exec "$0" "$@" >/dev/full 2>&1')
CLOSED = ("sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-')


@contextmanager
def quiet_worker(model: Path, port: int, redirection: tuple[str, ...]) -> Iterator["subprocess.Popen[bytes]"]:
    """Starts a worker whose output is a pipe without a reader, unless `redirection` redirects it."""
    reader, writer = os.pipe()
    os.close(reader)
    command = (sys.executable, "-m", "anyserve_worker", "--model", f"tiny={model}", "--port", str(port))
    process = subprocess.Popen([*redirection, *command], stdin=subprocess.DEVNULL, stdout=writer, stderr=writer)
    os.close(writer)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("redirection", [FULL, CLOSED, ()], ids=["full disk", "closed", "broken pipe"])
def test_a_worker_serves_and_exits_cleanly_without_its_log(redirection: tuple[str, ...], tmp_path: Path) -> None:
    model, port = tmp_path / "tiny.gguf", free_port()
    model.write_bytes(tiny().data())
    with quiet_worker(model, port, redirection) as process, servers.stub(f"127.0.0.1:{port}") as service:
        servers.eventually(lambda: service.ServerReady(pb.ServerReadyRequest(), wait_for_ready=True, timeout=60).ready)
        for _ in range(3):  # each logs a line
            response = outputs(service.ModelInfer(infer("tiny", "abc", max_tokens=5, ignore_eos=True)))
            assert response["completion_tokens"] == [5]
        process.terminate()
        assert process.wait(60) == 0


@pytest.mark.parametrize("redirection", [FULL, CLOSED, ()], ids=["full disk", "closed", "broken pipe"])
def test_an_error_that_can_not_be_written_still_sets_the_status(redirection: tuple[str, ...], tmp_path: Path) -> None:
    model = tmp_path / "no_model.gguf"
    model.write_bytes(b"<!DOCTYPE html>")
    with quiet_worker(model, 0, redirection) as process:
        assert process.wait(60) == 1
