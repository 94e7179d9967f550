"""The results of the store, in Markdown. PURE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from benchmarks.databases import POSTGRESQL, SQLITE
from benchmarks.store import NO_STORE, PLAIN_CHAT, STORED
from benchmarks.systems import BEFORE
from benchmarks.tables import number, ratio, table

Figures = Mapping[str, Any]
NAMES = {NO_STORE: "no store", SQLITE: "SQLite file", POSTGRESQL: "PostgreSQL", BEFORE: "before"}
PERCENTILES = {"p50 ms": "p50_ms", "p95 ms": "p95_ms", "p99 ms": "p99_ms"}
PAUSES = {
    "loop p50 ms": "loop_p50_ms",
    "loop p99.9 ms": "loop_p999_ms",
    "loop longest ms": "loop_max_ms",
    "write p50 ms": "write_p50_ms",
    "write p99.9 ms": "write_p999_ms",
    "write longest ms": "write_max_ms",
}


class Bar(NamedTuple):
    """`value` must not exceed `limit`; both are in milliseconds or a ratio."""

    name: str
    value: float
    limit: float


def bars(figures: Figures) -> Iterator[Bar]:
    added = figures["latency"]
    fsync = figures["commits"]["commit_fsync_p50_ms"]
    yield Bar("SQLite adds, p50 ms", added[f"added: {STORED}, {SQLITE}"]["p50_ms"], 1.5)
    yield Bar("PostgreSQL adds less the fsync, p50 ms", added[f"added: {STORED}, {POSTGRESQL}"]["p50_ms"] - fsync, 3.0)
    for kind, filled in figures["filled"].items():
        name = NAMES[kind]
        yield Bar(f"chat beside {name}, ratio of p50", added[f"added: {PLAIN_CHAT}, {kind}"]["ratio"], 1.05)
        yield Bar(f"GET of a response, {name}, p99 ms", filled["reads"]["GET response"]["p99_ms"], 5.0)
        yield Bar(f"pause of the event loop during a sweep, {name}, ms", filled["sweep"]["loop_max_ms"], 50.0)
        yield Bar(f"pause of a writer during a sweep, {name}, ms", filled["sweep"]["write_max_ms"], 50.0)


def section(figures: Figures) -> list[str]:
    setup, commits = figures["setup"], figures["commits"]
    lines = [
        "## Store",
        "",
        f"Medians of {len(figures['rounds'])} rounds of {setup['calls']} calls of each kind to each sidecar, all in "
        "front of one fake worker, in turn. A write to the disk is confirmed in "
        f"{number(commits['fsync_p50_ms'])} ms (p99 {number(commits['fsync_p99_ms'])}). A commit of PostgreSQL takes "
        f"{number(commits['commit_p50_ms'])} ms, and {number(commits['commit_without_fsync_p50_ms'])} ms if it doesn't "
        f"wait for the disk: {number(commits['commit_fsync_p50_ms'])} ms are the fsync's. SQLite's commits don't wait.",
        "",
        *table(["", "measured", "bar", ""], [_bar(bar) for bar in bars(figures)]),
        "",
        "### Latency",
        "",
        "In parentheses the ratio of p50 to the sidecar without a store.",
        "",
        *table(["", "", *PERCENTILES, "added p50 ms"], _latency(figures["latency"])),
        "",
        f"### {setup['objects']:,} stored responses",
        "",
        f"Chains of ten responses, each with about 2 kB, of five callers. {setup['expired']:,} of them have expired "
        "when the sweep is measured. The event loop is measured with a request a millisecond, a writer "
        "with responses that are stored one after another.",
        "",
    ]
    reads = [
        [f"{name}, {NAMES[kind]}", *(number(read[figure]) for figure in PERCENTILES.values())]
        for kind, filled in figures["filled"].items()
        for name, read in filled["reads"].items()
    ]
    pauses = [
        [f"{title}, {NAMES[kind]}", *(number(filled[key][figure]) for figure in PAUSES.values())]
        for kind, filled in figures["filled"].items()
        for key, title in (("quiet", "no sweep"), ("sweep", "during the sweep"))
    ]
    sizes = [
        f"{NAMES[kind]}: {number(filled['mib'])} MiB; swept {filled['sweep']['swept']:,.0f} responses in "
        f"{filled['sweep']['seconds']:.0f} s."
        for kind, filled in figures["filled"].items()
    ]
    memory = figures["memory"]
    lines += [*table(["", *PERCENTILES], reads), "", *table(["", *PAUSES], pauses), "", *sizes, ""]
    lines += ["### Memory at rest", "", "Resident, after requests of each kind.", ""]
    return lines + table(["", "MiB"], [[NAMES[name.removesuffix("_mib")], number(memory[name])] for name in memory])


def _bar(bar: Bar) -> list[str]:
    return [bar.name, number(bar.value), number(bar.limit), "met" if bar.value <= bar.limit else "missed"]


def _latency(points: Figures) -> Iterator[list[str]]:
    for point, figures in points.items():
        if point.startswith("added: "):
            continue
        kind, _, name = point.rpartition(", ")
        added = points.get(f"added: {point}")
        cells = [number(figures[figure]) for figure in PERCENTILES.values()]
        if added is not None:
            cells[0] += f" ({ratio(added['ratio'])})"
        yield [kind, NAMES[name], *cells, number(added["p50_ms"]) if added is not None else ""]
