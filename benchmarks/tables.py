"""Cells and tables of the results, in Markdown. PURE."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def number(value: float | None, digits: int = 3) -> str:
    """The value with `digits` significant digits; a dash if it could not be measured."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(places, 3)}f}"


def ratio(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.2f}"


def remarks(median: Mapping[str, float]) -> str:
    """The faults of a point; empty if it had none."""
    found = [f"{number(median[name])} {name}" for name in ("errors", "cut", "missing") if median.get(name)]
    if median.get("choices", 8) != 8:
        found.append(f"{number(median['choices'])} choice(s)")
    return ", ".join(found)


def percent(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.0f} %"
