"""Draws a dashboard's panels with matplotlib, in Grafana's layout."""

import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.stats import percentile
from tests.ops.prometheus import Series

COLUMNS = 24
"""Columns of Grafana's grid."""
WIDTH = 64
HEIGHT = 29
"""Pixels of a cell of the grid: WIDTH by HEIGHT."""
DPI = 100
LEGEND = 5
"""Maximum entries of a legend; a picture can't be scrolled."""
BACKGROUND, PANEL, TEXT, FAINT, GRID = "#111217", "#181b1f", "#ccccdc", "#8e8e9b", "#2b2d33"
COLORS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#ffa6b0", "#c8f2c2", "#ffee52")

MIB = 2**20
Query = Callable[[str], list[Series]]


@dataclass
class Line:
    name: str
    series: Series
    unit: str
    right: bool
    """Whether the line has its own axis, on the right."""


@dataclass
class Panel:
    title: str
    kind: str
    x: int
    y: int
    w: int
    h: int
    unit: str = ""
    maximum: float | None = None
    stacked: bool = False
    fill: float = 0.0
    lines: list[Line] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        return not any(math.isfinite(value) for line in self.lines for value in line.series.values)


def panels(dashboard: Path, variables: Mapping[str, str], query: Query) -> list[Panel]:
    """Returns the panels with the results of their queries. Longer variable names are replaced first: one may be a
    prefix of another."""

    def run_query(expression: str) -> list[Series]:
        for name in sorted(variables, key=len, reverse=True):
            expression = expression.replace(f"${name}", variables[name])
        return query(expression)

    return [_panel(panel, run_query) for panel in json.loads(dashboard.read_text())["panels"]]


def _panel(definition: dict[str, Any], query: Query) -> Panel:
    grid, config = definition["gridPos"], definition.get("fieldConfig", {})
    defaults = config.get("defaults", {})
    custom = defaults.get("custom", {})
    panel = Panel(
        definition["title"],
        definition["type"],
        grid["x"],
        grid["y"],
        grid["w"],
        grid["h"],
        unit=defaults.get("unit", ""),
        maximum=defaults.get("max"),
        stacked=custom.get("stacking", {}).get("mode") == "normal",
        fill=custom.get("fillOpacity", 0) / 100,
    )
    overridden = {
        override["matcher"]["options"]: {property_["id"]: property_["value"] for property_ in override["properties"]}
        for override in config.get("overrides", ())
        if override["matcher"]["id"] == "byFrameRefID"
    }
    for target in definition.get("targets", ()):
        override_values = overridden.get(target["refId"], {})
        right = override_values.get("custom.axisPlacement") == "right"
        for series in query(target["expr"]):
            name = _fill_in(target["legendFormat"], series.labels)
            unit = override_values.get("unit", panel.unit)
            if unit == "bytes":  # in MiB, so that an axis has round values
                series = Series(series.labels, series.times, [value / MIB for value in series.values])
            panel.lines.append(Line(name, series, unit, right))
    return panel


def _fill_in(legend: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), legend).strip()


# ---- Units


def in_unit(value: float, unit: str) -> str:
    """Formats a value approximately as Grafana does."""
    match unit:
        case "percentunit":
            return f"{value * 100:.3g} %"
        case "s":
            return f"{value:.3g} s" if value >= 1 or not value else f"{value * 1000:.3g} ms"
        case "bytes":
            return f"{value:.4g} MiB"
        case "reqps":
            return f"{value:.3g} req/s"
        case _:
            return f"{value / 1000:.3g} K" if value >= 1000 else f"{value:.3g}"


# ---- Drawing


def draw(drawn: list[Panel], title: str, path: Path) -> None:
    import matplotlib
    from PIL import Image  # matplotlib needs PIL as well

    matplotlib.rcParams.update({"font.size": 7.5, "axes.linewidth": 0.5})
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    head = 1.4  # height of the title, in cells
    rows = max(panel.y + panel.h for panel in drawn) + head
    figure = Figure(figsize=(COLUMNS * WIDTH / DPI, rows * HEIGHT / DPI), dpi=DPI, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    figure.text(0.008, 1 - 0.5 * head / rows, title, color=TEXT, fontsize=11, va="center")
    for panel in drawn:
        left, right = panel.x / COLUMNS, (panel.x + panel.w) / COLUMNS
        top, bottom = 1 - (panel.y + head) / rows, 1 - (panel.y + panel.h + head) / rows
        if panel.kind == "row":
            figure.text(left + 0.008, (top + bottom) / 2, f"▾ {panel.title}", color=TEXT, fontsize=9, va="center")
        else:
            _draw(figure, panel, (left, right), (bottom, top))
    drawing = io.BytesIO()
    figure.savefig(drawing, facecolor=BACKGROUND, metadata={"Software": None})
    image = Image.open(drawing).convert("RGB")
    # The quantized image has less than half the size; MAXCOVERAGE keeps the colors of thin lines.
    image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)


