"""Percentiles, medians and ratios. PURE."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

Figures = Mapping[str, float]


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest value that at least `percent` % of the values don't exceed (nearest rank); NaN if there are none."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def median(values: Iterable[float]) -> float:
    """Median of the values other than NaN; NaN if there are none."""
    numbers = [value for value in values if not math.isnan(value)]
    return statistics.median(numbers) if numbers else math.nan


def ratio(value: float, reference: float) -> float:
    return value / reference if reference else math.nan


def medians(rounds: Sequence[Figures]) -> dict[str, float]:
    """Median of each figure over rounds. A figure may be missing in some rounds."""
    names = dict.fromkeys(name for figures in rounds for name in figures)
    return {name: median(figures[name] for figures in rounds if name in figures) for name in names}


def paired_ratios(rounds: Sequence[Figures], references: Sequence[Figures]) -> dict[str, float]:
    """Median over rounds of each figure's ratio within a round, so that a slowdown of a whole round cancels out."""
    pairs = list(zip(rounds, references, strict=False))
    names = dict.fromkeys(name for figures, reference in pairs for name in figures if name in reference)
    return {
        name: median(
            ratio(figures[name], reference[name])
            for figures, reference in pairs
            if name in figures and name in reference
        )
        for name in names
    }


def interleaved(systems: Sequence[str], rounds: int) -> list[tuple[int, str]]:
    """A B C, then B C A, …: each system comes once a round, and none is always first."""
    if not systems:
        return []
    return [
        (number, systems[(number + place) % len(systems)]) for number in range(rounds) for place in range(len(systems))
    ]
