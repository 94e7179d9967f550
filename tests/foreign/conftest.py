"""One fixture for each server, and a table of the results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter

from tests.foreign import bench as bench_module
from tests.foreign.backends import BACKENDS, Backend
from tests.foreign.bench import Bench

pytest.register_assert_rewrite("tests.foreign.checks")

from tests.foreign.checks import CHECKS  # noqa: E402  # after its assertions are rewritten

PROPERTY = "check"
RESULTS: dict[tuple[str, str], bool] = {}
"""Whether a check held, by backend and check."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and "check" in item.fixturenames:
            backend = item.callspec.params["bench"]
            assert isinstance(backend, Backend)
            item.user_properties.append((PROPERTY, (backend.name, item.callspec.params["check"])))


@pytest.fixture(scope="session", params=BACKENDS, ids=lambda backend: backend.name)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder: Path = tmp_path_factory.mktemp(request.param.name)
    with bench_module.running(request.param, folder) as running:
        yield running


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keeps the result; the user property has the backend and the check."""
    for name, key in report.user_properties:
        if name == PROPERTY and (report.when == "call" or report.failed):
            assert isinstance(key, tuple)
            RESULTS[key] = report.passed and RESULTS.get(key, True)


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    if not RESULTS:
        return
    terminalreporter.section("foreign backends")
    widths = [max(len(backend.name) for backend in BACKENDS), *map(len, CHECKS)]
    terminalreporter.line(_row(["", *CHECKS], widths))
    for backend in BACKENDS:
        marks = {None: "", True: "yes", False: "NO"}
        row = [marks[RESULTS.get((backend.name, check))] for check in CHECKS]
        if any(row):
            terminalreporter.line(_row([backend.name, *row], widths))
    terminalreporter.line(f"{sum(RESULTS.values())} of {len(RESULTS)} checks held")


def _row(cells: list[str], widths: list[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
