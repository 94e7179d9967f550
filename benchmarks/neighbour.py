"""The short workload while other processes use the processors: does the worker find the best number of threads?"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from benchmarks import cgroup, figures, loading, prompts
from benchmarks.orders import Answer, Orders
from benchmarks.processes import Process
from benchmarks.settings import Settings
from benchmarks.stats import interleaved, median, medians, paired_ratios
from benchmarks.systems import LLAMA_SERVER, OURS, Launcher, Server, completion
from scripts.errors import Fail

QUIET, ONE_BUSY, ALL_BUSY, QUOTA = "quiet", "one core busy", "all cores busy", "quota"
QUOTA_PART = 0.75
"""Share of the processors that the quota allows: 1.5 of two."""
HOG_LIMIT_S = 600.0
"""Seconds after which a hog ends by itself."""
SETTLE_S = 1.5
"""Seconds of load under the same conditions before the measurement."""
PHASE_S = 5.0
BIN_S = 0.25
AUTO = f"{OURS}, auto"


@dataclass(frozen=True)
class Variant:
    system: str
    threads: int | None
    """None: the system chooses."""

    @property
    def name(self) -> str:
        return f"{self.system}, {self.threads or 'auto'}"


def variants(settings: Settings, systems: Sequence[str]) -> list[Variant]:
    counts = sorted({1, max(1, settings.threads // 2), settings.threads})
    found = [Variant(OURS, None), *(Variant(OURS, count) for count in counts)]
    if LLAMA_SERVER in systems:
        found += [Variant(LLAMA_SERVER, count) for count in counts]
    return found


@contextlib.contextmanager
def hogs(cores: Sequence[int], share: float = 1.0) -> Iterator[None]:
    """Runs a hog on each of these cores."""
    command = [sys.executable, "-m", "benchmarks.hog", str(HOG_LIMIT_S), str(share)]
    started: list[Process] = []
    try:
        started += [Process(command, cores=[core]) for core in cores]
        for hog in started:
            hog.wait_for("busy", 30.0)
        yield
    finally:
        for hog in started:
            hog.end()


# ---- Points


def measure(launcher: Launcher, systems: Sequence[str]) -> dict[str, Any]:
    settings = launcher.settings
    by_name = {variant.name: variant for variant in variants(settings, systems)}
    rounds: dict[str, dict[str, list[dict[str, float]]]] = {}
    problems: dict[str, str] = {}
    how = ""
    for number, name in interleaved(list(by_name), settings.neighbour_rounds):
        print(f"neighbour, round {number + 1}: {name}", flush=True)
        try:
            for condition, found, made_by in _conditions(launcher, by_name[name], f"neighbour {number}"):
                how = made_by or how
                for point, measured in found.items():
                    rounds.setdefault(f"{condition}, {point}", {}).setdefault(name, []).append(measured)
        except Fail as fail:
            problems[name] = str(fail)
            print(f"  {fail}", flush=True)
    return {
        "setup": {"processors": settings.threads, "quota": QUOTA_PART * settings.threads, "how": how},
        "problems": problems,
        "rounds": rounds,
        "points": summary(rounds),
        "reaction": {str(c): _reaction(launcher, c) for c in settings.neighbour_concurrencies},
    }


def _conditions(
    launcher: Launcher, variant: Variant, seed: str
) -> Iterator[tuple[str, dict[str, dict[str, float]], str]]:
    """Yields (condition, figures by concurrency, means of the quota or "")."""
    cores = sorted(os.sched_getaffinity(0))
    with _running(launcher, variant) as server:
        for condition, busy in ((QUIET, []), (ONE_BUSY, cores[:1]), (ALL_BUSY, cores)):
            with hogs(busy):
                yield condition, _points(launcher.settings, server, f"{seed} {condition}"), ""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(cgroup.quota(QUOTA_PART * launcher.settings.threads))
        if folder is None:
            # Hogs keep all cores busy for the share of the time that the quota excludes.
            stack.enter_context(hogs(cores, share=1 - QUOTA_PART))
        server = stack.enter_context(_running(dataclasses.replace(launcher, cgroup=folder), variant))
        how = "a control group" if folder else "hogs with a duty cycle"
        yield QUOTA, _points(launcher.settings, server, f"{seed} {QUOTA}"), how


def _running(launcher: Launcher, variant: Variant) -> contextlib.AbstractContextManager[Server]:
    return launcher.running(variant.system, variant.threads, auto=variant.threads is None)


def _points(settings: Settings, server: Server, seed: str) -> dict[str, dict[str, float]]:
    found = {}
    for concurrency in settings.neighbour_concurrencies:
        _load(settings, server, f"{seed} settling {concurrency}", concurrency, min(SETTLE_S, settings.short_s))
        found[str(concurrency)] = figures.serving(
            _load(settings, server, f"{seed} {concurrency}", concurrency, settings.point_limit_s / 2)
        )
    return found


def _load(settings: Settings, server: Server, seed: str, concurrency: int, limit_s: float) -> list[Answer]:
    count = max(2 * concurrency, 6)
    bodies = [
        json.dumps(completion(prompts.short(seed, number), settings.completion_tokens)) for number in range(count)
    ]
    return loading.load(Orders(server.port, bodies, concurrency, limit_s))


def summary(rounds: dict[str, dict[str, list[dict[str, float]]]]) -> dict[str, Any]:
    """Medians by point, and ratios of automatic threads to the best fixed count of ours and of llama-server. PURE."""
    found: dict[str, Any] = {}
    for point, by_variant in rounds.items():
        found[point] = {
            "median": {name: medians(per_round) for name, per_round in by_variant.items()},
            "auto_of_best": {},
        }
        for system in (OURS, LLAMA_SERVER):
            fixed = {
                name: per_round
                for name, per_round in by_variant.items()
                if name.startswith(f"{system}, ") and name != AUTO
            }
            if fixed and AUTO in by_variant:
                best = max(fixed, key=lambda name: median(measured["tokens_per_s"] for measured in fixed[name]))
                ratio = paired_ratios(by_variant[AUTO], fixed[best])["tokens_per_s"]
                found[point]["auto_of_best"][system] = {"best": best, "ratio": ratio}
    return found


# ---- A neighbour that comes and goes


def _reaction(launcher: Launcher, concurrency: int) -> dict[str, Any]:
    """Tokens per second in each bin, of a worker that chooses its threads, and its seconds to adapt to each change."""
    settings = launcher.settings
    duration = settings.reaction_s
    phase_s = min(PHASE_S, duration / 4)
    print(f"neighbour that comes and goes, {concurrency} client(s)", flush=True)
    with launcher.running(OURS, auto=True) as server:
        # Short answers, since the rate of long ones falls as contexts grow. Different lengths, since answers that end
        # together make waves that would hide the reaction.
        mean, random = settings.completion_tokens, Random(1)
        spread = mean // 2 if concurrency > 1 else 0
        bodies = [
            json.dumps(
                completion(
                    prompts.short(f"reaction {concurrency}", number), random.randint(mean - spread, mean + spread)
                )
            )
            for number in range(100 * concurrency)
        ]
        began = time.perf_counter()
        orders = Orders(server.port, bodies, concurrency, duration, began=began)
        job = loading.start(orders)
        changes = _come_and_go(lambda: time.perf_counter() - began, duration, phase_s)
        answers = loading.answers(job, orders)
    rates = figures.rates(answers, BIN_S, duration)
    return {"bin_s": BIN_S, "rates": rates, "changes": changes, "seconds": reactions(rates, changes, duration)}


def _come_and_go(now: Callable[[], float], duration: float, phase_s: float) -> list[float]:
    """Returns the seconds at which a neighbour came, went, came, …; it starts without one."""
    changes: list[float] = []
    core = sorted(os.sched_getaffinity(0))[:1]
    time.sleep(phase_s)
    while now() + phase_s / 2 < duration:
        with hogs(core):
            changes.append(now())
            time.sleep(phase_s)
        changes.append(now())
        time.sleep(max(0.0, min(phase_s, duration - now())))
    return changes


def reactions(rates: Sequence[float], changes: Sequence[float], duration: float) -> list[float | None]:
    """Seconds from each change until the rate is within 10 % of the mean of the phase's second half. PURE.

    The rate is the mean of one second, since a bin has few tokens. None: not within the phase.
    """
    found: list[float | None] = []
    width = round(1 / BIN_S)
    for change, until in zip(changes, [*changes[1:], duration], strict=True):
        first, last = int(change / BIN_S) + 1, min(int(until / BIN_S), len(rates))
        if last - first < 2 * width:
            continue  # too short to have a steady rate
        half = rates[(first + last) // 2 : last]
        steady = sum(half) / len(half)
        after = None
        for place in range(first, last - width + 1):
            mean = sum(rates[place : place + width]) / width
            if abs(mean - steady) <= 0.1 * steady:
                after = max(0.0, place * BIN_S - change)
                break
        found.append(after)
    return found
