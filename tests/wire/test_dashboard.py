"""The Grafana dashboard queries metrics and labels that exist in a real scrape of both programs."""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from anyserve_worker.telemetry.metrics import Metrics
from tests.anyserve_worker.fakes import FakeRunner
from tests.wire.exposition import Scrape
from tests.wire.sidecar import app_for
from tests.wire.test_worker_streams import wait_for_n_requests
from tests.wire.worker import worker

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "anyserve.json"
SELECTOR = re.compile(r"([a-z][a-z0-9_]*)\{([^}]*)\}")
ADDED_LABELS = {"job", "instance"}
"""Labels that Prometheus adds."""


@pytest.fixture(scope="module")
def dashboard() -> Any:
    return json.loads(DASHBOARD.read_text())


def panels(dashboard: Any) -> list[Any]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def selectors(dashboard: Any) -> list[tuple[str, set[str]]]:
    """Returns the metric of every selector, and the labels that it filters by."""
    pairs = []
    for panel in panels(dashboard):
        for target in panel["targets"]:
            in_expression = SELECTOR.findall(target["expr"])
            assert in_expression, target["expr"]
            pairs += [(name, set(re.findall(r"(\w+)\s*[=!]~?", labels))) for name, labels in in_expression]
    return pairs


class Pipeline:
    """A pipeline as metrics read it."""

    name = "p"
    n_running = n_waiting = n_restarts = memory = 1


async def scrapes() -> list[Scrape]:
    async with worker({"tiny": FakeRunner()}) as running, app_for(running.port, store="sqlite://") as sidecar:
        for stream in (False, True):
            await sidecar.complete(prompt="x", stream=stream)
        await wait_for_n_requests(running, 0)
        metrics = Metrics(running.repository, [Pipeline()])
        return [Scrape((await sidecar.get("/metrics")).body), Scrape(metrics.text())]


async def test_every_metric_and_label_exists(dashboard: Any) -> None:
    labels: dict[str, set[str]] = {}
    for scrape in await scrapes():
        for name in scrape.names:
            labels[name] = labels.get(name, set()).union(*scrape.series(name))
    queried = selectors(dashboard)
    assert len(queried) > 40
    assert not [name for name, _ in queried if name not in labels]
    assert not [(name, by - labels[name]) for name, by in queried if by - labels[name] - ADDED_LABELS]


async def test_the_variables_query_metrics_and_labels_that_exist(dashboard: Any) -> None:
    names = set().union(*(scrape.names for scrape in await scrapes()))
    queries = [v["definition"] for v in dashboard["templating"]["list"] if v["type"] == "query"]
    matches = [re.fullmatch(r"label_values\((\w+), (job|model)\)", query) for query in queries]
    assert queries
    assert all(match and match[1] in names for match in matches), queries


async def test_the_documentation_has_every_metric_and_no_other() -> None:
    documented = set(
        re.findall(r"^\| `(\w+)` \|", (DASHBOARD.parents[2] / "docs" / "metrics.md").read_text(), re.MULTILINE)
    )
    families = [family for scrape in await scrapes() for family in scrape.families.values()]
    assert not [family.name for family in families if family.name.startswith("vllm:")], "they need an option"
    own_families = [family for family in families if not family.name.startswith("process_")]
    assert documented == {
        f"{family.name}_total" if family.type == "counter" else family.name for family in own_families
    }


def test_every_variable_of_an_expression_is_defined(dashboard: Any) -> None:
    defined = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard["panels"])))
    assert used - {"__rate_interval"} <= defined


def test_panels_have_unique_ids_and_do_not_overlap(dashboard: Any) -> None:
    all_panels = dashboard["panels"]
    assert len({panel["id"] for panel in all_panels}) == len(all_panels)
    for first, second in combinations([panel["gridPos"] for panel in all_panels], 2):
        beside = first["x"] + first["w"] <= second["x"] or second["x"] + second["w"] <= first["x"]
        above = first["y"] + first["h"] <= second["y"] or second["y"] + second["h"] <= first["y"]
        assert beside or above, (first, second)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in all_panels)
