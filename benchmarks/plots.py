"""Plots throughput and latency against concurrency as SVG, one line per system. Imports matplotlib when it draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving import RAW

Line = tuple[list[int], list[float]]


def serving(figures: dict[str, Any], folder: Path) -> None:
    draw(
        folder / "throughput.svg",
        "Throughput, short prompts",
        [("tokens/s", lines(figures, "tokens_per_s"))],
    )
    draw(
        folder / "first-token.svg",
        "Latency, short prompts",
        [
            ("first token p50, ms", lines(figures, "ttft_p50_ms", without=(RAW,))),
            ("first token p95, ms", lines(figures, "ttft_p95_ms", without=(RAW,))),
            ("gap p99, ms", lines(figures, "gap_p99_ms", without=(RAW,))),
        ],
        log=True,
    )


def lines(figures: dict[str, Any], figure: str, without: Sequence[str] = ()) -> dict[str, Line]:
    """Concurrencies and values by system, as far as they were measured. PURE."""
    found: dict[str, Line] = {}
    for name, by_system in figures["workloads"].items():
        word, _, clients = name.partition(", ")
        if word != "short":
            continue
        for system, results in by_system.items():
            value = results["median"].get(figure)
            if value is not None and system not in without:
                xs, ys = found.setdefault(system, ([], []))
                xs.append(int(clients))
                ys.append(value)
    return found


def draw(path: Path, title: str, panels: Sequence[tuple[str, dict[str, Line]]], *, log: bool = False) -> None:
    import matplotlib

    # The same figures must give the same file: no random ids, no date. Text stays text.
    matplotlib.rcParams.update({"svg.hashsalt": "anyserve", "svg.fonttype": "none", "font.size": 9})
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(panels), 3.6), layout="constrained")
    FigureCanvasSVG(figure)
    figure.suptitle(title)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (label, by_system) in zip(all_axes, panels, strict=True):
        ticks = sorted({x for xs, _ in by_system.values() for x in xs})
        for system, (xs, ys) in by_system.items():
            style = {"linestyle": "--", "color": "black"} if system == RAW else {"marker": "o", "markersize": 3}
            axes.plot(xs, ys, label=system, **style)
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("clients")
        axes.set_ylabel(label)
        if log:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.grid(visible=True, alpha=0.3)
    all_axes[0].legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})
