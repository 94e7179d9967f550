"""The whole harness with our worker and sidecar, for seconds. Checks the form of the results, not the speed."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.background import BATCH as BATCH_ALONE
from benchmarks.background import DEFAULT_SHARE, NO_SHARE, ORDINARY, WITHOUT
from benchmarks.batches import ALONE, BATCH, BESIDE, CLOSED_LOOP
from benchmarks.databases import KINDS
from benchmarks.forms import CHAT, FORMS
from benchmarks.neighbour import ALL_BUSY, AUTO, ONE_BUSY, QUIET, QUOTA
from benchmarks.replicas import AFFINITY, CONVERSATIONS, HOT, LOAD_ALONE
from benchmarks.sampler_loop import SAMPLERS
from benchmarks.samplers import VOCABULARIES
from benchmarks.serving import RAW
from benchmarks.store import NO_STORE, NOT_STORED, PLAIN_CHAT, STORED, STREAM
from benchmarks.systems import BEFORE, OURS
from benchmarks.translator import STEP_BATCHES, STREAM_EACH, WAYS

ROOT = Path(__file__).resolve().parents[2]
PARTS = (
    *("raw", "serving", "translator", "neighbour", "samplers", "fairness", "background", "replicas", "store"),
    "batches",
)
LIMIT_S = 600.0


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("results")
    command = [sys.executable, "-m", "benchmarks", "--smoke", "--systems", OURS, "--results", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "results.json",
        "throughput.svg",
        "first-token.svg",
    }
    written: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return written


def figures(results: dict[str, Any], part: str) -> Any:
    return results[part]["figures"]


def test_every_part_has_a_stamp(results: dict[str, Any]) -> None:
    assert tuple(results) == PARTS
    for part in results.values():
        stamp = part["stamp"]
        assert stamp["cores"] >= 1
        assert stamp["wake_up_us"] > 0
        assert stamp["commit"]
        assert stamp["packages"]["llama-cpp-python"] != "none"


def test_raw(results: dict[str, Any]) -> None:
    found = figures(results, "raw")
    assert set(found["decode"]) == {"1 at 75", "2 at 75", "1 at 200"}
    assert set(found["prompt"]) == {"32 at 0", "16 at 200"}
    assert all(
        rate > 0 for table in (found["decode"], found["prompt"]) for by in table.values() for rate in by.values()
    )


def test_serving(results: dict[str, Any]) -> None:
    found = figures(results, "serving")
    assert found["problems"] == {}
    assert set(found["workloads"]) == {"short, 1", "short, 2", "n=8", "long arrival", "shared prefix"}
    for name, by_system in found["workloads"].items():
        median = by_system[OURS]["median"]
        assert median["errors"] == 0, name
        assert {"cpu_s_worker", "cpu_s_sidecar"} <= set(median)
    short = found["workloads"]["short, 2"]
    assert set(short) == {OURS, RAW}
    assert short[OURS]["median"]["tokens"] == 6 * 4
    assert short[OURS]["to_raw"]["tokens_per_s"] > 0
    assert found["workloads"]["n=8"][OURS]["median"]["choices"] == 8
    assert found["workloads"]["shared prefix"][OURS]["median"]["warm_of_cold"] > 0


def test_translator(results: dict[str, Any]) -> None:
    points = figures(results, "translator")["points"]
    for name in ("paced, 1", "paced, 4", "saturated, 1", "saturated, 4"):
        assert set(points[name]) == set(WAYS)
        for way in WAYS:
            found = points[name][way]["median"]
            assert (found["missing"], found["errors"]) == (0, 0), (name, way)
            assert 0 < found["chunks_per_token"] <= 1
    assert points["unary"][STEP_BATCHES]["median"]["requests_per_s"] > 0
    assert points["latency"][STEP_BATCHES]["median"]["direct_p50_ms"] > 0
    assert points["memory"][STEP_BATCHES]["median"]["at_rest_mib"] > 10
    assert points["start"][STEP_BATCHES]["median"]["first_answer_s"] > 0


def test_api_forms(results: dict[str, Any]) -> None:
    points = figures(results, "translator")["forms"]["points"]
    assert set(points) == {"paced, 4", "saturated, 4", "unary"}
    for name, by_form in points.items():
        assert list(by_form) == list(FORMS)
        for form, found in by_form.items():
            assert found["median"]["errors"] == 0, (name, form)
            assert found["median"].get("missing", 0) == 0, (name, form)
            assert found["to_chat"]["tokens_per_cpu_s" if name != "unary" else "cpu_ms_per_request"] > 0
    assert points["saturated, 4"][CHAT]["to_chat"]["tokens_per_cpu_s"] == 1


def test_neighbour(results: dict[str, Any]) -> None:
    found = figures(results, "neighbour")
    assert found["problems"] == {}
    assert set(found["points"]) == {f"{condition}, 1" for condition in (QUIET, ONE_BUSY, ALL_BUSY, QUOTA)}
    for point in found["points"].values():
        assert set(point["median"]) == {AUTO, f"{OURS}, 1"}
        assert all(median["tokens_per_s"] > 0 for median in point["median"].values())
        assert math.isfinite(point["auto_of_best"][OURS]["ratio"])
    assert found["reaction"]["1"]["rates"]


def test_samplers(results: dict[str, Any]) -> None:
    found = figures(results, "samplers")
    assert set(found["vocabularies"]) == {str(n_vocab) for n_vocab in VOCABULARIES}
    for by_sampler in found["vocabularies"].values():
        assert set(by_sampler) == set(SAMPLERS)
        assert all(us["us"] > 0 and us["chain_us"] > 0 for us in by_sampler.values())
    assert set(found["steps_by_sampler"]) == set(SAMPLERS)
    for by in found["steps_by_sampler"].values():
        assert all(by[kind]["tokens_per_s"] > 0 for kind in ("ours", "chain"))


def test_background(results: dict[str, Any]) -> None:
    found = figures(results, "background")
    assert set(found["points"]) == {*WITHOUT.values(), NO_SHARE, DEFAULT_SHARE, ORDINARY, BATCH_ALONE}
    for point in (NO_SHARE, DEFAULT_SHARE, BATCH_ALONE):
        assert found["points"][point]["ratio"]


def test_fairness(results: dict[str, Any]) -> None:
    points = figures(results, "fairness")["points"]
    defaults = ("beside 2, default options", "alone, default options")
    assert set(points) == {"alone", "beside 1", "beside 2", *defaults}
    for by_system in points.values():
        found = by_system[OURS]["median"]
        assert found["errors"] == 0
        assert found["ttft_p50_s"] > 0
    assert points["beside 1"][OURS]["median"]["long_ttft_s"] > 0


def test_replicas(results: dict[str, Any]) -> None:
    points = figures(results, "replicas")["points"]
    assert set(points) == {CONVERSATIONS, HOT}
    for point, by_name in points.items():
        assert set(by_name) == {AFFINITY, LOAD_ALONE}
        for name, found in by_name.items():
            median = found["median"]
            assert (median["errors"], median["cut"]) == (0, 0), (point, name)
            assert median["requests"] == {CONVERSATIONS: 4, HOT: 6}[point]
            assert 1 / 3 <= median["busiest_share"] <= 1
        assert by_name[AFFINITY]["to_load_alone"]["tokens_per_s"] > 0
    assert points[CONVERSATIONS][AFFINITY]["median"]["cached"] > 0


def test_store(results: dict[str, Any]) -> None:
    found = figures(results, "store")
    names = (NO_STORE, *KINDS)
    for kind in (STORED, NOT_STORED, STREAM, f"first text of a {STREAM}", PLAIN_CHAT):
        assert all(found["latency"][f"{kind}, {name}"]["p50_ms"] > 0 for name in names)
    assert found["commits"]["fsync_p50_ms"] > 0
    assert set(found["filled"]) == set(KINDS)
    for filled in found["filled"].values():
        assert set(filled["reads"]) == {"GET response", "input_items", "conversation items"}
        assert filled["sweep"]["swept"] == 40
        assert filled["sweep"]["write_max_ms"] >= filled["sweep"]["write_p50_ms"] > 0
        assert filled["quiet"]["loop_max_ms"] > 0
    assert set(found["memory"]) == {f"{name}_mib" for name in names}


def test_versions(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "versions", "--smoke", "--before", str(ROOT)]
    subprocess.run([*command, "--results", str(tmp_path)], cwd=ROOT, check=True, timeout=LIMIT_S)
    found = figures(json.loads((tmp_path / "results.json").read_text()), "versions")
    assert set(found) == {STEP_BATCHES, STREAM_EACH}
    for by_version in found.values():
        assert set(by_version) == {OURS, BEFORE}
        for version in by_version.values():
            assert version["median"]["call_p50_ms"] > 0
            assert version["median"]["errors"] == 0
            assert version["to_before"]["call_p50_ms"] > 0


def test_versions_need_another_checkout() -> None:
    command = [sys.executable, "-m", "benchmarks", "versions", "--smoke"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 1
    assert "--before CHECKOUT" in done.stderr


def test_batches(results: dict[str, Any]) -> None:
    points = figures(results, "batches")["points"]
    assert set(points) == {ALONE, BESIDE, CLOSED_LOOP, BATCH}
    for name, found in points.items():
        assert found["median"]["errors"] == 0, name
        assert found["median"]["tokens_per_s"] > 0, name
    assert points[BESIDE]["to_clients"]["ttft_p95_ms"] > 0
    assert points[BESIDE]["median"]["batch_tokens_per_s"] >= 0
