"""Percentiles, medians and ratios. PURE."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

Figures = Mapping[str, float]


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest value that at least `percent` % of the values don't exceed (nearest rank); NaN of none."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def median(values: Iterable[float]) -> float:
    """Of those that are numbers; NaN of none."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else math.nan


def ratio(value: float, reference: float) -> float:
    return value / reference if reference else math.nan


def medians(rounds: Sequence[Figures]) -> dict[str, float]:
    """Figure by figure, over rounds; a figure may be missing in some."""
    names = dict.fromkeys(name for figures in rounds for name in figures)
    return {name: median(figures[name] for figures in rounds if name in figures) for name in names}


def paired_ratios(rounds: Sequence[Figures], references: Sequence[Figures]) -> dict[str, float]:
    """Median over rounds of the ratio within each round: what slows a whole round down cancels out."""
    pairs = list(zip(rounds, references, strict=False))
    names = dict.fromkeys(name for ours, theirs in pairs for name in ours if name in theirs)
    return {
        name: median(ratio(ours[name], theirs[name]) for ours, theirs in pairs if name in ours and name in theirs)
        for name in names
    }


def interleaved(systems: Sequence[str], rounds: int) -> list[tuple[int, str]]:
    """A B C, then B C A, …: each system comes once a round, and none is always first."""
    if not systems:
        return []
    return [
        (number, systems[(number + place) % len(systems)]) for number in range(rounds) for place in range(len(systems))
    ]
