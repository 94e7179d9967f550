"""Measures the sidecar in front of a fake worker that answers at once, and a bare ASGI app that writes chunks."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import client, loading, pace
from benchmarks.orders import Answer, Orders
from benchmarks.processes import Job, Process
from benchmarks.settings import Settings
from benchmarks.stats import interleaved, medians, paired_ratios, percentile
from benchmarks.systems import MODEL
from scripts.errors import Fail
from scripts.ports import free_port

STREAM_EACH, STEP_BATCHES, BARE = "a stream a request", "step batches", "bare uvicorn"
WAYS = (STREAM_EACH, STEP_BATCHES, BARE)
START_S = 60.0
STEP_MS = {1: 5.0, 16: 10.0, 64: 20.0, 256: 50.0, 1024: 100.0}
"""Milliseconds between tokens of a paced point, by number of streams. Streams get them together, as from a step."""
FULL_SPEED = 15_000
"""Tokens of a saturated point, per second of its minimum duration."""
EQUAL_FROM = 64
"""Number of streams from which on each stream of a saturated point has as many tokens: fewer would weigh its beginning,
with a connection, a request and messages of few rows, the more the more streams there are."""
MEMORY_STREAMS = 256
"""Open streams while memory is measured, at most."""
UNARY_CLIENTS = 16
STARTS = 3
"""Number of starts, of which the median counts; the first one may have to compile every module."""
WITH_BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}
"""Environment of the servers. An installed package has its bytecode, so compiling is no part of a start."""
ROOT = Path(__file__).resolve().parents[1]
Figures = dict[str, float]


class Sidecar:
    """The measured process, which listens on `port`; its fake worker, if any, listens on `grpc_port`."""

    def __init__(self, process: Process, port: int, grpc_port: int) -> None:
        self.process, self.port, self.grpc_port = process, port, grpc_port


@contextlib.contextmanager
def fake_worker(way: str) -> Iterator[int]:
    """Runs a fake worker and yields its port."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.fake_worker", str(port)]
    process = Process(command + (["step-batches"] if way == STEP_BATCHES else []))
    try:
        process.wait_for("ready", START_S)
        yield port
    finally:
        process.end()


@contextlib.contextmanager
def sidecar(
    way: str, grpc_port: int, *, checkout: Path | None = None, options: Sequence[str] = ()
) -> Iterator[tuple[Sidecar, float]]:
    """Yields a sidecar and the seconds from its start to its first answer. `checkout`: None is this one."""
    port = free_port()
    if way == BARE:
        command = [sys.executable, "-m", "benchmarks.bare_app", str(port)]
    else:
        command = [sys.executable, "-P", "-m", "openai_server", "--port", str(port)]
        command += ["--anyserve-endpoint", f"{client.HOST}:{grpc_port}", *options]
    began = time.perf_counter()
    process = Process(command, env={**WITH_BYTECODE, "PYTHONPATH": str(checkout or ROOT)})
    try:
        _wait_for_an_answer(process, port, began + START_S)
        yield Sidecar(process, port, grpc_port), time.perf_counter() - began
    finally:
        process.end()


def _wait_for_an_answer(process: Process, port: int, deadline: float) -> None:
    answer = ""
    while time.perf_counter() < deadline:
        process.require_alive()
        with contextlib.suppress(OSError):
            status, answer = client.post(port, "/v1/completions", _body(1, 0, stream=False), START_S)
            if status == 200:
                return
        time.sleep(0.002)
    raise Fail(f"{process.name} gave no answer: {answer[:500]}\n{process.tail()}")


def _body(tokens: int, step_ms: float, *, stream: bool) -> dict[str, Any]:
    return {"model": MODEL, "prompt": pace.prompt(tokens, step_ms), "max_tokens": tokens, "stream": stream}


def _orders(server: Sidecar, body: dict[str, Any], requests: int, concurrency: int, limit_s: float) -> Orders:
    return Orders(server.port, [json.dumps(body)] * requests, concurrency, limit_s, count=True)


# ---- Points


def streams(server: Sidecar, count: int, tokens: int, step_ms: float, limit_s: float) -> Figures:
    orders = _orders(server, _body(tokens, step_ms, stream=True), count, count, limit_s)
    return load_streams(server, orders, count * tokens)


def load_streams(server: Sidecar, orders: Orders, expected: int) -> Figures:
    """`expected`: tokens of all streams together."""
    before = server.process.cpu_seconds()
    answers = loading.load(orders)
    cpu = server.process.cpu_seconds() - before
    return {**stream_figures(answers, cpu), "missing": float(expected - sum(a.tokens for a in answers))}


