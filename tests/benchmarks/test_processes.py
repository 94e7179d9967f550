"""Children of a measurement must end with it, since a leftover process would slow down later measurements."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import cgroup
from benchmarks.neighbour import hogs
from benchmarks.processes import Job, Process, tree
from scripts.errors import Fail

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]


def alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(*pids: int) -> bool:
    deadline = time.monotonic() + 30
    while any(map(alive, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_a_parent_that_is_killed_leaves_nothing_behind() -> None:
    program = (
        "import sys, time; from benchmarks.neighbour import hogs\n"
        "from benchmarks.processes import tree\nimport os\n"
        "with hogs([0]):\n    print(*tree(os.getpid())[1:], flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    children = list(map(int, parent.stdout.readline().split()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert children
    assert gone(*children)


def test_hogs_run_on_their_cores_and_end() -> None:
    core, others = max(os.sched_getaffinity(0)), set(tree(os.getpid()))
    with hogs([core], share=0.1):
        running = set(tree(os.getpid())) - others
        assert [os.sched_getaffinity(pid) for pid in running] == [{core}]
    assert gone(*running)


def test_end_kills_the_whole_tree() -> None:
    process = Process([sys.executable, "-c", f"import subprocess; subprocess.Popen({SLEEP!r}).wait()"])
    process.wait_for("up", 30)
    family = tree(process.popen.pid)
    assert len(family) == 2
    assert process.resident_bytes() > 1 << 20
    process.end()
    assert gone(*family)


def test_cpu_seconds_of_a_tree() -> None:
    work = "import time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True); time.sleep(600)"
    process = Process([sys.executable, "-c", work])
    try:
        process.wait_for("done", 60)
        assert process.cpu_seconds() >= 0.3
    finally:
        process.end()


def test_an_early_end_is_reported_with_its_output() -> None:
    process = Process([sys.executable, "-c", "raise SystemExit('no such thing')"])
    try:
        with pytest.raises(Fail, match="exit code 1:\nno such thing"):
            process.wait_for("ready", 30)
    finally:
        process.end()


def test_a_job_answers() -> None:
    assert Job([sys.executable, "-c", "print(input()[::-1])"], b"abc").answer(30).strip() == b"cba"


def test_a_failed_job_is_reported_with_its_output() -> None:
    with pytest.raises(Fail, match="broken"):
        Job([sys.executable, "-c", "raise SystemExit('broken')"], b"").answer(30)


def test_a_job_that_exceeds_its_time_is_ended() -> None:
    job = Job(SLEEP, b"")
    with pytest.raises(Fail, match="not done after"):
        job.answer(0.2)
    assert gone(job.popen.pid)


def test_a_quota_is_removed_afterwards() -> None:
    """The folder is None if no group can be created."""
    with cgroup.quota(1.5) as folder:
        if folder is not None:
            process = Process(SLEEP, cgroup=folder)
            process.wait_for("up", 30)
            assert str(process.popen.pid) in (folder / "cgroup.procs").read_text().split()
            process.end()
    assert folder is None or not folder.exists()


def test_reading_the_output_does_not_change_it() -> None:
    program = "import os, time\nfor i in range(20_000): os.write(1, b'%d ' % i)\ntime.sleep(600)"
    process = Process([sys.executable, "-c", program])
    try:
        process.wait_for("19999 ", 60.0)
        assert process.output == "".join(f"{i} " for i in range(20_000))
    finally:
        process.end(0.0)


def test_cpu_seconds_include_children_that_have_ended() -> None:
    work = "import time\nwhile time.process_time() < 0.3: pass"
    program = (
        f"import subprocess, sys, time\nsubprocess.run([sys.executable, '-c', {work!r}])\nprint('done', flush=True)"
    )
    process = Process([sys.executable, "-c", f"{program}\ntime.sleep(600)"])
    try:
        process.wait_for("done", 60)
        assert process.cpu_seconds() >= 0.28  # in ticks of 10 ms for user and system time each
    finally:
        process.end()
