"""The raw limit: what llama.cpp itself does on this machine. The 100 % that serving is compared with."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.processes import Job
from benchmarks.settings import Settings
from benchmarks.stats import median

CONTEXT = 75
"""Tokens of context with which decoding begins, as with the short prompts; it grows by the tokens of an answer."""
LIMIT_S = 400.0


def loop(settings: Settings, model: Path, **orders: Any) -> list[dict[str, Any]]:
    """The figures of benchmarks.raw_loop, in a process that has ended afterwards."""
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
    """Tokens a second, the median over rounds: for each batch or chunk at each context, by layout. PURE."""
    tables: dict[str, Any] = {"decode": {}, "prompt": {}}
    for table, key in (("decode", "batch"), ("prompt", "chunk")):
        rates: dict[str, dict[str, list[float]]] = {}
        for each in (each for figures in rounds for each in figures if key in each):
            point = rates.setdefault(f"{each[key]} at {each['context']}", {})
            point.setdefault(each["layout"], []).append(each["tokens_per_s"])
        tables[table] = {point: {layout: median(same) for layout, same in by.items()} for point, by in rates.items()}
    return tables


def best(by_layout: dict[str, float]) -> tuple[str, float]:
    return max(by_layout.items(), key=lambda item: item[1])