def stream_figures(answers: list[Answer], cpu_s: float) -> Figures:
    """Figures of streams. `chunks_per_token` is less than 1 if chunks have several tokens. PURE."""
    tokens = sum(answer.tokens for answer in answers)
    # Without the [DONE] of each stream.
    chunks = sum(max(0, answer.events - 1) for answer in answers)
    seconds = max((a.ended for a in answers), default=0.0) - min((a.sent for a in answers), default=0.0)
    return {
        "tokens_per_cpu_s": tokens / cpu_s if cpu_s else 0.0,
        "tokens_per_s": tokens / seconds if seconds else 0.0,
        "chunks_per_token": chunks / tokens if tokens else 0.0,
        "cpu_us_per_chunk": 1e6 * cpu_s / chunks if chunks else 0.0,
        "errors": float(sum(bool(answer.error) for answer in answers)),
    }


def unary(server: Sidecar, requests: int, limit_s: float) -> Figures:
    return load_unary(server, _orders(server, _body(1, 0, stream=False), requests, UNARY_CLIENTS, limit_s))


def load_unary(server: Sidecar, orders: Orders) -> Figures:
    before = server.process.cpu_seconds()
    answers = loading.load(orders)
    cpu = server.process.cpu_seconds() - before
    done = [answer for answer in answers if not answer.error and not answer.cut]
    seconds = max(answer.ended for answer in answers) - min(answer.sent for answer in answers)
    return {
        "requests_per_s": len(done) / seconds,
        "cpu_ms_per_request": 1e3 * cpu / max(1, len(done)),
        "errors": float(len(answers) - len(done)),
    }


def latency(server: Sidecar, calls: int) -> Figures:
    orders: dict[str, Any] = {"port": server.port, "grpc_port": server.grpc_port, "calls": calls}
    orders |= {"model": MODEL, "prompt": pace.prompt(1, 0)}
    job = Job([sys.executable, "-m", "benchmarks.latency"], json.dumps(orders).encode())
    taken = json.loads(job.answer(calls * 0.1 + START_S))
    found = {
        f"{way}_p{percent}_ms": 1e3 * percentile(taken[way], percent)
        for way in ("direct", "http")
        for percent in (50, 99)
    }
    for percent in (50, 99):
        found[f"added_p{percent}_ms"] = found[f"http_p{percent}_ms"] - found[f"direct_p{percent}_ms"]
    return found


def memory(server: Sidecar, count: int, seconds: float) -> Figures:
    """Memory of a server at rest, and per stream with `count` slow streams open."""
    at_rest = server.process.resident_bytes()
    orders = _orders(server, _body(4, seconds / 4 * 1e3, stream=True), count, count, START_S)
    job = loading.start(orders)
    time.sleep(seconds * 0.7)
    open_streams = server.process.resident_bytes()
    loading.answers(job, orders)
    return {"at_rest_mib": at_rest / 2**20, "kib_per_stream": (open_streams - at_rest) / 2**10 / count}


# ----


def measure(settings: Settings) -> dict[str, Any]:
    rounds: dict[str, dict[str, list[Figures]]] = {}
    for number, way in interleaved(WAYS, settings.rounds):
        print(f"translator, round {number + 1}: {way}", flush=True)
        for name, found in _round(way, settings).items():
            rounds.setdefault(name, {}).setdefault(way, []).append(found)
    return {
        "step_ms": STEP_MS,
        "rounds": rounds,
        "points": {
            name: {
                way: {"median": medians(per_round), "to_bare": paired_ratios(per_round, by_way.get(BARE, []))}
                for way, per_round in by_way.items()
            }
            for name, by_way in rounds.items()
        },
    }


def _round(way: str, settings: Settings) -> dict[str, Figures]:
    found: dict[str, Figures] = {}
    limit_s = settings.point_limit_s
    with fake_worker(way) as grpc_port:
        starts = []
        for _ in range(STARTS - 1):
            with sidecar(way, grpc_port) as (_, seconds):
                starts.append(seconds)
        with sidecar(way, grpc_port) as (server, seconds):
            found["start"] = {"first_answer_s": percentile([*starts, seconds], 50)}
            found["memory"] = memory(server, min(max(settings.streams), MEMORY_STREAMS), settings.short_s * 1.5)
            for count in settings.streams:
                step_ms = STEP_MS.get(count, 20.0)
                tokens = max(2, round(settings.short_s * 1e3 / step_ms))
                found[f"paced, {count}"] = streams(server, count, tokens, step_ms, limit_s)
                tokens = max(2, round(settings.short_s * FULL_SPEED / min(count, EQUAL_FROM)))
                found[f"saturated, {count}"] = streams(server, count, tokens, 0, limit_s)
            if way != BARE:
                found["unary"] = unary(server, settings.latency_calls, limit_s)
                found["latency"] = latency(server, settings.latency_calls)
    return found
