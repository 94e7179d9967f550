"""Measures interactive clients with and without a batch under way, and a batch beside clients in a closed loop."""

from __future__ import annotations

import json
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks import client, loading, prompts
from benchmarks.orders import Answer, Orders
from benchmarks.settings import Settings
from benchmarks.stats import interleaved, medians, paired_ratios, percentile
from benchmarks.systems import OURS, Launcher, Server, completion
from scripts.errors import Fail

ALONE, BESIDE = "clients alone", "beside a batch"
CLOSED_LOOP, BATCH = "closed loop", "batch"
URL = "/v1/completions"
PROMPT_TOKENS, NEW_TOKENS = 150, 48
LINE_TOKENS = 48
"""Tokens of each answer of a batch."""
CLIENTS = 4
THINK = 1.0
"""Mean pause of a client after an answer, as a multiple of the answer's time: it is idle for half of the time."""
LINES_PER_SLOT = 2
"""Lines under way for each slot of the worker. With the default options it is two as well."""
NO_SHARE = ("--background-share", "0")
"""The minimum share is a price that the operator sets; `background.py` measures the default."""
LIMIT_S = 900.0
LOOK_S = 0.1
FINAL = ("completed", "failed", "expired", "cancelled")


def measure(launcher: Launcher) -> dict[str, Any]:
    settings = launcher.settings
    rounds: dict[str, list[dict[str, float]]] = {ALONE: [], BESIDE: [], CLOSED_LOOP: [], BATCH: []}
    with tempfile.TemporaryDirectory() as folder:
        lines = str(LINES_PER_SLOT * settings.slots)
        options = ("--store", f"sqlite:///{folder}/store.db", "--batch-concurrency", lines)
        pair = replace(launcher, worker_options=NO_SHARE, sidecar_options=options)
        with pair.running(OURS, auto=True) as server:
            _clients(settings, server, "warm")
            for number, name in interleaved((ALONE, BESIDE), settings.batch_rounds):
                seed = f"batches {number} {name}"
                found = _clients(settings, server, seed) if name == ALONE else _beside(settings, server, seed)
                _keep(rounds, number, name, found)
            for number, name in interleaved((CLOSED_LOOP, BATCH), settings.batch_rounds):
                seed = f"batches {number} {name}"
                found = _closed_loop(settings, server, seed) if name == CLOSED_LOOP else _batch(settings, server, seed)
                _keep(rounds, number, name, found)
    return {
        "setup": {
            "clients": CLIENTS,
            "requests": settings.batch_requests,
            "prompt_tokens": PROMPT_TOKENS,
            "new_tokens": NEW_TOKENS,
            "lines": settings.batch_lines,
            "lines_alone": settings.batch_lines_alone,
            "slots": settings.slots,
            "under_way": LINES_PER_SLOT * settings.slots,
            "rounds": settings.batch_rounds,
        },
        "rounds": rounds,
        "points": summary(rounds),
    }


