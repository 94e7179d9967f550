"""Measures the cost of samplers, compared with greedy decoding and with llama.cpp's own chain."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.processes import Job
from benchmarks.settings import Settings
from benchmarks.stats import medians

VOCABULARIES = (49_152, 151_936)
CHOICES = 8
LIMIT_S = 900.0


def measure(settings: Settings, model: Path) -> dict[str, Any]:
    rounds = []
    orders = {
        "model": str(model),
        "threads": settings.threads,
        "vocabularies": VOCABULARIES,
        "tokens": settings.sampler_tokens,
        "prompt": settings.sampler_prompt_tokens,
        "choices": CHOICES,
        "steps": settings.sampler_steps,
    }
    for number in range(settings.rounds):
        print(f"samplers, round {number + 1}", flush=True)
        job = Job([sys.executable, "-m", "benchmarks.sampler_loop"], json.dumps(orders).encode())
        rounds.append(json.loads(job.answer(LIMIT_S)))
    return {"model": model.name, **{k: orders[k] for k in ("threads", "prompt", "choices", "steps")}, **summary(rounds)}


def summary(rounds: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians over rounds: by vocabulary and sampler, and by sampler and implementation. PURE."""
    vocabularies: dict[str, dict[str, list[dict[str, Any]]]] = {}
    steps: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in (row for figures in rounds for row in figures):
        if "n_vocab" in row:
            vocabularies.setdefault(str(row["n_vocab"]), {}).setdefault(row["sampler"], []).append(row)
        else:
            steps.setdefault(row["sampler"], {}).setdefault(row["samplers"], []).append(row)
    return {"vocabularies": _medians(vocabularies), "steps_by_sampler": _medians(steps)}


def _medians(found: dict[str, dict[str, list[dict[str, Any]]]]) -> dict[str, dict[str, dict[str, float]]]:
    return {
        outer: {
            inner: medians([{k: v for k, v in row.items() if isinstance(v, float)} for row in rounds])
            for inner, rounds in by.items()
        }
        for outer, by in found.items()
    }
