import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from benchmarks import plots, report, serving
from benchmarks.systems import OURS
from tests.benchmarks import canned

PAGE = report.markdown(canned.results())


def row(page: str, begin: str) -> list[str]:
    line = next(line for line in page.splitlines() if line.startswith(f"| {begin} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_table_has_its_columns() -> None:
    tables = [line for line in PAGE.splitlines() if line.startswith("|")]
    width = 0
    for before, line in zip(["", *tables], tables, strict=False):
        cells = line.count("|")
        if line.startswith("|---"):
            assert cells == before.count("|")
            width = cells
        elif width and not before.startswith("|---"):
            width = cells if cells != width and line not in before else width
    assert len(tables) > 20


def test_ratios_are_shown_beside_figures() -> None:
    cells = row(PAGE.partition("1 client\n")[2], OURS)
    # 170 is the median of 110 and 230. The ratios are 1.1 and 1.15, those to the raw limit 88 % and 92 %.
    assert cells[1] == "170 (1.12)"
    assert "90 %" in cells
    assert "worker 1.50, sidecar 0.250" in cells


def test_problems_are_reported() -> None:
    assert "examples/server could not be measured: it ended\n" in PAGE
    assert "3.00 cut" in PAGE
    assert "1.00 choice(s)" in PAGE


def test_the_raw_limit_is_the_best_layout() -> None:
    assert row(PAGE, "1 at 75")[1:] == ["102", "a", "102", "90.0"]


def test_auto_is_compared_with_the_best_fixed_count() -> None:
    cells = row(PAGE, "quiet, 1 client")
    assert cells[-2:] == [f"{(0.9 + 0.95) / 2:.2f}", "2.00"]


def test_api_forms_are_compared_with_chat() -> None:
    # The median of 1,000 and 333 tokens per CPU-second, and of the ratios within each round.
    assert row(PAGE, "64 streams, saturated: tokens per CPU-second")[1:] == [
        "667 (1.00)",
        "533 (0.80)",
        "833 (1.25), 7.00 missing",
    ]
    assert row(PAGE, "whole answers: CPU ms per request")[1:] == ["2.00 (1.00)", "2.50 (1.25)", "1.60 (0.80)"]


def test_results_from_before_the_api_forms_can_be_shown() -> None:
    part = canned.translator_part()
    del part["forms"]
    assert "API forms" not in "\n".join(report.translator(part))


def test_samplers_are_compared_with_greedy_and_with_the_chain() -> None:
    steps, logits = PAGE.partition("## Samplers")[2].split("Processor time")
    assert row(steps, "typical_p") == ["typical_p", "364 (1.10)", "88.9 (4.50)", "2.20", "9.00", "0.100", "0.100"]
    assert row(logits, "typical_p") == ["typical_p", "100 (25.00)", "300"]


def test_affinity_is_compared_with_load_alone() -> None:
    [line] = [line for line in PAGE.splitlines() if line.startswith("| conversations | affinity |")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2:] == ["85 %", "1,500 (0.42)", "10.0 (1.00)", "20.0 (1.00)", "135 (1.35)", "45 %", ""]


def test_the_store_is_compared_with_bars() -> None:
    # The medians of 1 and 1.5 ms, and of 5 and 7 ms less 4 ms for the disk.
    assert row(PAGE, "SQLite adds, p50 ms")[1:] == ["1.25", "1.50", "met"]
    assert row(PAGE, "PostgreSQL adds less the fsync, p50 ms")[1:] == ["2.00", "3.00", "met"]
    assert row(PAGE, "pause of a writer during a sweep, PostgreSQL, ms")[1:] == ["60.0", "50.0", "missed"]
    assert row(PAGE, "chat beside SQLite file, ratio of p50")[1:] == ["1.44", "1.05", "missed"]


def test_a_batch_is_compared_with_clients_alone() -> None:
    # The medians of the ratios within a round: 1.05 and 1.25; 0.98 and 0.96.
    assert row(PAGE, "first token p95 beside a batch")[1:] == ["1.15", "1.10", "missed"]
    assert row(PAGE, "tokens/s of a batch alone ÷ closed loop")[1:] == ["0.97", "0.95", "met"]
    assert row(PAGE, "beside a batch")[-1] == "40.0"


def test_each_part_has_the_stamp_of_its_machine() -> None:
    assert PAGE.count("Measured 2026-01-02 03:04 UTC in 60 s, commit 0123456789ab, on A Processor") == 8


def test_an_updated_part_keeps_the_others(tmp_path: Path) -> None:
    for name, part in canned.results().items():
        report.update(tmp_path, name, part)
    before = json.loads((tmp_path / "results.json").read_text())
    anew = {"stamp": {**canned.STAMP, "commit": "ffff"}, "figures": canned.raw_part()}
    del anew["stamp"]["wake_up_us"]  # as in results of an older version
    report.update(tmp_path, "raw", anew)
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["raw"]["stamp"]["commit"] == "ffff"
    assert written["serving"] == before["serving"]
    page = (tmp_path / "README.md").read_text()
    assert "commit ffff" in page
    assert page.count("commit 0123456789ab") == 7


def test_missing_measurements_are_null(tmp_path: Path) -> None:
    part = canned.serving_part()
    part["workloads"]["short, 1"][OURS]["median"]["gap_p99_ms"] = math.nan
    report.update(tmp_path, "serving", {"stamp": canned.STAMP, "figures": part})
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["serving"]["figures"]["workloads"]["short, 1"][OURS]["median"]["gap_p99_ms"] is None
    # The file can be read again.
    report.update(tmp_path, "raw", {"stamp": canned.STAMP, "figures": canned.raw_part()})


def test_lines_of_a_plot() -> None:
    found = plots.lines(canned.serving_part(), "tokens_per_s", without=[serving.RAW])
    assert found[OURS] == ([1, 8], [170, 300])
    assert serving.RAW not in found


def test_plots_are_the_same_for_the_same_figures(tmp_path: Path) -> None:
    drawn = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        plots.serving(canned.serving_part(), tmp_path / name)
        drawn.append([(tmp_path / name / file).read_bytes() for file in ("throughput.svg", "first-token.svg")])
    assert drawn[0] == drawn[1]
    texts = "".join(ElementTree.fromstring(drawn[0][0]).itertext())
    assert OURS in texts
    assert serving.RAW in texts
