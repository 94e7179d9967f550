"""Both programs run as in their images: not as root, without capabilities, with one writable folder for temporary
files. The container engine enforces this in production, Linux namespaces do here."""

import http.client
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from scripts.ports import free_port
from tests.e2e.servers import Process
from tests.models import smollm2_path
from tests.packaging.commands import ROOT

USER = "10001"
_LOCK_DOWN = """
grep -vE '^[^ ]+ /(proc|sys|dev)[/ ]' /proc/mounts | cut -d ' ' -f 2 | while read -r place; do
  mount -o remount,bind,ro "$place" || true
done 2>/dev/null
mount -t tmpfs tmpfs "$0"
export TMPDIR="$0" HOME=/nonexistent PYTHONDONTWRITEBYTECODE=1
exec setpriv --bounding-set=-all --ambient-caps=-all --inh-caps=-all --no-new-privs "$@"
"""


def lock_down_prefix(temporary: Path) -> list[str]:
    """Returns the prefix of a command that locks it down; empty if the kernel doesn't allow that, as on a Mac."""
    unshare = ["unshare", "--user", f"--map-user={USER}", f"--map-group={USER}", "--keep-caps", "--mount"]
    prefix = [*unshare, "sh", "-ec", _LOCK_DOWN, str(temporary)]
    if shutil.which("unshare") and subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode == 0:
        return prefix
    assert "CI" not in os.environ, "namespaces are needed to lock a process down"
    return []


@contextmanager
def started(*command: str, ready: str) -> Iterator[Process]:
    process = Process(*command)
    try:
        process.wait_for(ready)
        yield process
    finally:
        process.end()


def post(port: int, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with closing(connection):
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def test_only_the_temporary_folder_can_be_written(tmp_path: Path) -> None:
    prefix = lock_down_prefix(tmp_path)
    if not prefix:
        return
    script = 'id -u; grep CapEff /proc/self/status; for f in "$@"; do touch "$f/x" 2>/dev/null && echo "$f"; done; true'
    places = [str(place) for place in (ROOT, Path("/"), Path.home(), tmp_path.parent, tmp_path)]
    result = subprocess.run(
        [*prefix, "sh", "-c", script, "sh", *places], check=False, capture_output=True, text=True, timeout=60
    )
    assert result.stdout.split() == [USER, "CapEff:", "0000000000000000", str(tmp_path)]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_pair_serves_when_locked_down(tmp_path: Path, workers: int) -> None:
    model = str(smollm2_path())
    prefix = lock_down_prefix(tmp_path)
    port, worker_port = free_port(), free_port()
    options = ["--model", model, "--port", str(worker_port), "--n-ctx", "1024"]
    endpoint = f"127.0.0.1:{worker_port}"
    python = [*prefix, sys.executable, "-m"]
    with (
        started(*python, "anyserve_worker", *options, ready=r"server: ready: ") as worker,
        started(
            *python, "openai_server", "--anyserve-endpoint", endpoint, "--port", str(port), "--workers", str(workers),
            ready=r"connected to the backend",
        ) as sidecar,
    ):  # fmt: skip
        check = subprocess.run([*python, "anyserve_worker", "--healthcheck", "--port", str(worker_port)], check=False)
        assert check.returncode == 0
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        # The request needs a template and a guide; a slow guide is compiled in another process.
        status, response = post(
            port,
            "/v1/chat/completions",
            {
                "messages": [{"role": "user", "content": "A number?"}],
                "max_tokens": 60,
                "temperature": 0,
                "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
            },
        )
        assert status == 200, response
        assert response["choices"][0]["message"]["content"].startswith("{")
        status, response = post(port, "/v1/embeddings", {"input": "a fox"})
        assert status == 200, response
        assert sidecar.end() == 0
        assert worker.end() == 0
        assert "Traceback" not in sidecar.output + worker.output
