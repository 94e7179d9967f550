"""Two checkouts of the sidecar in front of one fake worker, both up at once: what a change costs.

Rounds one after the other differ by more than a change does, since a machine changes its pace from second to second.
Here the versions take turns call by call, in random order, and burst by burst, so that each change of pace hits both.
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

WAYS = tuple(way for way in translator.WAYS if way != translator.BARE)


def measure(settings: Settings, before: Path) -> dict[str, Any]:
    """By way and version: medians over rounds, and medians of the ratios to the version before within a round."""
    found: dict[str, Any] = {}
    for way in WAYS:
        print(f"versions: {way}", flush=True)
        with _both(way, before) as sidecars:
            rounds = _rounds(sidecars, settings)
        found[way] = {
            version: {"median": medians(each), "to_before": paired_ratios(each, rounds[BEFORE])}
            for version, each in rounds.items()
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
    """The first burst of each version only warms it up."""
    rounds: dict[str, list[Figures]] = {version: [] for version in sidecars}
    count = max(settings.streams)
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
    """By version: `n` whole answers of one token each, one call at a time."""
    prompt = pace.prompt(1, 0)
    clients = {version: latency.OverHTTP(sidecar.port, MODEL, prompt) for version, sidecar in sidecars.items()}
    seconds: dict[str, list[float]] = {version: [] for version in clients}
    order = list(clients)
    for number in range(latency.WARM_UP + n):
        random.shuffle(order)  # what one version still does after its answer slows down the next call
        for version in order:
            began = time.perf_counter()
            clients[version].ask()
            if number >= latency.WARM_UP:
                seconds[version].append(time.perf_counter() - began)
    return {version: {"call_p50_ms": 1e3 * percentile(each, 50)} for version, each in seconds.items()}
