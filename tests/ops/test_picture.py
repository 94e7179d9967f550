"""The dashboard's panels, drawn with made-up series; `tests.ops.dashboard` draws those of a real Prometheus."""

import struct
from pathlib import Path

from tests.ops import picture
from tests.ops.dashboard import DASHBOARD
from tests.ops.prometheus import Series

VARIABLES = {"__rate_interval": "10s", "sidecar": "one", "worker": "other", "model": "tiny"}
LABELS = {"le": "4.0", "model": "tiny", "instance": "here:1", "endpoint": "/v1/completions", "status": "200"}


def test_every_panel_is_drawn(tmp_path: Path) -> None:
    expressions = []

    def query(expression: str) -> list[Series]:
        expressions.append(expression)
        return [Series(LABELS, [0.0, 1.0, 2.0], [1.0, float("nan"), 3.0])]

    panels = picture.panels(DASHBOARD, VARIABLES, query)
    assert not [expression for expression in expressions if "$" in expression]
    assert all(panel.lines and not panel.empty for panel in panels if panel.kind != "row")
    memory = next(panel for panel in panels if panel.title == "Memory and processor of the sidecar")
    assert [(line.name, line.unit, line.right) for line in memory.lines] == [
        ("resident here:1", "bytes", False),
        ("processors here:1", "short", True),
    ]
    assert memory.lines[0].series.values[0] == 1 / 2**20
    path = tmp_path / "dashboard.png"
    picture.draw(panels, "AnyServe", path)
    size = struct.unpack(">II", path.read_bytes()[16:24])
    assert size[0] == picture.COLUMNS * picture.WIDTH


def test_a_panel_without_data_is_empty() -> None:
    assert all(panel.empty for panel in picture.panels(DASHBOARD, VARIABLES, lambda _: []))
