"""Measures short chats while long prompts are prefilled: their time to first token, and their cost to the long ones."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks import loading, prompts
from benchmarks.orders import Answer, Orders
from benchmarks.settings import Settings
from benchmarks.stats import interleaved, medians, paired_ratios, percentile
from benchmarks.systems import BEFORE, LLAMA_SERVER, OURS, Launcher, Server, completion
from scripts.errors import Fail

SHORT_TOKENS = 137
NEW_TOKENS = 4
"""Tokens of each answer."""
UNDER_WAY_S = 1.5
"""Seconds from the start of the long requests to the first short one; by then their prompts are being prefilled."""
CELLS_A_SLOT = 2048
"""KV cells per slot: enough for the long prompts that are prefilled or cached at the same time."""
ALONE, DEFAULTS = "alone", "default options"


def measure(launcher: Launcher, systems: Sequence[str]) -> dict[str, Any]:
    settings = launcher.settings
    wide = replace(launcher, settings=replace(settings, cells=max(settings.cells, CELLS_A_SLOT * settings.slots)))
    compared = [system for system in (OURS, BEFORE, LLAMA_SERVER) if _runs(launcher, system, systems)]
    rounds: dict[str, dict[str, list[dict[str, float]]]] = {}
    problems: dict[str, str] = {}
    for number, system in interleaved(compared, settings.fairness_rounds):
        began = time.monotonic()
        seed = f"fairness {number} {system}"
        try:
            found = _points(wide, system, seed, settings.fairness_longs)
            if system != LLAMA_SERVER:
                most = settings.fairness_longs[-1]
                named = {f"beside {most}": f"beside {most}, {DEFAULTS}", ALONE: f"{ALONE}, {DEFAULTS}"}
                by_default = _points(replace(wide, defaults=True), system, f"{seed} defaults", (most,))
                found |= {named[name]: figures for name, figures in by_default.items() if name in named}
        except Fail as fail:
            problems[system] = str(fail)
            print(f"fairness, round {number + 1}: {system}: {fail}", flush=True)
            continue
        print(f"fairness, round {number + 1}: {system}, {time.monotonic() - began:.0f} s", flush=True)
        for point, figures in found.items():
            rounds.setdefault(point, {}).setdefault(system, []).append(figures)
    return {
        "setup": {
            "short_tokens": SHORT_TOKENS,
            "long_tokens": settings.fairness_tokens,
            "slots": settings.slots,
            "cells": wide.settings.cells,
            "limit_s": settings.fairness_limit_s,
            "rounds": settings.fairness_rounds,
        },
        "problems": problems,
        "rounds": rounds,
        "points": summary(rounds),
    }


def _runs(launcher: Launcher, system: str, systems: Sequence[str]) -> bool:
    return launcher.before is not None if system == BEFORE else system in systems


def summary(rounds: dict[str, dict[str, list[dict[str, float]]]]) -> dict[str, Any]:
    """Medians by point and system, and medians of the ratios within a round to the same system alone. PURE."""
    found: dict[str, Any] = {}
    for point, by_system in rounds.items():
        reference = rounds.get(f"{ALONE}, {DEFAULTS}" if point.endswith(DEFAULTS) else ALONE, {})
        found[point] = {
            system: {"median": medians(per_round), "to_alone": paired_ratios(per_round, reference.get(system, []))}
            for system, per_round in by_system.items()
        }
    return found


def _points(launcher: Launcher, system: str, seed: str, longs: Sequence[int]) -> dict[str, dict[str, float]]:
    settings = launcher.settings
    found: dict[str, dict[str, float]] = {}
    with launcher.running(system, auto=True) as server:
        _shorts(settings, server, f"{seed} warm")
        found[ALONE] = _figures(_shorts(settings, server, f"{seed} alone"))
        if not launcher.defaults:
            found[ALONE] |= _long_figures(_long(settings, server, f"{seed} long alone"))
        for n_long in longs:
            server.wait_until_idle()
            found[f"beside {n_long}"] = _beside(settings, server, f"{seed} {n_long}", n_long)
    for point, figures in found.items():
        listed = ", ".join(f"{name} {value:.3g}" for name, value in figures.items())
        print(f"  {system}{f', {DEFAULTS}' if launcher.defaults else ''}, {point}: {listed}", flush=True)
    return found


def _beside(settings: Settings, server: Server, seed: str, n_long: int) -> dict[str, float]:
    bodies = [_body(f"{seed} long {k}", settings.fairness_tokens) for k in range(n_long)]
    orders = Orders(server.port, bodies, n_long, 4 * settings.fairness_limit_s)
    job = loading.start(orders)
    try:
        time.sleep(UNDER_WAY_S)
        found = _figures(_shorts(settings, server, f"{seed} short"))
        if n_long == 1:
            found |= _long_figures(loading.answers(job, orders))
        return found
    finally:
        job.end(grace_s=0.0)  # Closes the connections, so that the server stops computing.


def _shorts(settings: Settings, server: Server, seed: str) -> list[Answer]:
    """Answers to short chats, sent one after the other."""
    bodies = [_body(f"{seed} {k}", SHORT_TOKENS) for k in range(settings.fairness_shorts)]
    return loading.load(Orders(server.port, bodies, 1, settings.fairness_limit_s))


def _long(settings: Settings, server: Server, seed: str) -> list[Answer]:
    body = _body(seed, settings.fairness_tokens)
    return loading.load(Orders(server.port, [body], 1, 4 * settings.fairness_limit_s))


def _body(seed: str, tokens: int) -> str:
    return json.dumps(completion(prompts.prose(seed, tokens), NEW_TOKENS))


def _figures(answers: Sequence[Answer]) -> dict[str, float]:
    """Figures of short chats, in seconds. Waits that the limit cut off count up to the limit."""
    waits = [(answer.times[0] if answer.times else answer.ended) - answer.sent for answer in answers]
    return {
        "ttft_p50_s": percentile(waits, 50),
        "ttft_max_s": max(waits),
        "answer_p50_s": percentile((answer.ended - answer.sent for answer in answers), 50),
        "requests": len(answers),
        "cut": sum(answer.cut for answer in answers),
        "errors": sum(bool(answer.error) for answer in answers),
    }


def _long_figures(answers: Sequence[Answer]) -> dict[str, float]:
    [answer] = answers
    return {
        "long_ttft_s": (answer.times[0] if answer.times else answer.ended) - answer.sent,
        "long_tokens": answer.prompt_tokens,
    }