def _draw(figure: Any, panel: Panel, x: tuple[float, float], y: tuple[float, float]) -> None:
    from matplotlib.patches import Rectangle

    (left, right), (bottom, top) = x, y
    wide, high = right - left, top - bottom
    gap_x, gap_y = 0.003, high * 0.018
    corner = (left + gap_x, bottom + gap_y)
    frame = Rectangle(corner, wide - 2 * gap_x, high - 2 * gap_y, facecolor=PANEL, edgecolor=GRID, zorder=-1)
    figure.add_artist(frame)
    figure.text(left + 0.009, top - high * 0.09, panel.title, color=TEXT, fontsize=8.5, va="center")
    twin = any(line.right for line in panel.lines)
    axes = figure.add_axes(
        (left + wide * 0.13, bottom + high * 0.29, wide * (0.72 if twin else 0.83), high * 0.52), facecolor=PANEL
    )
    _style(axes, panel.unit)
    if panel.empty:
        axes.text(0.5, 0.5, "No data", color=FAINT, transform=axes.transAxes, ha="center", va="center")
    elif panel.kind == "heatmap":
        _heatmap(axes, panel)
    else:
        _lines(figure, axes, panel, (left + 0.009, bottom + high * 0.035))


def _style(axes: Any, unit: str) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.tick_params(colors=FAINT, length=0, pad=3)
    axes.grid(visible=True, color=GRID, linewidth=0.6)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_axisbelow(True)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[3, 6, 10], integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: in_unit(value, unit)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{int(at) // 60}:{int(at) % 60:02d}"))


def _lines(figure: Any, axes: Any, panel: Panel, legend_at: tuple[float, float]) -> None:
    twin = None
    entries = []
    base: dict[float, float] = {}
    for line, color in zip(panel.lines, _colors(), strict=False):
        target = axes
        if line.right:
            if twin is None:
                twin = axes.twinx()
                _style(twin, line.unit)
                twin.grid(visible=False)
            target = twin
        times, values = line.series.times, line.series.values
        baselines = [base.get(at, 0.0) if panel.stacked else 0.0 for at in times]
        values = [value + baseline for value, baseline in zip(values, baselines, strict=True)]
        if panel.stacked:
            base |= dict(zip(times, values, strict=True))
        (drawn,) = target.plot(times, values, color=color, linewidth=1.1)
        if panel.fill and not line.right:
            target.fill_between(times, baselines, values, color=color, alpha=panel.fill, linewidth=0)
        finite = [value for value in line.series.values if math.isfinite(value)]
        if finite:
            entries.append((max(finite), line.name, drawn))
    for axis in filter(None, (axes, twin)):
        _, top = axis.get_ylim()
        axis.set_ylim(0, panel.maximum or max(top, 1e-9))
        axis.margins(x=0)
    if len(entries) > LEGEND:
        entries.sort(key=lambda entry: -entry[0])
    names = [name for _, name, _ in entries[:LEGEND]]
    if len(entries) > LEGEND:
        names[-1] += f"  + {len(entries) - LEGEND} more"
    figure.legend(
        [handle for _, _, handle in entries[:LEGEND]],
        names,
        loc="lower left",
        bbox_to_anchor=legend_at,
        ncols=2 if len(names) > 3 else len(names),
        fontsize=7,
        labelcolor=TEXT,
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        handlelength=1.2,
        columnspacing=1.2,
        labelspacing=0.25,
    )


def _heatmap(axes: Any, panel: Panel) -> None:
    """Draws a histogram's buckets, which are cumulative."""
    lines = sorted(panel.lines, key=lambda line: float(line.series.labels["le"]))
    previous_counts: dict[float, float] = {}
    rows, names = [], []
    times = max((line.series.times for line in lines), key=len)
    for line in lines:
        counts = dict(zip(line.series.times, line.series.values, strict=True))
        rows.append([max(0.0, counts.get(at, 0.0) - previous_counts.get(at, 0.0)) for at in times])
        names.append(line.name.removesuffix(".0"))
        previous_counts = counts
    used = max((number for number, row in enumerate(rows) if any(row)), default=0) + 1
    maximum = percentile([value for row in rows for value in row if value], 98)
    axes.pcolormesh(times, range(used), rows[:used], cmap="Blues_r", vmin=0, vmax=maximum, shading="nearest")
    axes.set_yticks(range(used), names[:used])
    axes.grid(visible=False)


def _colors() -> Iterator[str]:
    while True:
        yield from COLORS
