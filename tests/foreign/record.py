"""`python -m tests.foreign.record [BACKEND ...]`: records what sidecar and servers send each other.

Writes tests/wire/recorded/backends/BACKEND.json, which the wire tests replay without the servers.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.foreign import bench, setup
from tests.foreign.backends import BACKENDS, Backend
from tests.foreign.http_client import Client
from tests.wire.backend_messages import BARE
from tests.wire.backend_replay import FOLDER, answer_in_common, http_requests, is_inference

RECORDED = {backend.name for backend in BACKENDS} - {"triton-broken", "triton-vllm-versions"}
"""Backends to record by default: these two differ from others in their lists of models alone."""
RECORDER_PORT = 9500
SETTLE_SECONDS = 0.3
"""Time after a response in which the recorder writes the last calls."""
LOCAL_FOLDERS = re.compile(r"/[\w./-]*/(?=(?:lib/python3|tests/foreign))")
"""Folders of this machine in the tracebacks that some servers send."""


def record(backend: Backend, folder: Path) -> dict[str, Any]:
    """Returns the recording."""
    options = bench.sidecar_options(backend, RECORDER_PORT)
    kind = BARE if backend.server == "mlserver" else ""
    log = folder / "calls.jsonl"
    recorder = [sys.executable, "-m", "tests.foreign.recorder", str(RECORDER_PORT), str(bench.SERVER_PORT), str(log)]
    with (
        bench.server(backend, folder) as place,
        bench.process(place, [*recorder, *([kind] if kind else [])], {}, folder / "recorder.log", RECORDER_PORT),
        bench.sidecar(place, options, folder / "sidecar.log", bench.SIDECAR_PORT) as client,
    ):
        time.sleep(SETTLE_SECONDS)
        exchanges = [_exchange(client, log, path, body) for path, body in http_requests(backend.model)]
    here = [option.replace(f"{setup.ROOT}{os.sep}", "") for option in options[1:]]
    lookups = [call for call in _calls(log) if not is_inference(call["rpc"], call["request"])]
    unique = {json.dumps([call["rpc"], call["request"]]): call for call in reversed(lookups)}
    return {
        "backend": backend.description,
        "kind": kind,
        "options": here,
        "lookups": sorted(unique.values(), key=lambda call: json.dumps([call["rpc"], call["request"]])),
        "exchanges": exchanges,
    }


def _exchange(client: Client, log: Path, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
    before = len(_calls(log))
    reply = client.get(path) if body is None else client.post(path, body)
    time.sleep(SETTLE_SECONDS)
    calls = [call for call in _calls(log)[before:] if is_inference(call["rpc"], call["request"])]
    return {"path": path, "body": body, "answer": answer_in_common(reply.status, reply.body), "calls": calls}


def _calls(log: Path) -> list[dict[str, Any]]:
    """Returns the recorded calls. A stream carries one request here."""
    if not log.exists():
        return []
    calls = []
    for line in log.read_text().splitlines():
        call = json.loads(LOCAL_FOLDERS.sub("/opt/", line))
        requests = call.pop("requests")
        assert len(requests) <= 1, "several requests in a stream"
        calls.append({"rpc": call.pop("rpc"), "request": requests[0] if requests else None, **call})
    return calls


def main(names: list[str]) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for backend in BACKENDS:
        if backend.name not in (names or RECORDED):
            continue
        with tempfile.TemporaryDirectory(prefix=backend.name) as folder:
            recording = record(backend, Path(folder))
        path = FOLDER / f"{backend.name}.json"
        path.write_text(_compact(recording) + "\n")
        print(f"{path.relative_to(setup.ROOT)}: {len(recording['exchanges'])} exchanges")


def _compact(value: Any, depth: int = 0) -> str:
    """JSON with a line for each part that fits into one."""
    line = json.dumps(value)
    if len(line) + depth <= 120 or not isinstance(value, dict | list) or not value:
        return line
    pad = " " * (depth + 1)
    if isinstance(value, dict):
        parts = [f"{pad}{json.dumps(key)}: {_compact(element, depth + 1)}" for key, element in value.items()]
        return "{\n" + ",\n".join(parts) + "\n" + " " * depth + "}"
    return "[\n" + ",\n".join(pad + _compact(element, depth + 1) for element in value) + "\n" + " " * depth + "]"


if __name__ == "__main__":
    main(sys.argv[1:])
