"""Measures what the store costs: latency beside a sidecar without one, reads and sweeps of many objects, memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks import pace, store_fill, translator
from benchmarks.databases import KINDS, POSTGRESQL, SQLITE, Database, database
from benchmarks.processes import Job
from benchmarks.raw_http import Connection, message
from benchmarks.settings import Settings
from benchmarks.stats import medians, percentile
from benchmarks.systems import BEFORE, MODEL
from benchmarks.translator import STEP_BATCHES, Figures, Sidecar
from scripts.errors import Fail

NO_STORE = "no store"
PERCENTS = (50, 95, 99)
RESPONSES, CHAT = "/v1/responses", "/v1/chat/completions"
STORED, NOT_STORED, STREAM, PLAIN_CHAT = "stored answer", "answer, store: false", "stored stream", "chat"
WORDS = "The store keeps what a client may continue. " * 25
"""About 1.1 kB of text in each request."""
STREAM_TOKENS = 20
CHAIN = 10
"""Responses of a chain of previous responses."""
CONVERSATION_ITEMS = 20
ITEMS_PER_REQUEST = 10
OWNERS = ("", *(f"{number:064x}" for number in range(1, 5)))
"""Ids of callers. The sidecar, which has no keys, serves the first one; the objects of the last one expire."""
TICK_S = 0.001
WARM_UP = 100
COMMITS = 200
PROBE_S = 300.0
"""Longest time that the reads take."""
SWEEP_S = 45.0
"""Longest part of a sweep that is measured."""


def measure(settings: Settings, before: Path | None) -> dict[str, Any]:
    """`before`: another checkout, whose memory is measured too."""
    rounds = [_latency(settings, number) for number in range(settings.store_rounds)]
    return {
        "setup": {"objects": settings.stored_responses, "expired": _n_expired(settings), "calls": settings.store_calls},
        "rounds": rounds,
        "latency": summary(rounds),
        "commits": _commits(),
        "filled": {kind: _filled(settings, kind) for kind in KINDS},
        "memory": medians([_memory(before) for _ in range(settings.store_rounds)]),
    }


@contextlib.contextmanager
def _sidecars(grpc_port: int, stores: Mapping[str, Database | None]) -> Iterator[dict[str, Sidecar]]:
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                translator.sidecar(STEP_BATCHES, grpc_port, options=() if store is None else ("--store", store.url))
            )[0]
            for name, store in stores.items()
        }


@contextlib.contextmanager
def _databases() -> Iterator[dict[str, Database | None]]:
    with database(SQLITE) as file, database(POSTGRESQL) as server:
        yield {NO_STORE: None, SQLITE: file, POSTGRESQL: server}


# ---- Latency


def _response(*, tokens: int = 1, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": f"{pace.prompt(tokens, 0)} {WORDS}", **fields}


def _kinds() -> dict[str, tuple[str, dict[str, Any]]]:
    messages = [{"role": "user", "content": f"{pace.prompt(1, 0)} {WORDS}"}]
    return {
        STORED: (RESPONSES, _response()),
        NOT_STORED: (RESPONSES, _response(store=False)),
        STREAM: (RESPONSES, _response(tokens=STREAM_TOKENS, stream=True)),
        PLAIN_CHAT: (CHAT, {"model": MODEL, "messages": messages}),
    }


def _latency(settings: Settings, number: int) -> dict[str, Figures]:
    """Milliseconds by kind of request and sidecar, from one call of each in turn."""
    print(f"store, round {number + 1}: latency", flush=True)
    with (
        translator.fake_worker(STEP_BATCHES) as grpc_port,
        _databases() as stores,
        _sidecars(grpc_port, stores) as sidecars,
    ):
        orders = {
            "ports": {name: sidecar.port for name, sidecar in sidecars.items()},
            "kinds": _kinds(),
            "calls": settings.store_calls,
        }
        job = Job([sys.executable, "-m", "benchmarks.store_calls"], json.dumps(orders).encode())
        seconds = json.loads(job.answer(settings.store_calls * 0.5 + translator.START_S))
    found: dict[str, Figures] = {}
    for kind, by_name in seconds.items():
        for name, timings in by_name.items():
            found[f"{kind}, {name}"] = _percentiles([whole for _, whole in timings])
            if kind == STREAM:
                found[f"first text of a {kind}, {name}"] = _percentiles([first for first, _ in timings])
    for figures in found.values():
        if any(value <= 0 for value in figures.values()):
            raise Fail("a stream had no text")
    return {**found, **added(found)}


def _percentiles(seconds: Sequence[float]) -> Figures:
    return {f"p{percent}_ms": 1e3 * percentile(seconds, percent) for percent in PERCENTS}


def summary(rounds: Sequence[Mapping[str, Figures]]) -> dict[str, Figures]:
    """Medians over rounds, by point. PURE."""
    return {name: medians([figures[name] for figures in rounds]) for name in rounds[0]}


def added(found: Mapping[str, Figures]) -> dict[str, Figures]:
    """Differences, and ratios of medians, to the sidecar without a store. PURE."""
    differences: dict[str, Figures] = {}
    for point, figures in found.items():
        kind, _, name = point.rpartition(", ")
        if name != NO_STORE:
            without = found[f"{kind}, {NO_STORE}"]
            differences[f"added: {point}"] = {
                **{figure: value - without[figure] for figure, value in figures.items()},
                "ratio": figures["p50_ms"] / without["p50_ms"],
            }
    return differences


def _commits() -> Figures:
    """Milliseconds in which the disk confirms a write, and that PostgreSQL's commits wait for it."""
    with tempfile.NamedTemporaryFile() as file:
        seconds = []
        for _ in range(COMMITS):
            file.write(bytes(4096))
            file.flush()
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            seconds.append(time.perf_counter() - began)
    with database(POSTGRESQL) as server:
        waits, without = asyncio.run(_commit_seconds(server.url))
    return {
        "fsync_p50_ms": 1e3 * percentile(seconds, 50),
        "fsync_p99_ms": 1e3 * percentile(seconds, 99),
        "commit_p50_ms": 1e3 * percentile(waits, 50),
        "commit_without_fsync_p50_ms": 1e3 * percentile(without, 50),
        "commit_fsync_p50_ms": 1e3 * (percentile(waits, 50) - percentile(without, 50)),
    }


