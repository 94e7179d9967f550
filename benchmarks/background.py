"""Measures what a batch under way costs clients that stream, and what the batch achieves without them.

Two workers take turns, one without a minimum share for background work and one with the default.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.background_load import BackgroundOrders
from benchmarks.processes import Job, Process
from benchmarks.settings import Settings
from benchmarks.stats import interleaved, medians, paired_ratios
from benchmarks.systems import MODEL
from protos import contract

START_S, MARGIN_S = 120.0, 60.0
NO_SHARE, DEFAULT_SHARE = "batch, no share", "batch, default share"
WITHOUT = {NO_SHARE: "without a batch", DEFAULT_SHARE: "without a batch, default share"}
"""The point that each is compared with, on the same worker: two with the same options differ by some percent."""
ORDINARY, BATCH = "ordinary requests alone", "batch alone"
CLIENTS = 4
"""Clients that stream; each is idle half of the time."""


def measure(settings: Settings, model: Path) -> dict[str, Any]:
    """Medians over rounds by point, and medians of the ratios within a round to WITHOUT or ORDINARY."""
    rounds: dict[str, list[dict[str, float]]] = {}
    with _workers(settings, model) as workers:
        points = {
            **{without: (workers[point], {"clients": CLIENTS}) for point, without in WITHOUT.items()},
            **{point: (workers[point], {"clients": CLIENTS, "batch": settings.slots}) for point in WITHOUT},
            ORDINARY: (workers[NO_SHARE], {"batch": settings.slots, "priority": 0}),
            BATCH: (workers[NO_SHARE], {"batch": settings.slots, "priority": contract.BATCH_PRIORITY}),
        }
        for number, point in interleaved(list(points), settings.background_rounds):
            began = time.monotonic()
            port, load = points[point]
            seconds = settings.background_s
            orders = BackgroundOrders(
                port, MODEL, f"{number} {point}", seconds, tokens=settings.completion_tokens, **load
            )
            job = Job([sys.executable, "-m", "benchmarks.background_load"], json.dumps(asdict(orders)).encode())
            found = {k: math.nan if v is None else v for k, v in json.loads(job.answer(seconds + MARGIN_S)).items()}
            rounds.setdefault(point, []).append(found)
            listed = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
            print(f"background, round {number + 1}: {point}, {time.monotonic() - began:.0f} s: {listed}", flush=True)
    return {
        "setup": {
            "clients": CLIENTS,
            "lines": settings.slots,
            "tokens": settings.completion_tokens,
            "seconds": settings.background_s,
            "rounds": settings.background_rounds,
        },
        "rounds": rounds,
        "points": summary(rounds),
    }


def summary(rounds: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """PURE."""
    references = {**WITHOUT, BATCH: ORDINARY}
    return {
        point: {
            "median": medians(found),
            "ratio": paired_ratios(found, rounds[references[point]]) if point in references else {},
        }
        for point, found in rounds.items()
    }


@contextlib.contextmanager
def _workers(settings: Settings, model: Path) -> Iterator[dict[str, int]]:
    """Yields the workers' ports by the point that needs them."""
    processes: list[Process] = []
    ports = {}
    try:
        for point, share in ((NO_SHARE, ["--background-share", "0"]), (DEFAULT_SHARE, [])):
            command = [sys.executable, "-m", "anyserve_worker", "--model", f"{MODEL}={model}", "--port", "0"]
            command += ["--n-ctx", str(settings.n_ctx), "--kv-cells", str(settings.cells)]
            processes.append(Process([*command, "--parallel", str(settings.slots), *share]))
            ports[point] = int(processes[-1].wait_for(r"listening on 127\.0\.0\.1:(\d+)", START_S)[1])
            processes[-1].wait_for("ready: ", START_S)
        yield ports
    finally:
        for process in reversed(processes):
            process.end()
