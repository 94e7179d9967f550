"""Usable processors: the affinity, and quotas of cgroups v1 and v2, read from trees of files."""

import os
from pathlib import Path

import pytest

from anyserve_worker.threads.processors import IdleMeter, cgroup_quota, detect_cpus, usable_cpus


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2 = {"proc/self/cgroup": "0::/pod/container\n"}
V1 = {"proc/self/cgroup": "12:pids:/x\n5:cpu,cpuacct:/pod/container\n3:cpuset:/y\n1:name=systemd:/z\n"}


def v1(group: str, quota: str, period: str = "100000") -> dict[str, str]:
    directory = f"sys/fs/cgroup/cpu{group}"
    return {f"{directory}/cpu.cfs_quota_us": quota + "\n", f"{directory}/cpu.cfs_period_us": period + "\n"}


CASES: dict[str, tuple[dict[str, str], float | None]] = {
    "no cgroups at all": ({}, None),
    "v2, no limit": (V2 | {"sys/fs/cgroup/pod/container/cpu.max": "max 100000\n"}, None),
    "v2, no cpu controller": (V2, None),
    "v2": (V2 | {"sys/fs/cgroup/pod/container/cpu.max": "250000 100000\n"}, 2.5),
    "v2, other period": (V2 | {"sys/fs/cgroup/pod/container/cpu.max": "30000 20000\n"}, 1.5),
    "v2, the parent is tighter": (
        V2 | {"sys/fs/cgroup/pod/container/cpu.max": "400000 100000", "sys/fs/cgroup/pod/cpu.max": "200000 100000"},
        2.0,
    ),
    "v2, the parent is wider": (
        V2 | {"sys/fs/cgroup/pod/container/cpu.max": "100000 100000", "sys/fs/cgroup/pod/cpu.max": "800000 100000"},
        1.0,
    ),
    "v2, only the top one": (V2 | {"sys/fs/cgroup/cpu.max": "300000 100000"}, 3.0),
    "v2, in a container with its own namespace": (
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"},
        1.5,
    ),
    "v2, in a container that sees the host's path": (V2 | {"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5),
    "v2, a sibling's limit": (V2 | {"sys/fs/cgroup/other/cpu.max": "100000 100000\n"}, None),
    "v1, no limit": (V1 | v1("/pod/container", "-1"), None),
    "v1": (V1 | v1("/pod/container", "150000"), 1.5),
    "v1, nested": (V1 | v1("/pod/container", "400000") | v1("/pod", "100000") | v1("", "-1"), 1.0),
    "v1, in a container that sees the host's path": (V1 | v1("", "200000", "50000"), 4.0),
    "v1, not of the cpu controller": ({"proc/self/cgroup": "3:cpuset:/y\n"} | v1("/y", "100000"), None),
    "v1, period missing": (V1 | {"sys/fs/cgroup/cpu/pod/container/cpu.cfs_quota_us": "100000\n"}, None),
    "both, cpu still with version 1": (
        {"proc/self/cgroup": V1["proc/self/cgroup"] + "0::/init.scope\n"} | v1("/pod/container", "350000"),
        3.5,
    ),
    "both, the tighter one": (
        {"proc/self/cgroup": V1["proc/self/cgroup"] + "0::/a\n", "sys/fs/cgroup/a/cpu.max": "120000 100000"}
        | v1("/pod/container", "350000"),
        1.2,
    ),
    "a path with a colon": (
        {"proc/self/cgroup": "0::/a:b\n", "sys/fs/cgroup/a:b/cpu.max": "100000 100000"},
        1.0,
    ),
}


@pytest.mark.parametrize(("files", "quota"), CASES.values(), ids=CASES.keys())
def test_the_quota_is_the_tightest_of_the_cgroup_and_its_parents(
    tmp_path: Path, files: dict[str, str], quota: float | None
) -> None:
    assert cgroup_quota(tree(tmp_path, files)) == quota


@pytest.mark.parametrize(
    ("affinity", "quota", "usable"),
    [
        (8, None, 8),
        (1, None, 1),
        (8, 4.0, 4),
        (8, 3.01, 4),
        (8, 1.5, 2),
        (8, 0.5, 1),
        (2, 16.0, 2),
        (1, 1.0, 1),
    ],
)
def test_usable_cpus_are_limited_by_affinity_and_quota(affinity: int, quota: float | None, usable: int) -> None:
    assert usable_cpus(affinity, quota) == usable


def test_detection_uses_the_affinity_and_the_quota(tmp_path: Path) -> None:
    assert detect_cpus(tmp_path) == len(os.sched_getaffinity(0))
    tree(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"})
    assert detect_cpus(tmp_path) == 1


def test_detection_works_on_this_machine() -> None:
    assert 1 <= detect_cpus() <= len(os.sched_getaffinity(0))


def test_the_idle_meter_covers_processors_of_the_affinity_since_the_last_call(tmp_path: Path) -> None:
    def stat(busy: int, idle: int) -> dict[str, str]:
        lines = [f"cpu{cpu} {busy} 0 0 {idle} 0 0 0 0 0 0" for cpu in sorted(os.sched_getaffinity(0))]
        return {"proc/stat": "\n".join(["cpu  9 9 9 9 9 9 9 9 9 9", *lines, "cpu9999 0 0 0 500 0 0 0 0", "intr 1 2 3"])}

    n = len(os.sched_getaffinity(0))
    meter = IdleMeter(tree(tmp_path, stat(100, 100)))
    assert meter() is None
    tree(tmp_path, stat(130, 110))
    assert meter() == pytest.approx(n * 0.25)
    tree(tmp_path, stat(130, 150))
    assert meter() == pytest.approx(n)


def test_idle_processors_are_unknown_without_proc(tmp_path: Path) -> None:
    assert IdleMeter(tmp_path)() is None