async def _commit_seconds(url: str) -> tuple[list[float], list[float]]:
    """Seconds of commits that wait for the disk, and of those that don't, in turn."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CREATE TABLE measured (content bytea)")
        seconds: dict[str, list[float]] = {"on": [], "off": []}
        for _ in range(COMMITS):
            for value, taken in seconds.items():
                await connection.execute(f"SET synchronous_commit = {value}")
                began = time.perf_counter()
                await connection.execute("INSERT INTO measured VALUES ($1)", bytes(2000))
                taken.append(time.perf_counter() - began)
        return seconds["on"], seconds["off"]
    finally:
        await connection.close()


# ---- Many objects


def _n_expired(settings: Settings) -> int:
    return settings.stored_responses // len(OWNERS)


def _filled(settings: Settings, kind: str) -> dict[str, Any]:
    with translator.fake_worker(STEP_BATCHES) as grpc_port, database(kind) as store:
        print(f"store, {kind}: filling", flush=True)
        with _sidecars(grpc_port, {kind: store}) as sidecars:
            _store_originals(sidecars[kind])
        n_copies = settings.stored_responses // CHAIN
        began = time.monotonic()
        store_fill.fill(store, (store_fill.Copy(number, OWNERS[number % len(OWNERS)]) for number in range(n_copies)))
        found: dict[str, Any] = {"fill_s": time.monotonic() - began, "mib": store.n_bytes() / 2**20}
        with _sidecars(grpc_port, {kind: store}) as sidecars:
            print(f"store, {kind}: reads", flush=True)
            found["reads"] = _reads(settings, store, sidecars[kind])
            found["quiet"] = _pauses(_probed(settings, sidecars[kind]))
        store.execute(f"UPDATE responses SET expires_at = 1 WHERE owner = '{OWNERS[-1]}'")
        store.execute("DELETE FROM leases")  # so that the next sidecar sweeps at once
        with _sidecars(grpc_port, {kind: store}) as sidecars:
            print(f"store, {kind}: sweep", flush=True)
            found["sweep"] = _sweep(settings, store, sidecars[kind])
    return found


def _store_originals(sidecar: Sidecar) -> None:
    """Stores a chain of responses and a conversation."""
    connection = Connection(sidecar.port)

    def post(path: str, **body: Any) -> str:
        connection.call(message("POST", path, body))
        return str(json.loads(connection.body).get("id"))

    previous: dict[str, str] = {}
    for _ in range(CHAIN):
        previous = {"previous_response_id": post(RESPONSES, **_response(), **previous)}
    id = post("/v1/conversations")
    for _ in range(CONVERSATION_ITEMS // ITEMS_PER_REQUEST):
        items = [{"role": "user", "content": WORDS}] * ITEMS_PER_REQUEST
        post(f"/v1/conversations/{id}/items", items=items)


def _reads(settings: Settings, store: Database, sidecar: Sidecar) -> dict[str, Figures]:
    """Milliseconds of reads of random objects, one after another."""
    n = settings.store_reads
    responses, conversations = (
        [id for (id,) in store.rows(f"SELECT id FROM {table} WHERE owner = '' ORDER BY id")]
        for table in ("responses", "conversations")
    )
    requests = {
        "GET response": [("GET", f"{RESPONSES}/{id}") for id in responses],
        "input_items": [("GET", f"{RESPONSES}/{id}/input_items") for id in responses],
        "conversation items": [("GET", f"/v1/conversations/{id}/items") for id in conversations],
    }
    found = {}
    for name, messages in requests.items():
        _probe(sidecar, messages[:WARM_UP], WARM_UP)
        found[name] = _percentiles(_probe(sidecar, messages, n))
    return found


def _probe(sidecar: Sidecar, requests: Sequence[tuple[Any, ...]], calls: int) -> list[float]:
    return _seconds(_started_probe(sidecar, requests, calls=calls, seconds=PROBE_S), PROBE_S)


def _started_probe(
    sidecar: Sidecar, requests: Sequence[tuple[Any, ...]], *, calls: int = sys.maxsize, seconds: float, tick: float = 0
) -> Job:
    orders = {"port": sidecar.port, "requests": requests, "calls": calls, "seconds": seconds, "tick_s": tick}
    return Job([sys.executable, "-m", "benchmarks.store_probe"], json.dumps(orders).encode())


def _seconds(job: Job, limit_s: float) -> list[float]:
    seconds: list[float] = json.loads(job.answer(limit_s + translator.START_S))
    return seconds


# ---- Pauses

LIVEZ = ("GET", "/livez")


def _probed(settings: Settings, sidecar: Sidecar) -> dict[str, list[float]]:
    """Seconds of requests that only the event loop answers, one each TICK_S, and of requests that store a response, one
    after another."""
    writes = [("POST", RESPONSES, _response())]
    _probe(sidecar, [*writes, LIVEZ], WARM_UP)
    loop = _started_probe(sidecar, [LIVEZ], seconds=settings.probe_s, tick=TICK_S)
    writer = _started_probe(sidecar, writes, seconds=settings.probe_s)
    return {name: _seconds(job, settings.probe_s) for name, job in (("loop", loop), ("write", writer))}


def _pauses(probed: Mapping[str, Sequence[float]]) -> Figures:
    found: Figures = {}
    for name, seconds in probed.items():
        found[f"{name}_p50_ms"] = 1e3 * percentile(seconds, 50)
        found[f"{name}_p999_ms"] = 1e3 * percentile(seconds, 99.9)
        found[f"{name}_max_ms"] = 1e3 * max(seconds)
    return found


def _sweep(settings: Settings, store: Database, sidecar: Sidecar) -> Figures:
    """The pauses for SWEEP_S, or until everything that has expired is gone."""
    began = time.monotonic()
    probed: dict[str, list[float]] = {}
    while (left := _left(store)) and time.monotonic() - began < SWEEP_S:
        for name, seconds in _probed(settings, sidecar).items():
            probed.setdefault(name, []).extend(seconds)
    return {**_pauses(probed), "seconds": time.monotonic() - began, "swept": float(_n_expired(settings) - left)}


def _left(store: Database) -> int:
    [(n,)] = store.rows(f"SELECT count(*) FROM responses WHERE owner = '{OWNERS[-1]}'")
    return int(n)


# ---- Memory


def _memory(before: Path | None) -> Figures:
    """MiB of each sidecar at rest, after it has answered requests of each kind."""
    print("store: memory", flush=True)
    found: Figures = {}
    with translator.fake_worker(STEP_BATCHES) as grpc_port, _databases() as stores:
        for name, store in stores.items():
            with _sidecars(grpc_port, {name: store}) as sidecars:
                found[f"{name}_mib"] = _at_rest_mib(sidecars[name])
        if before is not None:
            with translator.sidecar(STEP_BATCHES, grpc_port, checkout=before) as (sidecar, _):
                found[f"{BEFORE}_mib"] = _at_rest_mib(sidecar)
    return found


def _at_rest_mib(sidecar: Sidecar) -> float:
    _probe(sidecar, [("POST", path, body) for path, body in _kinds().values()], WARM_UP)
    return sidecar.process.resident_bytes() / 2**20