def summary(rounds: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians by point, and medians of the ratios within a round to the clients. PURE."""
    references = {ALONE: ALONE, BESIDE: ALONE, CLOSED_LOOP: CLOSED_LOOP, BATCH: CLOSED_LOOP}
    return {
        name: {"median": medians(found), "to_clients": paired_ratios(found, rounds[references[name]])}
        for name, found in rounds.items()
    }


def _keep(rounds: dict[str, list[dict[str, float]]], number: int, name: str, found: dict[str, float]) -> None:
    rounds[name].append(found)
    listed = ", ".join(f"{key} {value:.3g}" for key, value in found.items())
    print(f"batches, {number + 1}: {name}: {listed}", flush=True)


# ---- Interactive clients


def _clients(settings: Settings, server: Server, seed: str) -> dict[str, float]:
    server.wait_until_idle()
    return _figures(_load(settings, server, seed))


def _load(settings: Settings, server: Server, seed: str) -> list[Answer]:
    bodies = [
        json.dumps(completion(prompts.short(seed, n, PROMPT_TOKENS), NEW_TOKENS, ignore_eos=True))
        for n in range(settings.batch_requests)
    ]
    return loading.load(Orders(server.port, bodies, CLIENTS, LIMIT_S, path=URL, think=THINK))


def _figures(answers: Sequence[Answer]) -> dict[str, float]:
    """`tokens_per_s` is that of one answer, from its request on; `gap` the time from one token to the next."""
    gaps = [later - time_ for answer in answers for time_, later in zip(answer.times, answer.times[1:], strict=False)]
    waits = [answer.times[0] - answer.sent for answer in answers if answer.times]
    return {
        "ttft_p50_ms": 1e3 * percentile(waits, 50),
        "ttft_p95_ms": 1e3 * percentile(waits, 95),
        "tokens_per_s": percentile((answer.tokens / (answer.ended - answer.sent) for answer in answers), 50),
        "gap_p50_ms": 1e3 * percentile(gaps, 50),
        "gap_p95_ms": 1e3 * percentile(gaps, 95),
        "requests": len(answers),
        "errors": sum(bool(answer.error) or answer.cut for answer in answers),
    }


def _beside(settings: Settings, server: Server, seed: str) -> dict[str, float]:
    """The batch is cancelled at the end: it must outlast the clients."""
    server.wait_until_idle()
    batch = Batch(server.port, f"{seed} lines", settings.batch_lines)
    batch.wait_for_lines(1)
    before, began = batch.n_completed(), time.monotonic()
    found = _figures(_load(settings, server, seed))
    n_lines, seconds = batch.n_completed() - before, time.monotonic() - began
    if batch.state()["status"] != "in_progress":
        raise Fail(f"the batch ended before the clients did: {batch.state()}")
    batch.cancel()
    return {**found, "batch_tokens_per_s": n_lines * LINE_TOKENS / seconds}


# ---- A batch alone


def _line(seed: str, number: int, *, stream: bool) -> dict[str, Any]:
    return completion(prompts.short(seed, number), LINE_TOKENS, stream=stream, ignore_eos=True)


def _closed_loop(settings: Settings, server: Server, seed: str) -> dict[str, float]:
    """As many clients as the worker has slots."""
    server.wait_until_idle()
    bodies = [json.dumps(_line(seed, n, stream=True)) for n in range(settings.batch_lines_alone)]
    answers = loading.load(Orders(server.port, bodies, settings.slots, LIMIT_S, path=URL))
    seconds = max(answer.ended for answer in answers) - min(answer.sent for answer in answers)
    return {
        "tokens_per_s": sum(answer.tokens for answer in answers) / seconds,
        "errors": sum(bool(answer.error) or answer.cut for answer in answers),
    }


def _batch(settings: Settings, server: Server, seed: str) -> dict[str, float]:
    server.wait_until_idle()
    batch = Batch(server.port, seed, settings.batch_lines_alone)
    batch.wait_for_start()
    began = time.monotonic()
    batch.wait_for_lines(settings.batch_lines_alone)
    seconds = time.monotonic() - began
    state = batch.wait_for_end()
    return {
        "tokens_per_s": settings.batch_lines_alone * LINE_TOKENS / seconds,
        "errors": state["request_counts"]["failed"],
    }


class Batch:
    """A batch of equally long answers."""

    def __init__(self, port: int, seed: str, n_lines: int) -> None:
        self._port = port
        lines = "".join(
            json.dumps({"custom_id": f"{seed} {n}", "method": "POST", "url": URL, "body": _line(seed, n, stream=False)})
            + "\n"
            for n in range(n_lines)
        )
        file = _send_file(port, lines.encode())
        body = {"input_file_id": file, "endpoint": URL, "completion_window": "24h"}
        self._path = f"/v1/batches/{self._call('POST', '/v1/batches', body)['id']}"

    def state(self) -> dict[str, Any]:
        return self._call("GET", self._path)

    def n_completed(self) -> int:
        counts = self.state().get("request_counts") or {"completed": 0}
        return int(counts["completed"])

    def wait_for_start(self) -> None:
        self._wait(lambda state: state["status"] != "validating")

    def wait_for_lines(self, n: int) -> None:
        self._wait(lambda state: (state.get("request_counts") or {"completed": 0})["completed"] >= n)

    def wait_for_end(self) -> dict[str, Any]:
        return self._wait(lambda state: state["status"] in FINAL)

    def cancel(self) -> None:
        self._call("POST", f"{self._path}/cancel", {})
        self.wait_for_end()

    def _wait(self, is_reached: Any) -> dict[str, Any]:
        deadline = time.monotonic() + LIMIT_S
        while not is_reached(state := self.state()):
            if state["status"] in FINAL or time.monotonic() > deadline:
                raise Fail(f"the batch doesn't go on: {state}")
            time.sleep(LOOK_S)
        return state

    def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        return _answer(self._port, method, path, data, "application/json")


def _send_file(port: int, content: bytes) -> str:
    head = (
        '--part\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        '--part\r\nContent-Disposition: form-data; name="file"; filename="lines.jsonl"\r\n\r\n'
    )
    body = head.encode() + content + b"\r\n--part--\r\n"
    return str(_answer(port, "POST", "/v1/files", body, "multipart/form-data; boundary=part")["id"])


def _answer(port: int, method: str, path: str, data: bytes | None, content_type: str) -> dict[str, Any]:
    request = urllib.request.Request(  # a server of ours
        f"http://{client.HOST}:{port}{path}", data, {"content-type": content_type}, method=method
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=LIMIT_S) as response:
        found: dict[str, Any] = json.load(response)
        return found
