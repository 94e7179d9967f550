"""Measures the cost of a change: two checkouts of the sidecar in front of one fake worker, both running.

Successive rounds differ by more than a change does, since a machine's speed varies from second to second. So the
versions take turns at each call, in random order, and at each burst: variations affect both.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import latency, pace, translator
from benchmarks.settings import Settings
from benchmarks.stats import Figures, interleaved, medians, paired_ratios, percentile
from benchmarks.systems import BEFORE, MODEL, OURS
from benchmarks.translator import Sidecar

MAX_STREAMS = 256
WAYS = tuple(way for way in translator.WAYS if way != translator.BARE)


def measure(settings: Settings, before: Path) -> dict[str, Any]:
    """Medians over rounds by way and version, and medians of the ratios to BEFORE within a round."""
    found: dict[str, Any] = {}
    for way in WAYS:
        print(f"versions: {way}", flush=True)
        with _both(way, before) as sidecars:
            rounds = _rounds(sidecars, settings)
        found[way] = {
            version: {"median": medians(per_round), "to_before": paired_ratios(per_round, rounds[BEFORE])}
            for version, per_round in rounds.items()
        }
    return found


@contextlib.contextmanager
def _both(way: str, before: Path) -> Iterator[dict[str, Sidecar]]:
    with contextlib.ExitStack() as stack:
        grpc_port = stack.enter_context(translator.fake_worker(way))
        now, _ = stack.enter_context(translator.sidecar(way, grpc_port))
        then, _ = stack.enter_context(translator.sidecar(way, grpc_port, checkout=before))
        yield {OURS: now, BEFORE: then}


def _rounds(sidecars: Mapping[str, Sidecar], settings: Settings) -> dict[str, list[Figures]]:
    """Figures of each round by version. The first burst of each version only warms it up."""
    rounds: dict[str, list[Figures]] = {version: [] for version in sidecars}
    count = min(max(settings.streams), MAX_STREAMS)
    tokens = max(2, round(settings.short_s * translator.FULL_SPEED / count))
    for number, version in interleaved(list(sidecars), settings.version_rounds + 1):
        burst = translator.streams(sidecars[version], count, tokens, 0, settings.point_limit_s)
        if number:
            rounds[version].append({"cpu_us_per_chunk": burst["cpu_us_per_chunk"], "errors": burst["errors"]})
    for number in range(settings.version_rounds):
        for version, figures in calls(sidecars, settings.latency_calls).items():
            rounds[version][number] = {**rounds[version][number], **figures}
    return rounds


def calls(sidecars: Mapping[str, Sidecar], n: int) -> dict[str, Figures]:
    """Figures of `n` unary calls for one token by version, one call at a time."""
    prompt = pace.prompt(1, 0)
    clients = {version: latency.OverHTTP(sidecar.port, MODEL, prompt) for version, sidecar in sidecars.items()}
    seconds: dict[str, list[float]] = {version: [] for version in clients}
    order = list(clients)
    for number in range(latency.WARM_UP + n):
        random.shuffle(
            order
        )  # work after an answer slows down the next call, so no version always follows the same one
        for version in order:
            began = time.perf_counter()
            clients[version].call()
            if number >= latency.WARM_UP:
                seconds[version].append(time.perf_counter() - began)
    return {version: {"call_p50_ms": 1e3 * percentile(taken, 50)} for version, taken in seconds.items()}
