"""The raw limit: the speed of llama.cpp itself on this machine, the 100 % that serving is compared with."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.processes import Job
from benchmarks.settings import Settings
from benchmarks.stats import median

CONTEXT = 75
"""Tokens of context when decoding begins, as with the short prompts. The context grows by an answer's tokens."""
LIMIT_S = 400.0


def loop(settings: Settings, model: Path, **orders: Any) -> list[dict[str, Any]]:
    """Runs benchmarks.raw_loop in its own process, and returns its figures."""
    orders |= {"model": str(model), "threads": settings.threads, "n_ctx": settings.cells, "slots": settings.slots}
    answer = Job([sys.executable, "-m", "benchmarks.raw_loop"], json.dumps(orders).encode()).answer(LIMIT_S)
    figures: list[dict[str, Any]] = json.loads(answer)
    return figures


def measure(settings: Settings, model: Path) -> dict[str, Any]:
    rounds = []
    for number in range(settings.rounds):
        print(f"raw limit, round {number + 1}", flush=True)
        figures = loop(
            settings,
            model,
            batches=settings.batches,
            chunks=settings.chunks,
            context=CONTEXT,
            long_batches=settings.long_batches,
            long_chunks=settings.long_chunks,
            long_context=settings.long_prompt_tokens,
            steps=settings.completion_tokens,
            seconds=settings.short_s / 4,
        )
        rounds.append(figures)
    return {"steps": settings.completion_tokens, "threads": settings.threads, **summary(rounds)}


def summary(rounds: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Median tokens per second over rounds, by batch or chunk at each context, and by layout. PURE."""
    tables: dict[str, Any] = {"decode": {}, "prompt": {}}
    for table, key in (("decode", "batch"), ("prompt", "chunk")):
        rates: dict[str, dict[str, list[float]]] = {}
        for row in (row for figures in rounds for row in figures if key in row):
            point = rates.setdefault(f"{row[key]} at {row['context']}", {})
            point.setdefault(row["layout"], []).append(row["tokens_per_s"])
        tables[table] = {point: {layout: median(same) for layout, same in by.items()} for point, by in rates.items()}
    return tables


def best(by_layout: dict[str, float]) -> tuple[str, float]:
    return max(by_layout.items(), key=lambda item: item[1])
