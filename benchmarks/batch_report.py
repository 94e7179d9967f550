"""The results of batches, in Markdown. PURE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.batches import ALONE, BATCH, BESIDE, CLOSED_LOOP
from benchmarks.tables import number, ratio, table

COLUMNS = {
    "first token p50 ms": "ttft_p50_ms",
    "p95 ms": "ttft_p95_ms",
    "tokens/s of a client": "tokens_per_s",
    "gap p50 ms": "gap_p50_ms",
    "gap p95 ms": "gap_p95_ms",
}
MAX_TTFT, MIN_RATE, MIN_THROUGHPUT = 1.10, 0.90, 0.95
"""Bars, as ratios to the clients alone."""


def bars(points: Mapping[str, Any]) -> Iterator[tuple[str, float, float, bool]]:
    """Name, measured ratio, bar, and whether it is met."""
    beside, batch = points[BESIDE]["to_clients"], points[BATCH]["to_clients"]
    ttft, rate, throughput = beside["ttft_p95_ms"], beside["tokens_per_s"], batch["tokens_per_s"]
    yield "first token p95 beside a batch", ttft, MAX_TTFT, ttft <= MAX_TTFT
    yield "tokens/s of a client beside a batch", rate, MIN_RATE, rate >= MIN_RATE
    yield "tokens/s of a batch alone ÷ closed loop", throughput, MIN_THROUGHPUT, throughput >= MIN_THROUGHPUT


def section(figures: Mapping[str, Any]) -> list[str]:
    setup, points = figures["setup"], figures["points"]
    rows = []
    for name in (ALONE, BESIDE):
        median, compared = points[name]["median"], points[name]["to_clients"]
        cells = [f"{number(median[figure])} ({ratio(compared[figure])})" for figure in COLUMNS.values()]
        rows.append([name, *cells, number(median.get("batch_tokens_per_s"))])
    return [
        "## Batches",
        "",
        f"{setup['clients']} clients, idle for half of the time, send {setup['requests']} prompts of about "
        f"{setup['prompt_tokens']} tokens and get {setup['new_tokens']} tokens each, alone and while a batch of "
        f"{setup['lines']:,} lines is under way, {setup['under_way']} of them at a time, without a minimum share for "
        f"them. Then {setup['lines_alone']} lines as a batch, and as requests of "
        f"{setup['slots']} clients in a closed loop. Medians of {setup['rounds']} rounds; in parentheses the median of "
        "the ratios within each round.",
        "",
        *table(
            ["", "measured", "bar", ""],
            [
                [name, ratio(value), ratio(bar), "met" if is_met else "missed"]
                for name, value, bar, is_met in bars(points)
            ],
        ),
        "",
        *table(["", *COLUMNS, "batch tokens/s"], rows),
        "",
        *table(
            ["", "tokens/s"],
            [
                [
                    name,
                    f"{number(points[name]['median']['tokens_per_s'])} "
                    f"({ratio(points[name]['to_clients']['tokens_per_s'])})",
                ]
                for name in (CLOSED_LOOP, BATCH)
            ],
        ),
    ]
