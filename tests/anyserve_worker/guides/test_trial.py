"""Trial processes: their verdicts, the reasons why one ends, and its replacement."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from anyserve_worker.core.errors import Draining, TrialLost, TrialOverrun
from anyserve_worker.guides.translation import GrammarError
from anyserve_worker.guides.trial import Trials

pytestmark = pytest.mark.slow

SLOW = ("json_schema", '{"type":"integer","multipleOf":999983}')
CHAIN = ("lark", "start: a0\n" + "".join(f"a{i}: a{i + 1}\n" for i in range(4000)) + 'a4000: "x"')
"""A grammar that exhausts the stack."""
ENDLESS = 1000.0
"""Seconds; longer than any guide here runs before its process is killed."""


@pytest.fixture
def trials() -> Iterator[Trials]:
    trials = Trials(49152, [b"<|call|>"])
    yield trials
    trials.close()


def works(trials: Trials) -> bool:
    return "ab" in trials.run("regex", "[ab]", 0.5)


def processes(parent: int) -> list[int]:
    pids = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            pids.append(int(stat.parent.name))
    return pids


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def server_pid(trials: Trials) -> int:
    assert trials._server
    return trials._server._process.pid


def wait_for_a_process(parent: int) -> int:
    deadline = time.monotonic() + 20
    while not (pids := processes(parent)):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return pids[0]


def test_good_guides_share_a_process(trials: Trials) -> None:
    for _ in range(3):
        assert works(trials)
    assert trials.n_forked == 1
    assert len(processes(server_pid(trials))) == 1


def test_an_error_in_a_guide_does_not_end_its_process(trials: Trials) -> None:
    for _ in range(2):
        with pytest.raises(GrammarError, match="regex"):
            trials.run("regex", "(", 0.5)
    assert works(trials)
    assert trials.n_forked == 1


def test_an_overrun_ends_only_its_own_process(trials: Trials) -> None:
    assert works(trials)
    first_server = server_pid(trials)
    for seconds in (0.01, 0.05):
        with pytest.raises(TrialOverrun):
            trials.run(*SLOW, seconds)
        assert works(trials)
    assert server_pid(trials) == first_server
    assert trials.n_forked == 3
    assert len(processes(first_server)) == 1


def test_a_guide_that_exhausts_the_stack_is_rejected(trials: Trials) -> None:
    with pytest.raises(GrammarError, match="too complex"):
        trials.run(*CHAIN, 0.5)
    assert works(trials)


def test_trials_run_in_parallel(trials: Trials) -> None:
    trials.start()
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(trials.run, *SLOW, ENDLESS)
        trial_pid = wait_for_a_process(server_pid(trials))
        assert works(trials)
        assert not slow.done()
        os.kill(trial_pid, signal.SIGKILL)
        with pytest.raises(TrialLost):
            slow.result()
    assert works(trials)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_trial_killed_from_outside_is_lost(trials: Trials, number: int) -> None:
    trials.start()
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(trials.run, *SLOW, ENDLESS)
        os.kill(wait_for_a_process(server_pid(trials)), number)
        with pytest.raises(TrialLost):
            slow.result()
    assert works(trials)


def test_an_idle_process_killed_from_outside_is_replaced(trials: Trials) -> None:
    assert works(trials)
    os.kill(wait_for_a_process(server_pid(trials)), signal.SIGKILL)
    while processes(server_pid(trials)):
        time.sleep(0.001)
    assert works(trials)
    assert trials.n_forked == 2


def test_a_server_killed_from_outside_is_replaced(trials: Trials) -> None:
    assert works(trials)
    first_server = server_pid(trials)
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(trials.run, *SLOW, ENDLESS)
        trial_pid = wait_for_a_process(first_server)
        os.kill(first_server, signal.SIGKILL)
        os.kill(trial_pid, signal.SIGKILL)
        with pytest.raises(TrialLost):
            slow.result()
    assert works(trials)
    assert server_pid(trials) != first_server
    assert processes(first_server) == []


def test_closing_ends_running_trials(trials: Trials) -> None:
    trials.start()
    running = server_pid(trials)
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(trials.run, *SLOW, ENDLESS)
        trial_pid = wait_for_a_process(running)
        trials.close()
        with pytest.raises(Draining):
            slow.result()
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in (running, trial_pid)):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    with pytest.raises(Draining):
        works(trials)
    trials.close()


def test_each_thread_gets_the_verdict_of_its_own_guide(trials: Trials) -> None:
    start = threading.Barrier(4)

    def run(i: int) -> str:
        if i < 4:
            start.wait(20)
        try:
            return trials.run(*SLOW, 0.01) if i % 2 else trials.run("regex", f"[ab]{{{i}}}", 0.5)
        except TrialOverrun:
            return "overrun"

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(run, range(24)))
    assert answers[1::2] == ["overrun"] * 12
    assert all(f"{{{i}}}" in answers[i] for i in range(0, 24, 2))


def test_all_processes_end_with_a_worker_that_is_killed() -> None:
    script = (
        "import os, signal\n"
        "from anyserve_worker.guides.trial import Trials\n"
        "trials = Trials(300, [])\n"
        "trials.run('regex', '[ab]', 0.5)\n"
        "print(trials._server._process.pid, trials._idle[0].pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=60)
    pids = [int(pid) for pid in result.stdout.split()]
    assert len(pids) == 2, result.stderr
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.001)
