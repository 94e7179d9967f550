"""Measures each system under workloads of streaming clients, in rounds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import figures, prompts, raw
from benchmarks.loading import load
from benchmarks.orders import Answer, Orders
from benchmarks.raw_loop import Layout
from benchmarks.stats import interleaved, median, medians, paired_ratios, ratio
from benchmarks.systems import LLAMA_SERVER, PYTHON, Launcher, Server, completion
from scripts.errors import Fail

RAW = "raw limit"
RAW_LAYOUTS = [Layout(unified, flash=True).name for unified in (True, False)]
RUNNING = 8
"""Number of streams that run while a long prompt arrives, and of choices of one request."""
WARM_REQUESTS = 5
Rounds = dict[str, dict[str, list[dict[str, float]]]]
"""Figures of each round, by workload and system."""


class Workloads:
    """Methods that measure one point each. `seed` differs between rounds, so that no prompt is in a cache."""

    def __init__(self, launcher: Launcher, seed: str) -> None:
        self._settings = launcher.settings
        self._seed = seed

    def points(self) -> dict[str, Callable[[Server], dict[str, float]]]:
        short = {
            f"short, {concurrency}": lambda server, c=concurrency: self._short(server, c)
            for concurrency in self._settings.concurrencies
        }
        return {**short, "n=8": self._choices, "long arrival": self._long_arrival, "shared prefix": self._shared}

    def short_prompts(self, concurrency: int) -> list[str]:
        return [
            prompts.short(f"{self._seed} {concurrency}", number)
            for number in range(self._settings.requests(concurrency))
        ]

    def _short(self, server: Server, concurrency: int) -> dict[str, float]:
        bodies = [completion(prompt, self._settings.completion_tokens) for prompt in self.short_prompts(concurrency)]
        return figures.serving(self._load(server, bodies, concurrency))

    def _choices(self, server: Server) -> dict[str, float]:
        bodies = [
            completion(
                prompts.short(f"{self._seed} choices", number),
                self._settings.completion_tokens,
                n=RUNNING,
                temperature=0.8,
            )
            for number in range(3)
        ]
        answers = self._load(server, bodies, 1)
        return {**figures.serving(answers), "choices": median(len(set(answer.choices)) for answer in answers)}

    def _long_arrival(self, server: Server) -> dict[str, float]:
        settings = self._settings
        running = min(RUNNING, settings.slots - 1)
        bodies = [
            completion(prompts.short(f"{self._seed} running", number), settings.completion_tokens * 8)
            for number in range(running)
        ]
        late = completion(prompts.prose(f"{self._seed} late", settings.long_prompt_tokens), 8)
        return figures.long_arrival(self._load(server, bodies, running, late=json.dumps(late), late_after=4))

    def _shared(self, server: Server) -> dict[str, float]:
        """Time to first token cold, then warm, one request at a time; then eight clients that share the prefix."""
        settings = self._settings

        def body(number: int, tokens: int) -> dict[str, Any]:
            return completion(prompts.shared(f"{self._seed} shared", number, settings.long_prompt_tokens), tokens)

        cold, *warm = self._load(server, [body(number, 8) for number in range(1 + WARM_REQUESTS)], 1)
        first = {"cold_ttft_ms": _first_ms([cold]), "warm_ttft_ms": _first_ms(warm)}
        many = [body(100 + number, settings.completion_tokens) for number in range(2 * RUNNING)]
        together = figures.serving(self._load(server, many, min(RUNNING, settings.slots)))
        return {**first, "warm_of_cold": ratio(first["warm_ttft_ms"], first["cold_ttft_ms"]), **together}

    def _load(self, server: Server, bodies: Sequence[dict[str, Any]], concurrency: int, **more: Any) -> list[Answer]:
        return load(
            Orders(server.port, list(map(json.dumps, bodies)), concurrency, self._settings.point_limit_s, **more)
        )


def _first_ms(answers: Sequence[Answer]) -> float:
    return 1e3 * median(answer.times[0] - answer.sent for answer in answers if answer.times)


def measure(launcher: Launcher, systems: Sequence[str]) -> dict[str, Any]:
    """Measures all workloads on all systems. Only one system runs at a time."""
    rounds: Rounds = {}
    problems: dict[str, str] = {}
    for number, system in interleaved([*systems, RAW], launcher.settings.rounds):
        if system in PYTHON and number >= launcher.settings.python_rounds:
            continue
        began = time.monotonic()
        workloads = Workloads(launcher, f"round {number}")
        try:
            if system == RAW:
                found = _raw(launcher, workloads)
            else:
                with launcher.running(system) as server:
                    found = {name: _timed(server, point) for name, point in workloads.points().items()}
        except Fail as fail:
            problems[system] = str(fail)
            print(f"serving, round {number + 1}: {system}: {fail}", flush=True)
            continue
        print(f"serving, round {number + 1}: {system}, {time.monotonic() - began:.0f} s", flush=True)
        for name, measured in found.items():
            rounds.setdefault(name, {}).setdefault(system, []).append(measured)
    settings = launcher.settings
    return {
        "setup": {
            "model": launcher.model.name,
            "threads": settings.threads,
            "context": settings.n_ctx,
            "cells": settings.cells,
            "slots": settings.slots,
            "rounds": settings.rounds,
            "python_rounds": settings.python_rounds,
            "new_tokens": settings.completion_tokens,
        },
        "problems": problems,
        "rounds": rounds,
        "workloads": summary(rounds),
    }


def _timed(server: Server, point: Callable[[Server], dict[str, float]]) -> dict[str, float]:
    # Some servers go on computing for a while after clients have left.
    server.wait_until_idle()
    before = server.cpu_seconds()
    found = point(server)
    after = server.cpu_seconds()
    return {**found, **{f"cpu_s_{name}": round(after[name] - before[name], 2) for name in after}}


def _raw(launcher: Launcher, workloads: Workloads) -> dict[str, dict[str, float]]:
    """Figures of the bare loop with one or more waves of the same prompts, in the better layout of the cells."""
    settings = launcher.settings
    work = [
        {
            "concurrency": concurrency,
            "prompts": workloads.short_prompts(concurrency)[: max(concurrency, 4 // concurrency * concurrency)],
            "new_tokens": settings.completion_tokens,
        }
        for concurrency in settings.concurrencies
    ]
    found: dict[str, dict[str, float]] = {}
    for rate in raw.loop(settings, launcher.model, layouts=RAW_LAYOUTS, work=work):
        name = f"short, {rate['concurrency']}"
        if name not in found or rate["tokens_per_s"] > found[name]["tokens_per_s"]:
            found[name] = {key: value for key, value in rate.items() if key not in ("layout", "concurrency")}
    return found


def summary(rounds: Rounds) -> dict[str, Any]:
    """Medians, and medians of the ratios within a round to llama-server and to the raw limit. PURE."""
    return {
        workload: {
            system: {
                "median": medians(per_round),
                "to_llama_server": paired_ratios(per_round, by_system.get(LLAMA_SERVER, [])),
                "to_raw": paired_ratios(per_round, by_system.get(RAW, [])),
            }
            for system, per_round in by_system.items()
        }
        for workload, by_system in rounds.items()
    }
