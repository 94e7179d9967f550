"""`make bench`: python -m benchmarks [PART ...] [--quick] [--before CHECKOUT]"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import (
    background,
    batches,
    fairness,
    forms,
    machine,
    neighbour,
    peers,
    raw,
    replicas,
    report,
    samplers,
    serving,
    store,
    translator,
    versions,
)
from benchmarks.settings import FULL, QUICK, SMOKE, Settings
from benchmarks.systems import OURS, SYSTEMS, Launcher
from scripts import children, fetch
from scripts.errors import Fail, run_main

VERSIONS = "versions"
PARTS = (
    *("raw", "serving", "translator", "neighbour", "samplers", "fairness", "background", "replicas", "store"),
    "batches",
)


def main() -> int:
    children.stop_on_signals()
    options = _options()
    settings = SMOKE if options.smoke else QUICK if options.quick else FULL
    parts = options.parts or [*PARTS, *([VERSIONS] if options.before else [])]
    if VERSIONS in parts and not options.before:
        raise Fail(f"{VERSIONS} needs --before CHECKOUT")
    for part in parts:
        run(part, settings, options)
    print(f"written: {options.results}", flush=True)
    return 0


def run(part: str, settings: Settings, options: argparse.Namespace) -> None:
    """Measures one part and writes its results at once, so that a later failure can't lose them."""
    model = fetch.ensure_model("smollm2")
    found_peers = None
    if part in ("serving", "neighbour", "fairness") and options.systems != [OURS]:
        found_peers = peers.ensure(options.llama_server)
    launcher = Launcher(settings, model, found_peers, before=options.before)
    measure: dict[str, Callable[[], dict[str, Any]]] = {
        "raw": lambda: raw.measure(settings, model),
        "serving": lambda: serving.measure(launcher, options.systems),
        "translator": lambda: {**translator.measure(settings), "forms": forms.measure(settings)},
        "neighbour": lambda: neighbour.measure(launcher, options.systems),
        "samplers": lambda: samplers.measure(settings, model),
        "fairness": lambda: fairness.measure(launcher, options.systems),
        "background": lambda: background.measure(settings, model),
        "replicas": lambda: replicas.measure(settings, model),
        "store": lambda: store.measure(settings, options.before),
        "batches": lambda: batches.measure(launcher),
        VERSIONS: lambda: versions.measure(settings, options.before),
    }
    stamp, began = machine.stamp(), time.monotonic()
    figures = measure[part]()
    stamp["seconds"] = round(time.monotonic() - began)
    report.update(options.results, part, {"stamp": stamp, "figures": figures})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="Measures the system and its peers.")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, VERSIONS, []], help="parts to measure (default: all)")
    parser.add_argument(
        "--quick", action="store_true", help="one round with less work, for a first look; not for results"
    )
    parser.add_argument("--smoke", action="store_true", help="seconds of every part, to check that it works")
    parser.add_argument(
        "--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="systems to compare (default: all)"
    )
    parser.add_argument("--llama-server", type=Path, help="a compiled llama-server (default: compile it)")
    parser.add_argument(
        "--before", type=Path, help="another checkout of this project, to compare with in fairness, store and versions"
    )
    parser.add_argument("--results", type=Path, default=report.RESULTS, help="folder for the results")
    return parser.parse_args()


if __name__ == "__main__":
    run_main(main)
